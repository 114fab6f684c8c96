"""A training from the page: its outlook, start, stop and resume over a reload, and its result on the sliders."""

import json

import pytest
import yaml

pytestmark = pytest.mark.browser

PLAN = """base: demo/base
sources: {cot: demo/data/cot}
validation: {cot: demo/data/cot}
settings: {steps: 24, rate: 1e-3, batch: 4, precision: fp32, device: cpu, evaluate_every: 8, seed: 5}
schedule: {kind: experts}
"""


@pytest.fixture
def text(demo):
    """The plan's text, with the folder of the demo."""
    return PLAN.replace("demo/", f"{demo}/")


def write(page, text):
    """Write the plan's text, and leave it."""
    page.locator("#train-plan .cm-content").click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(text)
    page.locator("#train-name :is(input, textarea)").click()


def plan(page):
    """The plan as the page shows it."""
    return yaml.safe_load("\n".join(page.locator("#train-plan .cm-line").all_inner_texts()))


def shown(page, words):
    """Wait for the plan's text to say something."""
    page.wait_for_function(
        "w => document.querySelector('#train-plan .cm-content').textContent.includes(w)", arg=words
    )


def choose(page, field, name):
    """Choose from a list."""
    page.locator(f"{field} input").click()
    page.get_by_role("option", name=name).click()


def open_tab(page, steps):
    steps.tab(page, "Train")
    shown(page, "experts")
    page.locator("#train-plan-state .message").wait_for()


@pytest.mark.slow
def test_fields_write_the_plan_and_the_plan_the_fields(trainer, open_page, steps, demo, text):
    page = open_page(at=trainer)
    open_tab(page, steps)
    assert list(plan(page)["sources"]) == ["cot", "dialog", "mathqa", "p3", "sni"]
    page.get_by_label("Batch size").fill("16")
    page.get_by_label("Seed").fill("3")  # before the page has what the batch made of the text
    shown(page, "batch: 16")
    shown(page, "seed: 3")
    page.get_by_label("LoRA rank (0: off)").fill("4")
    shown(page, "rank: 4")
    choose(page, "#train-kind", "DMT: special")
    page.get_by_role("combobox", name="Special sources").wait_for()
    choose(page, "#train-special", "cot")
    shown(page, "- cot")
    page.get_by_label("k (one or more values)").fill("1/4 1/16")
    page.get_by_label("k (one or more values)").blur()
    shown(page, "- 1/16")
    found = plan(page)
    assert found["schedule"] == {
        "kind": "dmt", "special": ["cot"], "general": ["dialog", "mathqa", "p3", "sni"], "k": ["1/4", "1/16"],
    }  # fmt: skip
    assert found["settings"]["lora"] == {"rank": 4} and (
        found["settings"]["batch"],
        found["settings"]["seed"],
    ) == (
        16,
        3,
    )
    write(page, text.replace("rate:", "rte:"))
    problem = page.locator("#train-plan-state .message.problem")
    problem.get_by_text("line 4, settings.rte").wait_for()
    assert "did you mean 'rate'?" in problem.inner_text()
    write(page, text)
    page.locator("#train-plan-state .message:not(.problem)", has_text="1 step: cot").wait_for()
    assert page.get_by_label("Length", exact=True).input_value() == "24"
    assert page.locator("#train-kind input").input_value().startswith("one checkpoint per source")
    write(page, text.replace(f"{demo}/base", "/etc"))
    problem.get_by_text("/etc is outside the folders this server may read").wait_for()


@pytest.mark.slow
def test_a_training_is_stopped_resumed_over_a_reload_and_added_to_the_sliders(
    trainer, open_page, steps, text
):
    page = open_page(at=trainer)
    open_tab(page, steps)
    write(
        page,
        text.replace("steps: 24", "steps: 120").replace("evaluate_every: 8", "evaluate_every: 30"),
    )
    page.locator("#train-plan-state .message:not(.problem)", has_text="1 step: cot").wait_for()
    page.locator("#train-name :is(input, textarea)").fill("mine")
    page.wait_for_function(
        "document.querySelector('#train-line code')?.textContent.includes('trained/mine')"
    )
    assert page.locator("#train-line code").inner_text().startswith("dem train ")
    page.locator("#train-outlook").click()
    page.locator("#train-total").wait_for(timeout=120_000)
    assert "1 step to train: ≈" in page.locator("#train-total").inner_text()
    assert "estimate" in page.locator("#train-total").inner_text()
    assert page.locator("#train-cost tbody td").nth(1).inner_text() == "1,200"
    page.locator("#train-start").dblclick()
    page.locator("#train-curve .js-plotly-plot").wait_for(timeout=120_000)
    page.locator("#train-stop").click()
    page.locator("#train-job .job.cancelled").wait_for(timeout=60_000)
    page.locator("#train-job .message", has_text="Press Resume to continue").wait_for()
    out = trainer.workdir / "trained" / "mine"
    assert list(out.glob("cot.training/checkpoint-*/whole.json")) and not (out / "cot").exists()
    page.locator("#train-start").click()  # what was begun is not begun anew
    page.get_by_text("Press Resume, or give another name").first.wait_for()

    page.reload()
    steps.exact(page)
    open_tab(page, steps)
    choose(page, "#train-runs", "mine")
    shown(page, "steps: 120")
    page.locator("#train-job .message", has_text="Press Resume to continue").wait_for()
    page.locator("#train-resume").click()
    page.locator("#train-job .job.running").wait_for(timeout=60_000)
    page.locator("#preset-uniform").click()  # the sliders stay free
    steps.settled(page, [0.2] * 5)
    page.reload()  # and the training goes on without the page
    steps.exact(page)
    open_tab(page, steps)
    choose(page, "#train-runs", "mine")
    page.locator("#train-job .job.done").wait_for(timeout=240_000)
    page.locator("#train-facts", has_text="cot, update 120 · training loss").wait_for()
    facts = page.locator("#train-facts").inner_text()
    assert "validation loss cot " in facts and " % of tokens right" in facts
    page.wait_for_function(
        "document.querySelector('#train-curve .js-plotly-plot').data.length === 2"
    )
    page.locator("#theme-toggle").click()
    page.wait_for_function(
        "document.querySelector('#train-curve .js-plotly-plot').layout.font.color === '#e6e9ee'"
    )
    kept = json.loads((out / "cot" / "training.json").read_text())
    assert kept["settings"]["steps"] == 120

    page.get_by_role("checkbox", name="cot", exact=True).check()
    page.locator("#train-add").click()
    page.locator(
        "#train-added .message.done", has_text="cot-2 is on the sliders, at ω = 0"
    ).wait_for(timeout=60_000)
    page.wait_for_function(
        "document.querySelectorAll('#sliders .omega input[type=range]').length === 6"
    )
    steps.settled(page, [0.2] * 5 + [0.0])  # what was composed stays
    steps.exact(page)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.slow
def test_the_tab_is_narrow_and_accessible(trainer, open_page, steps, theme, text):
    from axe_playwright_python.sync_playwright import Axe

    page = open_page(360, 800, theme, at=trainer)
    open_tab(page, steps)
    write(page, text.replace("rate:", "rte:"))
    page.locator("#train-plan-state .message.problem").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    found = {
        one["id"]: [node["html"][:160] for node in one["nodes"][:4]]
        for one in Axe().run(page).response["violations"]
    }
    assert not found, json.dumps(found, indent=1)
