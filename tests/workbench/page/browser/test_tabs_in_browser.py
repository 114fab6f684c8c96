"""The tabs beside the sliders: geometry, benchmark, export, models."""

import json
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.browser


@pytest.mark.slow
def test_geometry_is_drawn_in_both_themes(open_page, steps):
    page = open_page()
    steps.tab(page, "Geometry")
    page.locator("#cosine .js-plotly-plot").wait_for()
    page.locator("#distance .js-plotly-plot").wait_for()

    def ink():
        return page.evaluate("document.querySelector('#cosine .js-plotly-plot').layout.font.color")

    light = ink()
    page.locator("#theme-toggle").click()
    page.wait_for_function(
        "before => document.querySelector('#cosine .js-plotly-plot').layout.font.color !== before",
        arg=light,
    )
    figure = page.evaluate("document.querySelector('#cosine .js-plotly-plot').data[0]")
    assert (figure["zmin"], figure["zmax"]) == (-1, 1)
    page.locator("#interference-go").click()
    # Thirty losses of whole validation sets.
    page.get_by_text("on the whole validation set").wait_for(timeout=180_000)
    assert page.locator("#interference .js-plotly-plot").count() == 1


@pytest.mark.slow
def test_a_benchmark_runs_beside_the_sliders_and_survives_a_reload(server, open_page, steps):
    page = open_page()
    steps.tab(page, "Benchmark")
    page.locator("#bench-line code").wait_for()
    page.locator("#limit input, #limit textarea").fill("20x")
    page.locator("#bench-line", has_text="the limit is '20x'").wait_for()
    page.locator("#limit input, #limit textarea").fill("20")
    page.wait_for_function(
        "document.querySelector('#bench-line code')?.textContent.includes('--limit 20')"
    )
    page.locator("#bench-run").dblclick()
    job = page.locator("#bench-job .job")
    job.wait_for()
    number = job.get_attribute("data-job")
    page.locator("#preset-uniform").click()  # the sliders stay free
    steps.settled(page, [])
    page.reload()
    steps.exact(page)
    steps.tab(page, "Benchmark")
    page.locator(f"#bench-job .job[data-job='{number}']").wait_for()
    page.locator("#bench-job .job.done").wait_for(timeout=120_000)
    assert (
        page.locator("#bench-job .job").get_attribute("data-job") == number
    )  # a double click started one
    page.locator("#runs tbody tr").first.wait_for()
    page.locator("#runs .copy").click()
    csv = page.evaluate("navigator.clipboard.readText()")
    assert (
        csv.splitlines()[0].startswith("task,metric,score,stderr,n") and len(csv.splitlines()) > 1
    )


@pytest.mark.slow
def test_a_benchmark_can_be_cancelled(open_page, steps):
    page = open_page()
    page.locator("#preset-base").click()
    steps.settled(page, [0.0] * 5)
    steps.tab(page, "Benchmark")
    page.locator("#bench-line code").wait_for()
    page.locator("#bench-run").click()
    page.locator("#bench-job .job:not(.done)").wait_for()
    page.locator("#bench-cancel").click()
    page.locator("#bench-job .job:is(.cancelled, .done)").wait_for(timeout=30_000)


@pytest.mark.slow
def test_an_export_is_a_verified_folder_that_loads(server, open_page, steps):
    from transformers import AutoModelForCausalLM

    page = open_page()
    steps.tab(page, "Export")
    page.locator("#export-name input, #export-name textarea").fill("mine")
    page.wait_for_function(
        "document.querySelector('#export-preflight code')?.textContent.endsWith('mine')"
    )
    command = page.locator("#export-preflight code").inner_text()
    assert re.match(r"dem merge \S+\.yml \S+mine$", command)
    page.locator("#export-run").click()
    page.locator("#export-job .tick", has_text="mine").wait_for(timeout=60_000)
    folder = server.workdir / "exports" / "mine"
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    assert all((folder / name).is_file() for name in manifest["files"])
    AutoModelForCausalLM.from_pretrained(folder)
    page.locator("#export-run").click()
    page.get_by_text("exists already").first.wait_for()


@pytest.mark.slow
def test_what_rounding_costs_is_shown_on_demand_and_never_under_another_composition(
    open_page, steps
):
    page = open_page()
    page.locator("#preset-uniform").click()
    steps.settled(page, [0.2] * 5)
    steps.tab(page, "Export")
    page.locator("#rounding-run").click()
    page.locator("#rounding table.data").wait_for()
    assert (
        "float32 loses 0.0% of the displacement; nothing needs doing."
        in page.locator("#rounding .message").inner_text()
    )
    page.locator("#export-dtype input").click()
    page.get_by_role("option", name="bfloat16").click()
    page.locator("#rounding table.data").wait_for(state="detached")
    page.locator("#rounding-run").click()
    page.get_by_text("bfloat16 loses").wait_for()
    assert (
        page.locator("#rounding tbody tr").count() == 6
    )  # the whole model and the five layers that lose most
    assert page.locator("#rounding tbody tr").first.inner_text().startswith("whole model")
    page.locator("#preset-base").click()
    page.locator("#rounding table.data").wait_for(state="detached")


@pytest.mark.slow
def test_a_bad_folder_is_told_and_what_was_open_stays(open_page, steps):
    page = open_page()
    before = steps.on_page(page)
    steps.tab(page, "Models")
    page.locator("#open-models table").wait_for()
    page.locator("#pick-checkpoints input").click()
    page.get_by_role("option", name=re.compile("broken")).click()
    page.locator("#open").click()
    problem = page.locator("#open-report .message.problem")
    problem.wait_for()
    assert "broken" in problem.inner_text() and "still open" in problem.inner_text()
    assert "Traceback" not in page.locator("body").inner_text()
    assert steps.on_page(page) == before
    page.locator("#preset-uniform").click()
    steps.settled(page, [])


@pytest.mark.slow
def test_a_name_that_is_markup_stays_a_name(open_page, steps):
    page = open_page()
    steps.tab(page, "Models")
    page.locator("#open-models table").wait_for()
    page.locator("#pick-checkpoints input").click()
    page.get_by_role("option", name=re.compile("img src")).click()
    page.locator("#open").click()
    page.locator("#open-report .message.done").wait_for()
    page.locator(".omega .who", has_text="<img src").wait_for()
    steps.exact(page, 180_000)  # one more expert: the whole set of each dataset once for it
    for name in ("Compose", "Geometry", "Benchmark", "Compare", "Export", "Models"):
        steps.tab(page, name)
        page.wait_for_timeout(700)
    assert page.evaluate("window.__xss") is None
    assert page.locator("img[src=x]").count() == 0
    # and back to the demo, for the tests that follow
    page.locator("#pick-checkpoints .token", has_text="img src").locator(".token-remove").click()
    page.locator("#open").click()
    page.wait_for_function("document.querySelectorAll('#open-models tbody tr').length < 7")


@pytest.mark.slow
def test_nothing_of_the_workdir_is_left_half_written(server):
    exports = Path(server.workdir) / "exports"
    assert not [path.name for path in exports.glob(".*")]
