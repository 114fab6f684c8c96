"""Predictions while a slider moves, Find ω, and the tab Search, in a real browser on the little world."""

import csv
import io
import json

import pytest

pytestmark = pytest.mark.browser

FORECAST = "() => dem.line.state.forecast?.datasets.size > 0"
SHOWN = """() => [...document.querySelectorAll('section.bullets .row')].map((row) => ({
  name: row.dataset.dataset, hollow: !row.querySelector('.hollow').hidden, loss: row.querySelector('.loss').innerText,
}))"""


@pytest.fixture
def page(small, open_page):
    """A page that can predict."""
    made = open_page(at=small)
    made.wait_for_function(FORECAST, timeout=60_000)
    return made


def omegas(page):
    return page.evaluate("dem.line.state.omegas")


@pytest.mark.slow
def test_predictions_follow_the_hand_without_a_question_to_the_server(page, steps):
    # No answer to a move: what changes now, the page has computed by itself.
    page.route("**/live/move", lambda route: None)
    slider = page.locator(".omega input[type=range]").first
    before = page.evaluate(SHOWN)
    assert not any(row["hollow"] for row in before)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    slider.evaluate(
        "(e) => { e.dispatchEvent(new PointerEvent('pointerdown')); e.value = 0.35;"
        " e.dispatchEvent(new Event('input')); }"
    )
    page.locator(".row.foreseen").first.wait_for()
    rows = page.evaluate(SHOWN)
    assert all(row["loss"].startswith("≈") for row in rows)
    # Those with an expert have an axis, and so a hollow bar.
    assert [row["name"] for row in rows if row["hollow"]]
    assert page.inner_text("section.bullets .mean").startswith("predicted mean loss")
    first = {row["name"]: row["loss"] for row in rows}
    slider.evaluate("(e) => { e.value = 0.9; e.dispatchEvent(new Event('input')); }")
    page.wait_for_function(
        "(first) => [...document.querySelectorAll('section.bullets .row')]"
        ".some((row) => row.querySelector('.loss').innerText !== first[row.dataset.dataset])",
        arg=first,
    )
    assert not [url for url in asked if "forecast" in url]


@pytest.mark.slow
def test_the_measured_bar_takes_the_place_of_the_hollow_one(page, steps):
    page.locator(".omega .figures").first.fill("0.44")
    page.locator(".omega .figures").first.press("Enter")
    steps.settled(page, [0.44])
    rows = page.evaluate(SHOWN)
    # What was predicted stays beside what was measured, until the next move.
    assert not any("≈" in row["loss"] for row in rows)
    assert any(row["hollow"] for row in rows)
    page.locator("#preset-base").click()
    steps.settled(page, [0.0])
    assert page.locator(".strip path.inside[d*=Z]").count() > 0


@pytest.mark.slow
def test_find_omega_searches_and_sets_the_best_as_one_step(page, steps):
    steps.settled(page, [])
    before = omegas(page)
    page.locator("#find-omega").click()
    page.locator(".finding", has_text="Search").wait_for()
    assert page.locator("#find-omega").is_disabled()
    page.locator(".finding", has_text="Search done").wait_for(timeout=180_000)
    page.wait_for_function("(before) => JSON.stringify(dem.line.state.omegas) !== before", arg=json.dumps(before))  # fmt: skip
    steps.settled(page, [])
    found = omegas(page)
    assert found == page.evaluate("dem.line.state.search.omegas")
    page.locator("#undo").click()
    assert omegas(page) == before
    # The tab has the search, and all that it has measured.
    steps.tab(page, "Search")
    page.locator("#trials tbody tr").first.wait_for()
    assert "Search done" in page.inner_text(".search-state")
    assert page.inner_text("#search .cli code").startswith("dem search ")


@pytest.mark.slow
def test_the_tab_lists_filters_copies_and_sets_compositions(page, steps):
    for value in ("0.15", "0.65", "0.9"):
        page.locator(".omega .figures").first.fill(value)
        page.locator(".omega .figures").first.press("Enter")
        steps.settled(page, [float(value)])
    steps.tab(page, "Search")
    rows = page.locator("#trials tbody tr")
    rows.first.wait_for()
    page.wait_for_function(
        "async () => (await (await fetch('live/trials')).json()).count"
        " === document.querySelectorAll('#trials tbody tr').length"
    )
    count = rows.count()
    means = [float(text) for text in page.locator("#trials td:first-child").all_inner_texts()]
    assert means == sorted(means) and count >= 4
    page.locator("#search button.copy", has_text="CSV").click()
    table = list(csv.reader(io.StringIO(page.evaluate("navigator.clipboard.readText()"))))
    assert len(table) == count + 1 and table[0][0] == "mean loss"
    # A brush over the upper half of the mean keeps the worse ones.
    grip = page.locator(".parallel [data-axis=mean] .grip")
    grip.scroll_into_view_if_needed()
    box = grip.bounding_box()
    x, top = box["x"] + box["width"] / 2, box["y"] + 2
    page.mouse.move(x, top)
    page.mouse.down()
    page.mouse.move(x, top + box["height"] / 2, steps=4)
    page.mouse.up()
    kept = [float(text) for text in page.locator("#trials td:first-child").all_inner_texts()]
    middle = (min(means) + max(means)) / 2
    assert kept and min(kept) >= middle - 0.03 * (max(means) - min(means))
    page.mouse.click(x, top + 5)
    assert rows.count() == count
    rows.first.click()
    page.locator("#trials tr.here").wait_for()
    assert page.locator("#trials tr.here td").first.inner_text() == f"{means[0]:.3f}"


@pytest.mark.slow
def test_a_preference_moves_the_sliders_as_one_step(page, steps):
    # A preference moves within the range that was measured, which here is one point at first.
    count = page.evaluate("dem.line.state.forecast.count")
    for value in ("0.93", "-0.07"):
        page.locator(".omega .figures").first.fill(value)
        page.locator(".omega .figures").first.press("Enter")
        steps.settled(page, [float(value)])
    page.wait_for_function("(n) => dem.line.state.forecast?.count >= n + 2", arg=count)
    steps.tab(page, "Search")
    page.locator(".preference input[type=range]").first.wait_for()
    before, past = omegas(page), page.evaluate("dem.line.state.past.length")
    weight = page.locator(".preference input[type=range]").first
    # One drag, with a pause longer than what parts two moves of a keyboard.
    weight.evaluate("(e) => e.dispatchEvent(new PointerEvent('pointerdown'))")
    for value in ("0", "3"):
        weight.evaluate("(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); }", value)
        page.wait_for_timeout(900)
        assert page.evaluate("dem.line.state.held")
    weight.evaluate("(e) => e.dispatchEvent(new PointerEvent('pointerup'))")
    assert not page.evaluate("dem.line.state.held")
    assert omegas(page) != before
    assert page.evaluate("dem.line.state.past.length") == past + 1
    # What is open is told anew, for instance after a search: what was set and typed stays.
    page.locator("#search-budget").fill("77")
    assert page.evaluate(
        "async () => { const { info } = dem.line.state; await dem.line.open();"
        " return dem.line.state.info !== info; }"
    )
    assert weight.input_value() == "3"
    assert page.locator("#search-budget").input_value() == "77"
    page.locator(".preference .figures").first.fill("many")
    page.locator(".preference .figures").first.press("Enter")
    assert page.locator(".preference [aria-invalid]").count() == 1


@pytest.mark.slow
def test_limits_and_few_examples_are_asked_for(page, steps):
    asked = []
    page.route("**/live/search", lambda route: asked.append(route.request.post_data_json))
    steps.tab(page, "Search")
    few = page.locator("#search-few")
    assert few.is_disabled()  # the surrogate learns from all losses
    page.locator("#search-method").select_option("tpe")
    few.check()
    page.locator("#search-sum").fill("1.5")
    page.locator("#search-norm").fill("0.2")
    page.locator("#search-go").click()
    page.wait_for_function("() => true")
    assert asked[0]["wanted"]["highest_sum"] == 1.5 and asked[0]["wanted"]["highest_norm"] == 0.2
    assert asked[0]["wanted"]["screened"] is True
    page.locator("#search-method").select_option("nsga")
    assert few.is_disabled() and not few.is_checked()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "text", "words"),
    [
        ("#search-norm", "wide", "“wide” is not a number"),
        ("#search-budget", "many", "“many” is not a number"),
        ("#search-budget", "2.5", "give a whole number"),
        ("#search-budget", "", "is not a number"),
        ("#search-high", "7", "from 0 to 7"),
    ],
)
def test_bad_settings_are_told_and_start_nothing(page, open_page, steps, field, text, words):
    open_page.expected.append("status of 400")
    steps.tab(page, "Search")
    page.locator(field).fill(text)
    page.locator("#search-go").click()
    page.locator("#search", has_text=words).wait_for()
    assert page.evaluate("dem.line.state.search?.state") != "running"
