"""Hidden states on the compare tab: a t-SNE map of a model's examples at one layer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import gradio as gr
from markupsafe import Markup

from plumbing import units
from workbench.jobs import hidden_states
from workbench.page.tabs import job_panel, markup
from workbench.page.tabs.compare_html import silhouettes_html
from workbench.page.tabs.wiring import (
    QUIET,
    Board,
    Updates,
    at_rest,
    clock_options,
    current_recipe,
    one_at_a_time,
    start_clocks,
    with_error_dialog,
)
from workbench.plots.hidden_states import states_figure
from workbench.session.session import Session

THIS = "this composition"
ABOUT = (
    "Each point is one validation example: the mean hidden state of its answer, laid out by "
    f"t-SNE (first {hidden_states.EXAMPLES} examples of each open dataset). The silhouette is "
    "computed on the states themselves: near 1 if the groups are far apart, near 0 if they overlap."
)
BY = [
    ("dataset", hidden_states.DATASETS),
    ("response length (CommonIT)", hidden_states.LENGTHS),
    ("cluster, k-means (CommonIT)", hidden_states.CLUSTERS),
]
NOT_YET = "Not drawn yet for this model, layer and grouping."


def build(session: Session, board: Board, tab: gr.Tab, timer: gr.Timer) -> None:
    """Builds the map and its controls. Drawing is a job because a large model needs time."""
    gr.HTML(Markup("<h2>Hidden states</h2><p class='lead'>{}</p>").format(ABOUT))
    with gr.Row(elem_id="states-controls"):
        which = gr.Dropdown(
            [THIS, "base"], value=THIS, label="Model", elem_id="states-model", min_width=160
        )
        layer = gr.Dropdown(
            [("last", -1)], value=-1, label="Layer", elem_id="states-layer", min_width=120
        )
        by = gr.Dropdown(
            BY, value=hidden_states.DATASETS, label="Group by", elem_id="states-by", min_width=160
        )
    with gr.Row(elem_id="states-row"):
        go = gr.Button("Draw", size="sm", elem_id="states-go", scale=0, min_width=96)
        stop = gr.Button("Cancel", size="sm", elem_id="states-cancel", scale=0, min_width=96)
    panel = gr.HTML(elem_id="states-job")
    plot = gr.Plot(show_label=False, container=False, elem_id="states", visible=False)
    facts = gr.HTML(elem_id="states-facts")
    clock = gr.Timer(1.0, active=False)
    previous = gr.State(())

    def recipe(which: str, digest: str) -> Any:
        if which == THIS:
            return current_recipe(session, digest)
        return session.recipe(session.models.preset("base" if which == "base" else f"only:{which}"))

    def show(which: str, layer: int, by: str, theme: str, digest: str) -> Updates:
        nothing = {plot: gr.Plot(visible=False), facts: Markup("")}
        # Asked first: a job that ends meanwhile is then shown once more, with its map.
        active = any(job.kind == hidden_states.KIND for job in session.jobs.active())
        if not session.ready or not session.models.data:
            return {**nothing, panel: job_panel.newest(session, hidden_states.KIND)}
        # `find` only reads a map that a job has drawn before, so every control may call it.
        picture = hidden_states.find(session, recipe(which, digest), _number(session, layer), by)
        job = Markup("")
        if active or picture is None:
            job = job_panel.panel(session, hidden_states.KIND, NOT_YET)
        if picture is None:
            return {**nothing, panel: job, clock: gr.Timer(active=active)}
        names = list(dict.fromkeys([*session.models.names, *session.models.data]))
        names = names if by == hidden_states.DATASETS else sort_groups(picture.labels)
        return {
            plot: gr.Plot(states_figure(picture, names, theme == "dark"), visible=True),
            facts: facts_html(picture, names),
            panel: job,
            clock: gr.Timer(active=active),
        }

    def tick(before: Any, *values: Any) -> Updates:
        """Updates everything when the state of the job changes, else only the job panel."""
        job = next(iter(session.jobs.recent(hidden_states.KIND, limit=1)), None)
        now = (job.id, job.state) if job else ()
        if now == before:
            return {panel: job_panel.newest(session, hidden_states.KIND)}
        return {**show(*values), previous: now}

    def draw(which: str, layer: int, by: str, digest: str) -> Markup:
        hidden_states.submit(session, recipe(which, digest), _number(session, layer), by)
        return job_panel.newest(session, hidden_states.KIND)

    def cancel() -> list[Any]:
        for job in session.jobs.active():
            if job.kind == hidden_states.KIND:
                session.jobs.cancel(job.id)
        return [job_panel.newest(session, hidden_states.KIND), gr.Timer(active=True)]

    def arrive() -> list[Any]:
        if not session.ready:
            return [gr.skip(), gr.skip()]
        models, deep = session.models, hidden_states.depth(session.models)
        layers = [
            ("last", -1),
            ("embeddings", 0),
            *((str(number), number) for number in range(1, deep)),
        ]
        return [
            gr.Dropdown([THIS, "base", *models.names], value=THIS),
            gr.Dropdown(layers, value=-1),
        ]

    asked = [which, layer, by, board.theme, board.digest]
    view = [plot, facts, panel, clock]
    wire = one_at_a_time("states")
    tab.select(with_error_dialog(arrive), None, [which, layer], **QUIET).then(
        with_error_dialog(show), asked, view, **wire
    )
    gr.on(
        [which.input, layer.input, by.input, board.theme.change, board.digest.change],
        with_error_dialog(show),
        asked,
        view,
        **wire,
    )
    clock.tick(
        with_error_dialog(tick), [previous, *asked], [*view, previous], **clock_options("states")
    )
    drawn = [which, layer, by, board.digest]
    pressed = go.click(
        with_error_dialog(draw),
        drawn,
        panel,
        js=at_rest(drawn, board),
        trigger_mode="once",
        **QUIET,
    )
    start_clocks(pressed, [clock, timer])
    stop.click(with_error_dialog(cancel), None, [panel, clock], queue=False, **QUIET)


def _number(session: Session, layer: int | None) -> int:
    """Returns the index of a layer, counted from the embeddings; -1 or None is the last one.

    The list exists before the model, so it cannot number the last layer.
    """
    return hidden_states.depth(session.models) if layer is None or layer < 0 else layer


def sort_groups(groups: Sequence[str]) -> list[str]:
    """Returns the distinct groups, sorted by the numbers in their names: 9 to 30 after 3 to 4."""
    return sorted(
        set(groups), key=lambda name: [int(number) for number in re.findall(r"\d+", name)]
    )


def facts_html(picture: Any, names: list[str]) -> Markup:
    """Returns caption, silhouettes and a button that copies the points as CSV."""
    score = picture.silhouette
    lines = [
        [label, *(f"{value:.6g}" for value in point)]
        for label, point in zip(picture.labels, picture.points, strict=True)
    ]
    copier = markup.copier(
        "copy points as CSV",
        markup.csv(
            ["dataset" if picture.by == hidden_states.DATASETS else "group", "x", "y"], lines
        ),
    )
    number = Markup("")
    if score is not None:
        number = Markup('<p class="silhouette">Silhouette <b class="num">{}</b></p>{}').format(
            units.number(score.value, 2), silhouettes_html(score.by_label, names, picture.by)
        )
    return Markup('<p class="facts-line" id="states-caption">{}</p>{}{}').format(
        picture.caption, copier, number
    )
