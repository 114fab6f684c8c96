"""The page itself: sliders, undo, two readers, narrow screens, screen readers, other sites."""

import json
import time

import pytest

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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_dragged_slider_reaches_the_server_and_its_losses_the_page(open_page, steps):
    page = open_page()
    seconds = []
    for share in (0.85, 0.2, 0.55):
        before = page.locator("section.bullets").get_attribute("data-digest")
        drag(page, 0, share)
        begin = time.monotonic()
        page.wait_for_function(
            "before => { const chart = document.querySelector('section.bullets');"
            " return chart.dataset.digest !== before && chart.dataset.stage !== 'behind'; }",
            arg=before,
            timeout=10_000,
        )
        seconds.append(time.monotonic() - begin)
        wanted = steps.on_page(page)
        steps.settled(page, wanted)
        assert steps.on_server(page) == wanted
    print(
        "\nsettle latency, end of drag to losses: " + ", ".join(f"{one:.2f} s" for one in seconds)
    )


@pytest.mark.slow
def test_typing_keys_and_reset_reach_the_server_too(open_page, steps):
    page = open_page()
    count = len(steps.on_page(page))
    boxes = page.locator(".omega .figures")
    boxes.nth(1).fill("-0.37")
    boxes.nth(1).blur()
    steps.settled(page, [None, -0.37])
    sliders(page).nth(0).focus()
    page.keyboard.press("0")
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    steps.settled(page, [0.2, -0.37])
    page.locator(".omega .reset").nth(1).click()
    steps.settled(page, [0.2, 0.0])
    page.locator("#preset-base").click()
    steps.settled(page, [0.0] * count)
    assert page.locator(".formula .term.zero").count() == count


@pytest.mark.slow
def test_undo_and_redo_walk_back_and_forth(open_page, steps):
    page = open_page()
    # A page opens at the best composition that is known, which may be one of the presets below.
    page.locator(".omega .figures").first.fill("0.9")
    page.keyboard.press("Enter")
    steps.settled(page, [0.9])
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


@pytest.mark.slow
def test_two_pages_do_not_mix_their_compositions(open_page, steps):
    one, two = open_page(), open_page()
    one.locator("#preset-base").click()
    two.locator("#preset-uniform").click()
    steps.settled(one, [0.0] * 5)
    steps.settled(two, [0.2] * 5)
    assert steps.on_server(one) != steps.on_server(two)
    assert (
        one.locator("#header .digest").inner_text() != two.locator("#header .digest").inner_text()
    )


@pytest.mark.slow
def test_the_composition_answers_and_follows_the_sliders(open_page, steps):
    page = open_page()
    page.locator("#preset-uniform").click()  # wherever the test before left the sliders
    steps.settled(page, [0.2] * 5)
    note = page.locator("#answer-a small")
    digest = page.locator("#header .digest").inner_text()
    page.wait_for_function(
        "d => document.querySelector('#answer-a small').textContent.includes(d)", arg=digest
    )
    page.locator("#preset-base").click()
    steps.settled(page, [0.0] * 5)
    now = page.locator("#header .digest").inner_text()
    page.wait_for_function(
        "d => document.querySelector('#answer-a small').textContent.includes(d)", arg=now
    )
    assert digest != now and now in note.inner_text()
    # Both are the base; B may still be writing.
    page.wait_for_function(
        "document.querySelector('#answer-b pre').textContent"
        " === document.querySelector('#answer-a pre').textContent"
    )


@pytest.mark.slow
def test_a_question_is_asked_in_the_chat_template_or_as_plain_text(
    talking, small, open_page, steps
):
    page = open_page(at=talking)
    switch = page.locator("#ask-form input")

    def asked(form):
        """Wait until both answers are whole and were asked in this form."""
        for note in ("#answer-a small", "#answer-b small"):
            page.locator(note, has_text=f"asked {form} · recipe").wait_for()

    asked("as plain text")  # the example that a page begins with, as its dataset has it
    page.locator("#prompt textarea").fill("6 + 7 =")
    page.locator("#send").click()
    asked("in the chat template")
    switch.check()
    asked("as plain text")
    page.reload()
    asked("as plain text")
    assert switch.is_checked()
    switch.uncheck()
    page.locator("#prompt textarea").fill("6 + 7 =")
    page.locator("#send").click()
    asked("in the chat template")
    # Without a template there is nothing to choose.
    page = open_page(at=small)
    page.locator("#answer-a small", has_text="asked as plain text · recipe").wait_for()
    assert not page.locator("#ask-form").get_by_text("Send as plain text").is_visible()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.slow
def test_narrow_pages_do_not_scroll_sideways(open_page, steps, theme):
    page = open_page(390, 844, theme)
    for name in ("Compose", "Models", "Geometry", "Benchmark", "Compare", "Export"):
        steps.tab(page, name)
        page.wait_for_timeout(500)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
    top = page.evaluate("document.querySelector('#sliders').getBoundingClientRect().top")
    assert top < page.evaluate(
        "document.querySelector('#tabs').getBoundingClientRect().top"
    )  # sliders first


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.slow
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


@pytest.mark.slow
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
    assert (
        ok == 200
        and headers["x-frame-options"] == "DENY"
        and headers["x-content-type-options"] == "nosniff"
    )
    assert status("GET", "/", {"Host": "evil.example"})[0] == 400
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\nhello\r\n--x--\r\n'
    form = {"Host": own, "Content-Type": "multipart/form-data; boundary=x"}
    for origin in ("https://evil.example", "null"):
        assert status("POST", "/gradio_api/upload", form | {"Origin": origin}, body)[0] == 403
    assert status("GET", "/monitoring", {"Host": own})[0] in (403, 404)
    for path in (
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=app.py",
        "/gradio_api/file=..%2f..%2fetc%2fpasswd",
    ):
        assert status("GET", path, {"Host": own})[0] in (403, 404), path


@pytest.mark.slow
def test_no_listener_is_a_public_endpoint(server):
    import urllib.request

    with urllib.request.urlopen(f"{server.address}gradio_api/info") as answer:
        info = json.load(answer)
    assert info["named_endpoints"] == {} and info["unnamed_endpoints"] == {}
