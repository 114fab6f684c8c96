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


def searched(page, until="s.state === 'done'"):
    """Begins the search that the form asks for, and waits until it is so far."""
    before = page.evaluate("dem.line.state.search?.id ?? 0")
    page.locator("#search-go").click()
    page.wait_for_function(
        f"(before) => {{ const s = dem.line.state.search; return s && s.id !== before && {until}; }}",
        arg=before,
        timeout=240_000,
    )


@pytest.mark.slow
def test_predictions_follow_the_hand_without_a_question_to_the_server(page, steps):
    steps.settled(page, [])
    # No answer to a move: what changes now, the page has computed by itself.
    page.route("**/live/move", lambda route: None)
    slider = page.locator(".omega input[type=range]").first
    before = page.evaluate(SHOWN)
    assert not any("≈" in row["loss"] for row in before)
    asked = ["forecast"]
    page.on("request", lambda request: asked.append(request.url))
    # What the page measured when it was opened is still learned from, and that asks for forecasts.
    while any("forecast" in url for url in asked):
        asked.clear()
        page.wait_for_timeout(2000)
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
    page.route("**/live/search", lambda route: None)
    steps.tab(page, "Search")
    few = page.locator("#search-few")
    page.locator(".search-more summary").click()
    assert few.is_disabled()  # the surrogate learns from all losses
    page.locator("#search-method").select_option("tpe")
    few.check()
    page.locator("#search-sum").fill("1.5")
    page.locator("#search-norm").fill("0.2")
    with page.expect_request("**/live/search") as asked:
        page.locator("#search-go").click()
    wanted = asked.value.post_data_json["wanted"]
    assert wanted["highest_sum"] == 1.5 and wanted["highest_norm"] == 0.2
    assert wanted["screened"] is True
    page.locator("#search-method").select_option("nsga")
    assert few.is_disabled() and not few.is_checked()


FAULTS = [
    ("#search-norm", "wide", "“wide” is not a number"),
    ("#search-norm", "-1", "give a number above 0"),
    ("#search-budget", "many", "“many” is not a number"),
    ("#search-budget", "2.5", "give a whole number from 1"),
    ("#search-budget", "", "is not a number"),
    ("#search-high", "7", "from -1 to 2"),
    ("#search-high", "-0.5", "above 0"),
    ("#search-limit", "0", "give a whole number from 1"),
    ("#search-tasks", " ", "name a task or more"),
]
RIGHT = {"#search-high": "1", "#search-tasks": "demo_p3"}


@pytest.mark.slow
def test_bad_settings_are_told_beside_the_field_and_start_nothing(page, steps):
    asked = []
    page.route("**/live/search", lambda route: asked.append(route.request.post_data_json))
    steps.tab(page, "Search")
    fold = page.locator(".search-more")
    page.locator("#search-aim").select_option("score")
    page.locator("#search-benchmark").select_option("other")
    page.locator("#search-tasks").fill("demo_cot")
    for field, text, words in FAULTS:
        fold.evaluate("(e) => { e.open = true; }")
        page.locator(field).fill(text)
        fold.evaluate("(e) => { e.open = false; }")  # a fault inside opens the fold again
        page.locator("#search-go").click()
        page.locator("label", has=page.locator(field)).locator(
            ".field-error", has_text=words
        ).wait_for()
        assert page.locator(field).get_attribute("aria-invalid") is not None
        page.locator(field).fill(RIGHT.get(field, "3"))
        assert page.locator("#search .field-error:not(:empty)").count() == 0
        assert asked == []
    with page.expect_request("**/live/search"):
        page.locator("#search-go").click()


@pytest.mark.slow
def test_an_unknown_task_is_told_before_anything_starts(page, open_page, steps):
    open_page.expected.append("status of 400")
    steps.tab(page, "Search")
    page.locator("#search-aim").select_option("score")
    page.locator("#search-benchmark").select_option("other")
    page.locator("#search-tasks").fill("demo_cott")
    page.locator("#search-go").click()
    page.locator(".search-state", has_text="unknown task 'demo_cott'").wait_for()
    assert not page.evaluate("dem.state.active(dem.line.state.search)")


@pytest.mark.slow
def test_the_form_shows_its_command_and_its_cost(page, steps):
    steps.tab(page, "Search")
    page.locator("#search-groups").select_option("part")
    page.locator("#search-budget").fill("30")
    line = page.locator("#search .cli code").first
    page.locator("#search .cli code", has_text="--budget=30").first.wait_for()
    assert "--groups=part" in line.inner_text()
    page.locator("#search .search-row .quiet", has_text="about ").wait_for()
    # What an aim or groups forbid cannot be chosen, and the choice comes back with the next aim.
    disabled = "all => all.filter((one) => one.disabled).map((one) => one.value)"
    assert page.eval_on_selector_all("#search-method option", disabled) == ["simplex"]
    page.locator("#search-aim").select_option("front")
    assert page.locator("#search-method").input_value() == "nsga"
    page.locator("#search-aim").select_option("loss")
    assert page.locator("#search-method").input_value() == "surrogate"
    assert page.locator("#search-benchmark").is_hidden()
    # What was chosen stays when the same models are told anew.
    page.locator("#search-benchmark").evaluate("(e) => { e.value = 'task demo_sni'; }")
    page.evaluate("dem.line.open()")
    page.wait_for_function("() => dem.line.state.sent === 0")
    assert page.locator("#search-groups").input_value() == "part"
    assert page.locator("#search-benchmark").input_value() == "task demo_sni"


@pytest.mark.slow
def test_numbers_of_the_merge_method_are_searched_and_set_with_the_omegas(page, steps):
    steps.settled(page, [])
    steps.tab(page, "Search")
    assert page.locator("#search-vary").is_hidden()  # λ of task arithmetic only scales the ω
    page.evaluate("dem.line.event({ type: 'method', name: 'ties' })")
    steps.settled(page, [])
    before = page.evaluate("dem.state.composition(dem.line.state)")
    low, high = page.locator("#search-density-from"), page.locator("#search-density-to")
    assert low.is_disabled() and low.get_attribute("placeholder") == "0"
    page.locator("[data-vary=density]").check()
    high.fill("7")
    page.locator("#search-go").click()
    page.locator("#search-vary .field-error", has_text="from 0 to 1").wait_for()
    low.fill("0.2")
    high.fill("0.6")
    page.locator("#search-method").select_option("coordinate")
    page.locator("#search-budget").fill("4")
    page.locator("#search .cli code", has_text="--vary=density=0.2:0.6").first.wait_for()
    assert page.locator("#search-groups").is_disabled()
    searched(page)
    steps.settled(page, [])
    found = page.evaluate("dem.state.composition(dem.line.state)")
    assert found["method"] == "ties" and 0.2 <= found["parameters"]["density"] <= 0.6
    assert found["parameters"] == page.evaluate("dem.line.state.search.parameters")
    rows = page.locator("table[aria-label^=Merge] tbody th").all_inner_texts()
    assert rows == ["ties", "task_arithmetic"]
    page.locator("#searched tr.here").wait_for()
    page.locator("#undo").click()
    assert page.evaluate("dem.state.composition(dem.line.state)") == before


@pytest.mark.slow
def test_groups_of_layers_give_a_recipe_beside_the_sliders(page, steps):
    steps.settled(page, [])
    before = omegas(page)
    steps.tab(page, "Search")
    page.locator("#search-aim").select_option("loss")
    page.locator("#search-method").select_option("coordinate")
    page.locator("#search-groups").select_option("depth")
    page.locator("#search-budget").fill("24")
    searched(page)
    table = page.locator(".strip-of-groups table")
    table.wait_for()
    assert omegas(page) == before
    heads = table.locator("thead th").all_inner_texts()
    assert heads[0] == "ω" and {"early layers", "middle layers"} <= set(heads)
    assert "show the composition that they showed before" in page.inner_text(".found")
    # The recipe that is copied and downloaded is the one that the command exports.
    page.locator("#found-copy").click()
    text = page.evaluate("navigator.clipboard.readText()")
    assert "filter" in text and "merge_method: task_arithmetic" in text
    with page.expect_download() as download:
        page.locator("#found-download").click()
    name = download.value.suggested_filename
    assert download.value.path().read_text("utf-8") == text
    line = page.locator(".found .cli code").inner_text()
    assert line.startswith("dem merge ") and name in line
    losses = page.locator(".found table[aria-label^=Losses] tbody tr").last.inner_text().split()
    assert losses[0] == "mean" and 0 < float(losses[1]) < 20
    # All that it measured is listed: a cell for each vector, and the recipe where no slider shows it.
    rows = page.locator("#searched tbody tr")
    rows.first.wait_for()
    assert rows.count() == page.evaluate("dem.line.state.search.trials")
    assert any("/" in cell for cell in page.locator("#searched td").all_inner_texts())
    row = page.locator("#searched tbody tr:not(.can-be-set)").first
    row.locator("[data-copy]").click()
    digest = page.evaluate("navigator.clipboard.readText()")
    with page.expect_download() as download:
        row.locator("button", has_text="save").click()
    assert download.value.suggested_filename == f"{digest}.yml"
    assert omegas(page) == before
    page.locator("#found-compare").click()
    page.locator("#compare-table", has_text="ω(layer)·Δ").wait_for()


@pytest.mark.slow
def test_a_benchmark_is_the_aim_and_its_scores_are_shown(page, steps):
    steps.tab(page, "Search")
    page.locator("#search-aim").select_option("score")
    page.locator("#search-benchmark").select_option("task demo_cot")
    page.locator("#search-limit").fill("3")
    page.locator("#search-method").select_option("coordinate")
    page.locator("#search-budget").fill("2")
    searched(page)
    assert "mean score" in page.inner_text(".search-state")
    page.locator(".found table", has_text="demo_cot").first.wait_for()
    heads = page.locator(".found h3").all_inner_texts()
    assert [head[:9] for head in heads] == ["Demo_cot,", "All quest"]
    row = page.locator("#searched tbody tr").last
    row.click()
    page.locator("#searched tr.here").wait_for()
    shown = row.locator("td").all_inner_texts()[2:-1]
    assert [f"{omega:.2f}" for omega in omegas(page).values()] == shown


@pytest.mark.slow
def test_several_aims_mark_a_front(page, steps):
    steps.tab(page, "Search")
    page.locator("#search-aim").select_option("front")
    page.locator("#search-budget").fill("17")
    searched(page)
    assert "on the front" in page.inner_text(".search-state")
    page.wait_for_function(
        "async () => (await (await fetch('live/trials')).json()).count"
        " === document.querySelectorAll('#trials tbody tr').length"
    )
    ranks = page.locator("#trials td:nth-child(2)").all_inner_texts()
    assert "1" in ranks and "2" in ranks
    assert page.locator("#trials tr.on-front").count() == ranks.count("1")
    page.locator("#front-only").check()
    assert set(page.locator("#trials td:nth-child(2)").all_inner_texts()) == {"1"}
    marked = page.locator(".landscape circle.leads").count()
    assert 1 <= marked < page.locator(".landscape circle.measured").count()


@pytest.mark.slow
def test_a_search_is_paused_resumed_and_stopped_with_its_best(page, steps):
    page.locator("#preset-base").click()
    steps.settled(page, [0.0])
    before = omegas(page)
    steps.tab(page, "Search")
    page.locator("#search-aim").select_option("loss")
    page.locator("#search-method").select_option("grid")
    page.locator("#search-budget").fill("900")
    searched(page, "s.state === 'running' && s.trials >= 3")
    assert page.locator("#search-go").is_hidden()
    page.locator("#search-pause").click()
    page.locator(".search-state", has_text="Search paused after").wait_for()
    assert "Resume goes on" in page.inner_text(".search-state")
    assert omegas(page) == before and page.locator("#search-go").inner_text() == "Search anew"
    # It goes on as it was begun, whatever the form says by now and also after a reload.
    page.locator("#search-budget").fill("5")
    page.reload()
    steps.exact(page)
    steps.tab(page, "Search")
    page.wait_for_function("dem.line.state.search")  # comes with the first beat
    trials = page.evaluate("dem.line.state.search.trials")
    page.locator("#search-resume").click()
    page.wait_for_function(
        "(n) => dem.line.state.search.state === 'running' && dem.line.state.search.trials > n",
        arg=trials,
        timeout=180_000,
    )
    assert page.evaluate("dem.line.state.search.budget") == 900
    best = page.evaluate("dem.line.state.search.omegas")
    page.locator("#search-keep").click()
    page.locator(".search-state", has_text="Search paused after").wait_for()
    steps.settled(page, [])
    assert omegas(page).keys() == best.keys() and omegas(page) != before
    page.locator("#undo").click()
    assert omegas(page) == before
    page.locator("#search-keep", has_text="Set the best ω").wait_for()
