"""The form of the question how much of each domain to train on."""

from __future__ import annotations

from typing import Any

import gradio as gr

from influence.curvature.inverse import CurvatureOptions
from workbench.influence_runs import data_answers
from workbench.influence_runs.balance_rounds import Rule
from workbench.influence_runs.data_settings import BalanceSettings
from workbench.influence_runs.ideal_rounds import IdealOptions
from workbench.influence_runs.outlooks.data_outlook import DataOutlook
from workbench.page.tabs.data import field_values as values
from workbench.page.tabs.data.form import QuestionForm, short
from workbench.page.tabs.train_display import first_plan
from workbench.page.tabs.wiring import EVERY_CHANGE
from workbench.plans import plan_files, plan_text
from workbench.session.session import Session

ESTIMATORS = [
    ("EK-FAC", "ekfac"),
    ("K-FAC", "kfac"),
    ("none (identity)", "identity"),
    ("exact, for small models", "exact"),
]
METHODS: list[tuple[str, Rule]] = [
    ("IDEAL: rounds, by influence", "ideal"),
    ("DoReMi: a proxy, by losses", "doremi"),
    ("DOGE: a proxy, by gradients", "doge"),
    ("stratified: equal shares", "stratified"),
]
DEFAULTS = BalanceSettings("")


def build(session: Session) -> QuestionForm:
    """Builds the fields. All but the method and the plan are IDEAL's, and hidden without it."""
    new = DEFAULTS
    with gr.Row(elem_classes="data-fields wide"):
        method = gr.Dropdown(
            METHODS,
            value=new.method,
            label="Method",
            elem_id="data-balance-method",
            min_width=220,
        )
    # Not in the label, which would be under the copy button on a narrow page.
    gr.HTML(
        '<p class="facts-line">The sources of the plan are the domains; its validation sets are '
        "what should improve.</p>"
    )
    plan = gr.Code(
        "",
        language="yaml",
        label="Plan (YAML)",
        lines=10,
        max_lines=24,
        wrap_lines=True,
        interactive=True,
        elem_id="data-balance-plan",
        elem_classes="plan-text",
        buttons=["copy"],
    )
    with gr.Row(elem_classes="data-fields") as of_ideal:
        rounds = short("Rounds of resizing", "balance-rounds", str(new.rounds))
        m = short("Largest change, share", "balance-m", f"{new.m:g}")
        sample = short("Examples per set", "balance-sample", str(new.sample), "all")
        seed = short("Seed", "balance-seed", str(new.seed))
    with (
        gr.Accordion("Advanced", open=False, elem_id="data-balance-advanced") as advanced,
        gr.Row(elem_classes="data-fields"),
    ):
        estimator = gr.Dropdown(
            ESTIMATORS,
            value=new.estimator,
            label="Inverse curvature",
            elem_id="data-balance-estimator",
            min_width=160,
        )
        layers = short("Layers: mlp, all or a pattern", "balance-layers", new.layers)
        keep = short("Steadiest layers only", "balance-keep", "", "all of them")
        keep_total = gr.Checkbox(
            label="keep the number of examples", elem_id="data-balance-total", min_width=160
        )
        centre = gr.Checkbox(
            label="relative to all of the data", elem_id="data-balance-centre", min_width=160
        )
    fields = [method, plan, rounds, m, sample, seed, estimator, layers, keep, keep_total, centre]
    # Also when an earlier run fills in its method.
    method.change(
        lambda method: [gr.update(visible=method == "ideal")] * 2,
        method,
        [of_ideal, advanced],
        **EVERY_CHANGE,
    )

    def arrive(method: Rule, plan: str | None, *_: Any) -> list[Any]:
        # What is written there stays.
        text = gr.skip() if (plan or "").strip() else mixing_plan(session)
        return [gr.skip(), text, *[gr.skip()] * (len(fields) - 2)]

    def estimate(settings: BalanceSettings, name: str) -> DataOutlook:
        from workbench.influence_runs.outlooks.balance_outlook import balance_outlook

        plan = plan_files.check(session.workdir, session.folders, settings.plan)
        out = session.workdir.data_run("balance", name) / data_answers.ROUNDS
        return balance_outlook(plan, out, settings.method, options_of(settings), session.ledger)

    return QuestionForm("balance", fields, read, fill, arrive, estimate)


def mixing_plan(session: Session) -> str:
    """Returns the plan that the form starts with: the open base, all open datasets mixed."""
    text = first_plan(session)
    return plan_text.with_schedule(text, {"kind": "mixing"}) if text.strip() else ""


def options_of(settings: BalanceSettings) -> IdealOptions:
    """Returns the options of IDEAL's rounds."""
    estimator: Any = settings.estimator
    return IdealOptions(
        rounds=settings.rounds,
        m=settings.m,
        keep_total=settings.keep_total,
        centre=settings.centre,
        layers=settings.layers,
        keep=settings.keep,
        sample=settings.sample,
        curvature=CurvatureOptions(estimator=estimator, seed=settings.seed),
    )


def read(*given: Any) -> BalanceSettings:
    """Makes settings of the values of the fields, in their order.

    Raises:
        SessionError: a value is wrong.
    """
    method, plan, rounds, m, sample, seed, estimator, layers, keep, keep_total, centre = given
    if method != "ideal":
        # The other fields are hidden, so nothing that is left in them may count.
        return BalanceSettings(plan or "", method)
    return BalanceSettings(
        plan=plan or "",
        method=method,
        rounds=values.whole(rounds, "Rounds of resizing"),
        m=values.share(m, "Largest change, share"),
        keep_total=bool(keep_total),
        centre=bool(centre),
        estimator=estimator,
        layers=(layers or "").strip() or DEFAULTS.layers,
        keep=values.optional_whole(keep, "Steadiest layers only"),
        sample=values.optional_whole(sample, "Examples per set", 2),
        seed=values.whole(seed, "Seed", 0),
    )


def fill(settings: BalanceSettings) -> list[Any]:
    """Returns the values of the fields for settings."""
    return [
        settings.method, settings.plan, str(settings.rounds), f"{settings.m:g}",
        _text(settings.sample), str(settings.seed), settings.estimator, settings.layers,
        _text(settings.keep), settings.keep_total, settings.centre,
    ]  # fmt: skip


def _text(value: int | None) -> str:
    return "" if value is None else str(value)
