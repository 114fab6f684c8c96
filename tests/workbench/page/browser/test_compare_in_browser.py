"""The compare tab as a reader uses it: measure what is missing, add a model, move to a row, draw the states."""

import json
import re

import pytest

pytestmark = pytest.mark.browser


def rows(page):
    return [
        " ".join(row.split()) for row in page.locator("#compare-table tbody tr").all_inner_texts()
    ]


def compared(open_page, steps, small, **more):
    page = open_page(at=small, **more)
    steps.tab(page, "Compare")
    page.locator("#compare-table tbody tr").first.wait_for()
    page.locator("#compare-line code").wait_for()
    return page


@pytest.mark.slow
def test_everything_is_measured_added_and_shown(small, open_page, steps):
    page = compared(open_page, steps, small)
    # the page itself measured the base and what it stands at
    page.locator("#compare-missing", has_text="losses: ada, bob, lora").wait_for()
    assert [row.split()[0] for row in rows(page)] == ["base", "ada", "bob", "lora", "this"]
    page.locator("#compare-folder input").click()
    page.get_by_role("option", name=re.compile("mixed")).click()
    page.locator("#compare-add").click()
    page.locator("#compare-table tbody tr", has_text="mixed").wait_for()
    assert page.locator("#compare-mixed input:checked").count() == 1
    page.locator("#compare-suite input").click()
    page.get_by_role("option", name="demo", exact=True).click()
    page.locator("#compare-limit :is(input, textarea)").fill("2")
    page.locator("#compare-limit :is(input, textarea)").blur()
    page.locator("#compare-missing", has_text="benchmark demo, first 2: base").wait_for()
    line = page.locator("#compare-line code").inner_text()
    assert line.startswith("dem compare ") and line.endswith(
        "--suite demo --limit 2 --measure --cost"
    )
    page.locator("#compare-go").click()
    page.locator("#compare-job .job").wait_for()
    page.reload()  # the job goes on, and the page finds it again
    steps.exact(page)
    steps.tab(page, "Compare")
    page.locator("#compare-job .job.done").wait_for(timeout=120_000)
    page.locator("#compare-missing .message.done").wait_for()
    assert rows(page)[-1].startswith("mixed model remove") and "–" not in rows(page)[-1]
    assert page.locator("#compare-table .best[title]").count() >= 4
    page.locator("#compare-table .copy", has_text="CSV").click()
    copied = page.evaluate("navigator.clipboard.readText()").splitlines()
    assert (
        copied[0].startswith("model,kind,formula,recipe,ada loss,ada loss stderr")
        and len(copied) == 7
    )
    head = page.locator("#compare-table .sort", has_text="ada")
    head.click()
    assert page.locator("#compare-table th[aria-sort=ascending]").count() == 1
    losses = [float(re.search(r"\d+\.\d{3}", row)[0]) for row in rows(page)]
    assert losses == sorted(losses) and len(losses) == 6


@pytest.mark.slow
def test_a_row_moves_the_sliders_and_is_undone(small, open_page, steps):
    page = compared(open_page, steps, small)
    before = steps.on_page(page)
    page.get_by_label("Move the sliders to bob").click()
    steps.settled(page, [0.0, 1.0, 0.0])
    assert steps.on_server(page) == [0.0, 1.0, 0.0]
    page.locator("#compare-table .notes", has_text="the current composition is bob").wait_for()
    page.locator("#undo").click()
    steps.settled(page, before)


@pytest.mark.slow
def test_hidden_states_are_drawn_in_both_themes_and_kept(small, open_page, steps):
    page = compared(open_page, steps, small)
    page.locator("#states-model input").click()
    page.get_by_role("option", name="base", exact=True).click()
    page.locator("#states-job", has_text="Not drawn yet").wait_for()
    page.locator("#states-go").click()
    page.locator("#states .js-plotly-plot").wait_for(timeout=90_000)
    names = page.evaluate(
        "document.querySelector('#states .js-plotly-plot').data.map(one => one.name)"
    )
    assert names == ["ada", "bob", "lora"]
    page.locator("#states-caption", has_text="69 examples of 3 datasets").wait_for()
    assert page.locator(".silhouette b").inner_text().replace("−", "-")
    light = page.evaluate("document.querySelector('#states .js-plotly-plot').layout.font.color")
    page.locator("#theme-toggle").click()
    page.wait_for_function(
        "before => document.querySelector('#states .js-plotly-plot').layout.font.color !== before",
        arg=light,
    )
    page.locator("#states-layer input").click()
    page.get_by_role("option", name="embeddings").click()
    page.locator("#states .js-plotly-plot").wait_for(state="hidden")
    page.locator("#states-layer input").click()
    page.get_by_role("option", name="last").click()
    page.locator("#states .js-plotly-plot").wait_for()  # found again, not drawn again


@pytest.mark.slow
def test_an_added_model_is_removed(small, open_page, steps):
    page = compared(open_page, steps, small)
    if not page.locator("#compare-table tbody tr", has_text="mixed").count():
        page.locator("#compare-folder input").click()
        page.get_by_role("option", name=re.compile("mixed")).click()
        page.locator("#compare-add").click()
    page.get_by_label("Remove mixed from the comparison").click()
    page.locator("#compare-table tbody tr", has_text="mixed").wait_for(state="detached")
    page.locator("#compare-add").click()
    page.get_by_text("choose a model from the list first").wait_for()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.slow
def test_narrow_and_for_screen_readers(small, open_page, steps, theme):
    from axe_playwright_python.sync_playwright import Axe

    page = compared(open_page, steps, small, width=360, height=780, theme=theme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.wait_for_timeout(800)
    found = {
        violation["id"]: [node["html"][:200] for node in violation["nodes"][:4]]
        for violation in Axe().run(page).response["violations"]
        if violation["id"]
        != "aria-prohibited-attr"  # gradio labels the placeholder of a plot that is not drawn yet
    }
    assert not found, json.dumps(found, indent=1)
