"""The live line in a browser: two tabs, typed values, fast undo, reload, Back, a server that dies."""

import json
import shutil
import signal
from itertools import pairwise

import pytest
import yaml

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def pair(tmp_path_factory, world):
    """A server on the little world, with a root that holds the same models under other names."""
    from tests.workbench.page.browser.conftest import Server

    folder = tmp_path_factory.mktemp("pair")
    for name in ("base", "ada", "data"):
        shutil.copytree(world / name, folder / "models" / f"other-{name}")
    made = Server(folder / "workdir", [folder / "models"], world)
    yield made
    made.stop()


AWAY = ["net::ERR", "Connection errored out", "signal is aborted", "network error"]
"""What the browser says while no server answers."""


def box(page, place):
    return page.locator(".omega .figures").nth(place)


def type_omega(page, place, text):
    box(page, place).fill(text)
    box(page, place).press("Enter")


def status(page):
    return page.eval_on_selector_all(
        "#status [data-part]", "all => all.map(one => one.dataset.value)"
    )


def history_of(page):
    return page.evaluate("[dem.line.state.past.length, dem.line.state.future.length]")


def test_a_page_that_is_behind_composes_nothing_and_catches_up_by_one_button(
    pair, open_page, steps
):
    one, two = open_page(at=pair), open_page(at=pair)
    steps.settled(two, [])
    before = two.locator("#header .digest").inner_text()
    steps.tab(one, "Models")
    for field, name in (("#pick-base", "other-base"), ("#pick-checkpoints", "other-ada")):
        one.locator(f"{field} input").click()
        one.locator(field).get_by_role("option", name=f"models/{name}").click()
    one.keyboard.press("Escape")
    for token in ("bob", "lora"):
        for button in one.locator("#pick-checkpoints .token", has_text=token).all():
            button.locator(".token-remove").click()
    for button in one.locator("#pick-checkpoints .token", has_text="/ada").all():
        if "other" not in button.inner_text():
            button.locator(".token-remove").click()
    one.locator("#open").click()
    one.locator("#open-report .message.done").wait_for(timeout=60_000)
    one.wait_for_function("document.querySelectorAll('.omega').length === 1")
    assert (
        one.locator(".banner .message.warning").count() == 0
    )  # no false alarm where they were opened
    type_omega(two, 0, "0.11")
    two.locator(".banner", has_text="Other models are open").wait_for()
    two.keyboard.press("Control+z")
    two.wait_for_timeout(1000)
    assert two.locator("#header .digest").inner_text() == before
    assert status(two)[2] == "behind"
    two.locator("#catch-up").click()
    two.wait_for_function("document.querySelectorAll('.omega').length === 1")
    assert two.locator(".omega .who").inner_text() == one.locator(".omega .who").inner_text()


def test_what_is_typed_is_shown_composed_kept_and_exported(server, open_page, steps):
    page = open_page()
    type_omega(page, 1, "0.127")
    steps.settled(page, [None, 0.127])
    assert box(page, 1).input_value() == "0.127"
    assert "0.127·" in page.locator(".formula").inner_text().replace(" ", "")
    assert steps.on_server(page)[1] == 0.127
    steps.tab(page, "Export")
    page.locator("#export-name input, #export-name textarea").fill("typed")
    page.locator("#export-preflight code").wait_for()
    page.locator("#export-run").click()
    page.locator("#export-job .tick", has_text="typed").wait_for(timeout=60_000)
    recipe = yaml.safe_load((server.workdir / "exports" / "typed" / "recipe.yml").read_text())
    assert recipe["models"][1]["parameters"]["weight"] == 0.127


def test_what_is_selected_to_be_replaced_stays_selected_when_an_answer_comes(
    small, open_page, steps
):
    page = open_page(at=small)
    steps.method(page, "ties")
    page.locator("details.parameters summary").click()
    density = page.locator("#parameter-density")
    for field, text, omega in ((box(page, 0), "0.1", 0.1), (density, "0.50", 0.3)):
        field.fill(text)
        field.press("Enter")
        steps.settled(page, [omega])
        field.evaluate("field => field.select()")
        page.evaluate("dem.line.event({ type: 'omega', name: 'bob', value: Math.random(), at: 0 })")
        steps.settled(page, [omega])
        page.keyboard.type("0.3")
        assert field.input_value() == "0.3"
        field.press("Enter")
    page.locator("h1").click()
    steps.settled(page, [0.3])
    assert box(page, 0).input_value() == "0.30"
    assert page.evaluate("dem.line.state.parameters.density") == 0.3
    density.fill("0,50")
    page.locator("h1").click()  # no answer is needed for a box that was left to show its number
    assert density.input_value() == "0.5"
    steps.settled(page, [0.3])
    steps.method(page, "task_arithmetic")
    steps.settled(page, [])


def test_what_is_no_number_is_told_beside_its_box_and_the_last_good_value_is_kept(open_page, steps):
    page = open_page()
    for text in ("", "abc", "1e400", "NaN", "5", "-1.01", "0,1,2"):
        type_omega(page, 0, "0.4")
        steps.settled(page, [0.4])
        digest = page.locator("#header .digest").inner_text()
        type_omega(page, 0, text)
        page.locator(".omega").first.locator(".field-error", has_text="0.40 is kept").wait_for()
        page.wait_for_timeout(500)
        assert page.locator("#header .digest").inner_text() == digest, text
        box(page, 0).blur()
        page.wait_for_function("document.querySelector('.omega .figures').value === '0.40'")
        assert page.locator(".omega .field-error").first.inner_text() == "", text
        type_omega(page, 0, "−0,25")  # as people write it
        steps.settled(page, [-0.25])


def test_an_export_right_after_a_move_is_of_that_move(server, open_page, steps):
    page = open_page()
    steps.tab(page, "Export")
    page.locator("#export-name input, #export-name textarea").fill("atonce")
    page.locator("#export-preflight code").wait_for()
    type_omega(page, 2, "0.333")
    page.locator("#export-run").click()  # before anything has come back
    page.locator("#export-job .tick", has_text="atonce").wait_for(timeout=60_000)
    recipe = yaml.safe_load((server.workdir / "exports" / "atonce" / "recipe.yml").read_text())
    assert recipe["models"][2]["parameters"]["weight"] == 0.333


def test_fast_undo_and_redo_lose_nothing_and_a_run_of_keys_is_one_step(open_page, steps):
    page = open_page()
    page.locator("#preset-base").click()
    steps.settled(page, [0.0])
    for number in range(1, 6):
        type_omega(page, 0, f"0.{number}")
        page.wait_for_timeout(50)
    steps.settled(page, [0.5])
    past, _ = history_of(page)
    page.locator("h1").click()
    for _ in range(5):
        page.keyboard.press("Control+z")
        page.wait_for_timeout(150)
    steps.settled(page, [0.0])
    assert history_of(page) == [past - 5, 5]
    for _ in range(5):
        page.keyboard.press("Control+Shift+z")
    steps.settled(page, [0.5])
    page.evaluate(
        "window.keys = []; addEventListener('keydown', () => keys.push(performance.now()), true)"
    )
    page.locator(".omega input[type=range]").nth(1).focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(250)  # slower than the page of before could take
    steps.settled(page, [0.5, 0.1])
    times = page.evaluate("keys")
    # On a busy machine a key may come later than a run lasts, and rightly begins another step.
    pauses = sum(after - before > 750 for before, after in pairwise(times))
    assert len(times) == 10 and past + 1 <= history_of(page)[0] <= past + 1 + pauses


def test_reload_back_and_a_second_tab_come_back_to_the_state(open_page, steps):
    page = open_page()
    page.locator("#preset-base").click()
    steps.settled(page, [0.0])
    type_omega(page, 0, "0.21")
    steps.settled(page, [0.21])
    type_omega(page, 0, "0.42")
    steps.settled(page, [0.42])
    before = history_of(page)
    page.reload()
    steps.exact(page)
    steps.settled(page, [0.42])
    assert history_of(page) == before
    page.keyboard.press("Control+z")
    steps.settled(page, [0.21])
    address = page.url
    page.go_back()
    steps.settled(page, [0.42])
    other = page.context.new_page()
    other.goto(address)
    steps.exact(other)
    steps.settled(other, [0.21])
    other.close()


def test_a_server_that_dies_and_comes_back_finds_the_page_where_it_was(small, open_page, steps):
    page = open_page(at=small)
    open_page.expected += AWAY
    type_omega(page, 0, "0.77")
    steps.settled(page, [0.77])
    small.process.send_signal(signal.SIGKILL)
    small.process.wait(20)
    page.locator("#status [data-part=server][data-value=gone]").wait_for(timeout=15_000)
    assert status(page)[0] != "settled"
    page.locator(".banner", has_text="does not answer").wait_for()
    type_omega(page, 1, "0.33")
    assert box(page, 1).input_value() == "0.33"
    small.start()
    steps.settled(page, [0.77, 0.33], timeout=60_000)
    assert status(page) == ["settled", "full", "here"]
    assert page.locator(".banner .message").count() == 0


MOVED_WHILE_OPENING = """async () => {
  const { line } = dem, slider = document.querySelector('.omega input[type=range]');
  const early = { models: line.state.info.models, server: line.state.server };
  slider.dispatchEvent(new PointerEvent('pointerdown'));
  let value = 0;
  while (!line.state.info.models || value < 0.3) { // the models are opened under the hand
    value += 0.01;
    slider.value = value;
    slider.dispatchEvent(new Event('input'));
    await new Promise((go) => setTimeout(go, 50));
  }
  slider.dispatchEvent(new PointerEvent('pointerup'));
  return { ...early, value: slider.value, attached: slider.isConnected };
}"""


def test_sliders_can_be_moved_while_the_models_are_opened(small, open_page, steps):
    page = open_page(at=small)
    type_omega(page, 0, "0.66")
    steps.settled(page, [0.66])
    # Where other work keeps both cores busy, the browser may come after the models: then once more.
    for _ in range(3):
        page.close()
        small.stop()
        small.start()
        # Waits in the page, where each state is seen: asking from outside could come too late.
        page = open_page(at=small, ready=False)
        page.locator(".omega input[type=range]").first.wait_for()
        held = page.evaluate(MOVED_WHILE_OPENING)
        if held["models"] == "":
            break
    assert (held["models"], held["server"], held["attached"]) == ("", "loading", True)
    steps.settled(page, [float(held["value"])], timeout=60_000)
    assert status(page)[2] == "here"
    assert history_of(page) == [1, 0]
    page.locator("#undo").click()
    before = page.evaluate("Object.values(dem.line.state.omegas)")
    steps.settled(page, before)


def test_best_and_the_star_agree(small, open_page, steps):
    page = open_page(at=small)
    page.locator("#preset-best").click()
    steps.settled(page, [])
    for number in (0.1, 0.3, 0.6):
        type_omega(page, 0, str(number))
        steps.settled(page, [number])
    # The best comes with the command, after the last losses.
    page.wait_for_function(
        "document.querySelector('#chart code')?.textContent.includes(dem.line.state.settled.digest)"
    )
    about = page.locator("#preset-best").get_attribute("title")
    assert "lowest mean validation loss" in about
    page.locator("#preset-best").click()
    steps.settled(page, [])
    mean = page.locator("section.bullets .mean b").inner_text()
    assert mean in about
    steps.tab(page, "Compare")
    starred = page.locator("#compare-table tr", has=page.locator(".best [title]")).all_inner_texts()
    page.locator("#compare-table tbody tr").first.wait_for()
    head = page.locator("#compare-table thead th").all_inner_texts()
    column = next(place for place, text in enumerate(head) if "mean" in text.lower())
    cells = page.locator(f"#compare-table tbody tr td:nth-child({column + 1})").all_inner_texts()
    best = [cell for cell in cells if "★" in cell]
    assert best and all(mean in cell for cell in best), (mean, cells, starred)


def test_a_page_at_rest_asks_nothing_of_the_tabs_also_after_two_quick_rests(
    small, open_page, steps
):
    page = open_page(at=small)
    type_omega(page, 0, "0.13")
    steps.settled(page, [0.13])
    steps.tab(page, "Export")  # while Compose is shown, the other tabs are told nothing
    page.wait_for_timeout(1_000)
    asked = []
    page.on("request", lambda request: asked.append(request.post_data or ""))
    # Rests that come while the tabs are still answering to the one before; the last is another one
    # than the tabs show.
    for key in ("z", "y", "z", "y", "z"):
        page.keyboard.press(f"Control+{key}")
        page.wait_for_timeout(40)
    # Tabs that give each other the two digests in turn never become quiet. How long an answer
    # takes depends on the machine.
    page.wait_for_timeout(2_000)
    assert any("fn_index" in text for text in asked)
    for _ in range(15):
        asked.clear()
        page.wait_for_timeout(2_000)
        late = [text for text in asked if "fn_index" in text]
        if not late:
            break
    assert late == []


def test_errors_stand_beside_their_cause_and_no_toast_covers_a_button(open_page, steps):
    page = open_page()
    for text in ("x", "9", "-9", "1e999", "y"):
        type_omega(page, 0, text)
        page.wait_for_timeout(100)
    assert page.locator(".toast-body").count() == 0
    assert page.locator(".omega .field-error").first.inner_text()


def test_nan_that_is_posted_changes_nothing(server, open_page, steps):
    page = open_page()
    open_page.expected += ["status of 400"]
    before = steps.on_server(page)
    for value in ("NaN", "1e999", '"0.5"', "true", "null"):
        reply = page.evaluate(
            """async ([value, models]) => {
                const body = `{"page":"intruder-1","turn":${Date.now()},"models":"${models}","method":"task_arithmetic","parameters":{},"omegas":{"cot":${value}}}`;
                const answer = await fetch('live/move', { method: 'POST', body });
                return [answer.status, await answer.text()];
            }""",
            [value, page.evaluate("dem.line.state.info.models")],
        )
        assert reply[0] == 400 or json.loads(reply[1].splitlines()[0])["stage"] == "refused"
    assert steps.on_server(page) == before


def test_after_a_thousand_moves_a_hundred_undos_and_five_reloads_the_weights_are_the_exports(
    small, open_page, steps
):
    import random

    page = open_page(at=small)
    dice = random.Random(7)
    names = page.evaluate("dem.line.state.info.vectors.map(one => one.name)")
    for reload in range(5):
        for number in range(200):
            value = round(dice.uniform(-1, 2), 4)
            page.evaluate(
                "([name, value, at]) => dem.line.event({ type: 'omega', name, value, at })",
                [dice.choice(names), value, 1000 * number],
            )
        for _ in range(20):
            page.keyboard.press("Control+z")
        steps.settled(page, [], timeout=60_000)
        if reload < 4:
            page.reload()
            steps.exact(page)
    wanted = page.evaluate("dem.line.state.omegas")
    assert dict(zip(names, steps.on_server(page), strict=True)) == wanted
    steps.tab(page, "Export")
    page.locator("#export-name input, #export-name textarea").fill("thousand")
    page.locator("#export-preflight code").wait_for()
    page.locator("#export-run").click()
    page.locator("#export-job .tick", has_text="thousand").wait_for(timeout=60_000)
    folder = small.workdir / "exports" / "thousand"
    recipe = yaml.safe_load((folder / "recipe.yml").read_text())
    assert {model["parameters"]["weight"] for model in recipe["models"]} == set(wanted.values())
