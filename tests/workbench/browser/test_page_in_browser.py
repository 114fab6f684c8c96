"""The journeys of the page, each as a reader makes them."""

import json
import re
import time
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.browser

# axe's findings in gradio's own components that we cannot mend from outside. It may only become shorter.
ALLOWED = {
    "nested-interactive": "gradio puts a close button inside the pressable head of its toasts",
    "aria-prohibited-attr": "gradio labels the placeholder of a plot that is not drawn yet",
}


def sliders(page):
    return page.locator("#sliders .omega input[type=range]")


def drag(page, place, share):
    """Drag a slider's thumb to a share of its track, in thirty steps."""
    box = sliders(page).nth(place).bounding_box()
    value = float(sliders(page).nth(place).input_value())
    thumb = 8 + (box["width"] - 16) * (value + 1) / 3
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + thumb, y)
    page.mouse.down()
    page.mouse.move(box["x"] + 8 + (box["width"] - 16) * share, y, steps=30)
    page.mouse.up()


def test_the_demo_is_open_at_the_best_known_omegas(server, open_page, steps):
    begin = time.monotonic()
    page = open_page(ready=False)
    sliders(page).first.wait_for()
    usable = time.monotonic() - begin
    page.locator("section.bullets .row.quick, section.bullets .row.full").first.wait_for()
    losses = time.monotonic() - begin
    steps.exact(page)
    print(
        f"\nstart-up: answers after {server.answered:.1f} s, sliders {usable:.1f} s later, first losses {losses:.1f} s later"
    )
    steps.settled(page, [])
    assert steps.on_page(page) == steps.on_server(page)
    assert any(steps.on_page(page))  # not the base: the best known
    assert "Drag a slider" in page.locator("#hint").inner_text()
    assert page.locator("section.bullets .row").count() == len(steps.on_page(page))


def test_a_dragged_slider_reaches_the_server_and_its_losses_the_page(open_page, steps):
    page = open_page()
    seconds = []
    for share in (0.85, 0.2, 0.55):
        before = page.locator("section.bullets").get_attribute("data-digest")
        drag(page, 0, share)
        begin = time.monotonic()
        page.wait_for_function(
            "before => { const chart = document.querySelector('section.bullets');"
            " return chart.dataset.digest !== before && chart.dataset.stage !== 'composing'"
            " && chart.querySelectorAll('.row.waiting').length === 0; }",
            arg=before,
            timeout=10_000,
        )
        seconds.append(time.monotonic() - begin)
        wanted = steps.on_page(page)
        steps.settled(page, wanted)
        assert steps.on_server(page) == wanted
    print("\nsettle latency, end of drag to losses: " + ", ".join(f"{one:.2f} s" for one in seconds))


def test_typing_keys_and_reset_reach_the_server_too(open_page, steps):
    page = open_page()
    count = len(steps.on_page(page))
    boxes = page.locator("#sliders .omega input[type=number]")
    boxes.nth(1).fill("-0.37")
    boxes.nth(1).blur()
    steps.settled(page, [None, -0.37])
    sliders(page).nth(0).focus()
    page.keyboard.press("0")
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    steps.settled(page, [0.2, -0.37])
    page.locator("#sliders .omega .reset-button").nth(1).click()
    page.wait_for_function("+document.querySelectorAll('#sliders .omega input[type=range]')[1].value !== -0.37")
    steps.settled(page, [0.2])
    page.locator("#preset-base").click()
    steps.settled(page, [0.0] * count)
    assert page.locator(".formula .term.zero").count() == count


def test_undo_and_redo_walk_back_and_forth(open_page, steps):
    page = open_page()
    start = steps.on_page(page)
    page.locator("#preset-uniform").click()
    steps.settled(page, [0.2] * len(start) if len(start) == 5 else [])
    uniform = steps.on_page(page)
    page.locator("#preset-base").click()
    steps.settled(page, [0.0] * len(start))
    page.locator("h2").first.click()
    page.keyboard.press("Control+z")
    steps.settled(page, uniform)
    page.locator("#undo").click()
    steps.settled(page, start)
    page.locator("#redo").click()
    steps.settled(page, uniform)
    page.keyboard.press("Control+Shift+z")
    steps.settled(page, [0.0] * len(start))


def test_a_value_out_of_range_is_told_and_leaves_nothing_wrong(open_page, steps):
    page = open_page()
    before = steps.on_server(page)
    box = page.locator("#sliders .omega input[type=number]").nth(2)
    box.fill("5")
    page.wait_for_timeout(1000)  # longer than a change rests before it is settled
    assert steps.on_server(page) == before
    assert "2" in box.evaluate("box => box.validationMessage")
    box.blur()
    steps.settled(page, [None, None, 2.0])
    assert steps.on_server(page)[2] == 2.0


def formula(page):
    return " ".join(page.locator(".formula").inner_text().split())


def plain(page, steps):
    """Back to the plain sum with equal ω, wherever the test before left the page."""
    steps.method(page, "task_arithmetic")
    page.locator("#preset-uniform").click()
    page.locator(".formula[data-method=task_arithmetic]").wait_for()
    steps.settled(page, [0.2] * 5)


def test_a_method_and_its_parameter_change_all_that_the_page_says(server, open_page, steps):
    page = open_page()
    plain(page, steps)
    digest, losses = page.locator("#header .digest").inner_text(), page.locator("section.bullets").inner_text()
    steps.method(page, "ties")
    page.locator(".formula[data-method=ties]").wait_for()
    steps.settled(page, [0.2] * 5)
    steps.parameter(page, "density", "0.3")
    page.wait_for_function("document.querySelector('.formula').textContent.includes('; density 0.3)')")
    steps.settled(page, [0.2] * 5)
    assert formula(page).startswith("Θ + ties(0.20·Δ")
    now = page.locator("#header .digest").inner_text()
    assert now != digest and page.locator("section.bullets").inner_text() != losses
    assert f"{now}.yml" in page.locator("#chart .cli code").inner_text()
    page.wait_for_function("d => document.querySelector('#answer-a small').textContent.includes(d)", arg=now)
    steps.tab(page, "Benchmark")
    page.wait_for_function("d => document.querySelector('#bench-line code')?.textContent.includes(d)", arg=now)
    steps.tab(page, "Export")
    page.locator("#export-name input, #export-name textarea").fill("tied")
    page.wait_for_function("document.querySelector('#export-preflight code')?.textContent.endsWith('tied')")
    assert f"{now}.yml" in page.locator("#export-preflight code").inner_text()
    page.locator("#export-run").click()
    page.locator("#export-job .tick", has_text="tied").wait_for(timeout=60_000)
    recipe = yaml.safe_load((server.workdir / "exports" / "tied" / "recipe.yml").read_text())
    assert recipe["merge_method"] == "ties" and recipe["parameters"] == {"density": 0.3}
    page.reload()  # the last method is remembered
    steps.exact(page)
    steps.settled(page, [0.2] * 5)
    assert page.locator("#header .digest").inner_text() == now
    plain(page, steps)


def test_a_bad_parameter_is_told_and_the_composition_stays(open_page, steps):
    page = open_page()
    plain(page, steps)
    steps.method(page, "ties")
    page.locator(".formula[data-method=ties]").wait_for()
    steps.settled(page, [0.2] * 5)
    digest, before = page.locator("#header .digest").inner_text(), formula(page)
    for value, words in (("3", "ties: density is 3, expected 0 to 1."), ("", "parameters.density is missing")):
        steps.parameter(page, "density", value)
        page.locator("#refused .message.problem", has_text=words).wait_for()
        steps.exact(page)
        assert (page.locator("#header .digest").inner_text(), formula(page)) == (digest, before)
        assert f"{before.replace(' ', '')}stays" in page.locator("#refused").inner_text().replace(" ", "")
    steps.tab(page, "Export")  # and an action is still on what is shown
    page.wait_for_function("d => document.querySelector('#export-preflight code')?.textContent.includes(d)", arg=digest)
    page.locator("#undo").click()  # back to what stands
    page.locator("#refused .message").wait_for(state="detached")
    assert page.get_by_label("density", exact=True).input_value() == "1"
    assert formula(page) == before
    plain(page, steps)


def test_undo_covers_the_method_and_its_parameters(open_page, steps):
    page = open_page()
    plain(page, steps)
    start = page.locator("#header .digest").inner_text()
    steps.method(page, "ties")
    page.locator(".formula[data-method=ties]").wait_for()
    steps.settled(page, [0.2] * 5)
    steps.parameter(page, "density", "0.5")
    page.wait_for_function("document.querySelector('.formula').textContent.includes('; density 0.5)')")
    steps.settled(page, [0.2] * 5)
    tied = page.locator("#header .digest").inner_text()
    page.locator("#undo").click()
    page.wait_for_function("!document.querySelector('.formula').textContent.includes('density')")
    steps.settled(page, [0.2] * 5)
    assert page.get_by_label("density", exact=True).input_value() == "1"
    page.locator("#undo").click()
    page.locator(".formula[data-method=task_arithmetic]").wait_for()
    steps.settled(page, [0.2] * 5)
    assert page.locator("#method input").input_value() == "task_arithmetic"
    assert page.locator("#header .digest").inner_text() == start
    page.locator("#redo").click()
    page.locator(".formula[data-method=ties]").wait_for()
    page.locator("#redo").click()
    page.wait_for_function("document.querySelector('.formula').textContent.includes('; density 0.5)')")
    steps.settled(page, [0.2] * 5)
    assert page.locator("#header .digest").inner_text() == tied
    plain(page, steps)


def test_a_method_without_omega_shows_which_vectors_take_part(open_page, steps):
    page = open_page()
    plain(page, steps)
    before = formula(page)
    steps.method(page, "slerp")
    page.locator("#refused .message", has_text="slerp: parameters.t is missing").wait_for()
    assert "ω plays no part" in page.locator("#method-about").inner_text()
    assert not page.locator("#sliders").is_visible() and page.locator("#members input:checked").count() == 5
    steps.parameter(page, "t", "0.25")
    page.locator("#refused .message", has_text="slerp takes exactly 1 model").wait_for()
    assert formula(page) == before
    for place in range(1, 5):
        page.locator("#members input").nth(place).uncheck()
        page.wait_for_function(
            "n => +document.querySelectorAll('#sliders .omega input[type=range]')[n].value === 0", arg=place
        )
    page.locator(".formula[data-method=slerp]").wait_for()
    assert re.fullmatch(r"slerp\(Θ, Θ\w+; t 0\.25\)", formula(page))
    assert page.locator("#refused .message").count() == 0
    steps.settled(page, [0.2, 0, 0, 0, 0])
    page.locator("#members input").nth(1).check()  # gets the ω back that it had
    page.locator("#refused .message", has_text="2 are given").wait_for()
    assert steps.on_page(page)[1] == 0.2
    page.locator("#preset-base").click()
    page.wait_for_function("!document.querySelector('#members input:checked')")
    plain(page, steps)
    assert page.locator("#sliders").is_visible() and not page.locator("#members").is_visible()


def test_two_pages_do_not_mix_their_compositions(open_page, steps):
    one, two = open_page(), open_page()
    one.locator("#preset-base").click()
    two.locator("#preset-uniform").click()
    steps.settled(one, [0.0] * 5)
    steps.settled(two, [0.2] * 5)
    assert steps.on_server(one) != steps.on_server(two)
    assert one.locator("#header .digest").inner_text() != two.locator("#header .digest").inner_text()


def test_the_composition_answers_and_follows_the_sliders(open_page, steps):
    page = open_page()
    page.locator("#preset-uniform").click()  # wherever the test before left the sliders
    steps.settled(page, [0.2] * 5)
    note = page.locator("#answer-a small")
    digest = page.locator("#header .digest").inner_text()
    page.wait_for_function("d => document.querySelector('#answer-a small').textContent.includes(d)", arg=digest)
    page.locator("#preset-base").click()
    steps.settled(page, [0.0] * 5)
    now = page.locator("#header .digest").inner_text()
    page.wait_for_function("d => document.querySelector('#answer-a small').textContent.includes(d)", arg=now)
    assert digest != now and now in note.inner_text()
    assert page.locator("#answer-b pre").inner_text() == page.locator("#answer-a pre").inner_text()  # both are the base


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
        "before => document.querySelector('#cosine .js-plotly-plot').layout.font.color !== before", arg=light
    )
    figure = page.evaluate("document.querySelector('#cosine .js-plotly-plot').data[0]")
    assert (figure["zmin"], figure["zmax"]) == (-1, 1)
    page.locator("#interference-go").click()
    page.get_by_text("on the whole validation set").wait_for()
    assert page.locator("#interference .js-plotly-plot").count() == 1


def test_a_benchmark_runs_beside_the_sliders_and_survives_a_reload(server, open_page, steps):
    page = open_page()
    steps.tab(page, "Benchmark")
    page.locator("#limit input, #limit textarea").fill("20")
    page.wait_for_function("document.querySelector('#bench-line code')?.textContent.includes('--limit 20')")
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
    assert page.locator("#bench-job .job").get_attribute("data-job") == number  # a double click started one
    page.locator("#runs tbody tr").first.wait_for()
    page.locator("#runs .copy").click()
    csv = page.evaluate("navigator.clipboard.readText()")
    assert csv.splitlines()[0].startswith("task,metric,score,stderr,n") and len(csv.splitlines()) > 1


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


def test_an_export_is_a_verified_folder_that_loads(server, open_page, steps):
    from transformers import AutoModelForCausalLM

    page = open_page()
    steps.tab(page, "Export")
    page.locator("#export-name input, #export-name textarea").fill("mine")
    page.wait_for_function("document.querySelector('#export-preflight code')?.textContent.endsWith('mine')")
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


def test_what_rounding_costs_is_shown_on_demand_and_never_under_another_composition(open_page, steps):
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
    assert page.locator("#rounding tbody tr").count() == 6  # the whole model and the five layers that lose most
    assert page.locator("#rounding tbody tr").first.inner_text().startswith("whole model")
    page.locator("#preset-base").click()
    page.locator("#rounding table.data").wait_for(state="detached")


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


def test_a_name_that_is_markup_stays_a_name(open_page, steps):
    page = open_page()
    steps.tab(page, "Models")
    page.locator("#open-models table").wait_for()
    page.locator("#pick-checkpoints input").click()
    page.get_by_role("option", name=re.compile("img src")).click()
    page.locator("#open").click()
    page.locator("#open-report .message.done").wait_for()
    page.locator("#sliders label", has_text="<img src").wait_for()
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


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_narrow_pages_do_not_scroll_sideways(open_page, steps, theme):
    page = open_page(390, 844, theme)
    for name in ("Compose", "Models", "Geometry", "Benchmark", "Compare", "Export"):
        steps.tab(page, name)
        page.wait_for_timeout(500)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
    top = page.evaluate("document.querySelector('#sliders').getBoundingClientRect().top")
    assert top < page.evaluate("document.querySelector('#tabs').getBoundingClientRect().top")  # sliders first


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_that_is_ours(open_page, steps, theme):
    from axe_playwright_python.sync_playwright import Axe

    page = open_page(theme=theme)
    found = {}
    for name in ("Compose", "Models", "Geometry", "Benchmark", "Compare", "Export"):
        steps.tab(page, name)
        page.wait_for_timeout(1200)
        for violation in Axe().run(page).response["violations"]:
            if violation["id"] not in ALLOWED:
                nodes = [node["html"][:160] for node in violation["nodes"][:4]]
                found[f"{name}: {violation['id']}"] = nodes
    assert not found, json.dumps(found, indent=1)


def test_another_site_is_refused(server):
    import http.client

    def status(method, path, headers, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.request(method, path, body=body, headers=headers)
        answer = connection.getresponse()
        connection.close()
        return answer.status, {key.lower(): value for key, value in answer.getheaders()}

    own = f"127.0.0.1:{server.port}"
    ok, headers = status("GET", "/", {"Host": own})
    assert ok == 200 and headers["x-frame-options"] == "DENY" and headers["x-content-type-options"] == "nosniff"
    assert status("GET", "/", {"Host": "evil.example"})[0] == 400
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\nhello\r\n--x--\r\n'
    form = {"Host": own, "Content-Type": "multipart/form-data; boundary=x"}
    for origin in ("https://evil.example", "null"):
        assert status("POST", "/gradio_api/upload", form | {"Origin": origin}, body)[0] == 403
    assert status("GET", "/monitoring", {"Host": own})[0] in (403, 404)
    for path in ("/gradio_api/file=/etc/passwd", "/gradio_api/file=app.py", "/gradio_api/file=..%2f..%2fetc%2fpasswd"):
        assert status("GET", path, {"Host": own})[0] in (403, 404), path


def test_no_listener_is_a_public_endpoint(server):
    import urllib.request

    with urllib.request.urlopen(f"{server.address}gradio_api/info") as answer:
        info = json.load(answer)
    assert info["named_endpoints"] == {} and info["unnamed_endpoints"] == {}


def test_nothing_of_the_workdir_is_left_half_written(server):
    exports = Path(server.workdir) / "exports"
    assert not [path.name for path in exports.glob(".*")]
