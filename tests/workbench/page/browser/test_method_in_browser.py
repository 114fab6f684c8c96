"""The merge method and its parameters on the page: what is shown, what is refused, what undo brings back."""

import re

import pytest
import yaml

pytestmark = pytest.mark.browser


def formula(page):
    return " ".join(page.locator(".formula").inner_text().split())


def plain(page, steps):
    """Back to the plain sum with equal ω, wherever the test before left the page."""
    steps.method(page, "task_arithmetic")
    page.locator("#preset-uniform").click()
    page.locator(".formula[data-method=task_arithmetic]").wait_for()
    steps.settled(page, [0.2] * 5)


def by_ties(page, steps):
    """TIES with the ω that the page shows, which are equal."""
    steps.method(page, "ties")
    page.locator(".formula[data-method=ties]").wait_for()
    steps.settled(page, [0.2] * 5)


@pytest.mark.slow
def test_a_method_and_its_parameter_change_all_that_the_page_says(server, open_page, steps):
    page = open_page()
    plain(page, steps)
    digest, losses = (
        page.locator("#header .digest").inner_text(),
        page.locator("section.bullets").inner_text(),
    )
    by_ties(page, steps)
    steps.parameter(page, "density", "0.3")
    page.wait_for_function(
        "document.querySelector('.formula').textContent.includes('; density 0.3)')"
    )
    steps.settled(page, [0.2] * 5)
    assert formula(page).startswith("Θ + ties(0.20·Δ")
    now = page.locator("#header .digest").inner_text()
    assert now != digest and page.locator("section.bullets").inner_text() != losses
    assert f"{now}.yml" in page.locator("#chart .cli code").inner_text()
    page.wait_for_function(
        "d => document.querySelector('#answer-a small').textContent.includes(d)", arg=now
    )
    steps.tab(page, "Benchmark")
    page.wait_for_function(
        "d => document.querySelector('#bench-line code')?.textContent.includes(d)", arg=now
    )
    steps.tab(page, "Export")
    page.locator("#export-name input, #export-name textarea").fill("tied")
    page.wait_for_function(
        "document.querySelector('#export-preflight code')?.textContent.endsWith('tied')"
    )
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


@pytest.mark.slow
def test_a_bad_parameter_is_told_and_the_composition_stays(open_page, steps):
    page = open_page()
    plain(page, steps)
    by_ties(page, steps)
    digest, before = page.locator("#header .digest").inner_text(), formula(page)
    for value, words in (
        ("3", "ties: density is 3; it must be between 0 and 1."),
        ("", "parameters.density is missing"),
    ):
        steps.parameter(page, "density", value)
        page.locator("#refused .message.problem", has_text=words).wait_for()
        steps.exact(page)
        assert (page.locator("#header .digest").inner_text(), formula(page)) == (digest, before)
        assert f"Stillinuse:{before.replace(' ', '')}" in page.locator(
            "#refused"
        ).inner_text().replace(" ", "")
    steps.tab(page, "Export")  # and an action is still on what is shown
    page.wait_for_function(
        "d => document.querySelector('#export-preflight code')?.textContent.includes(d)", arg=digest
    )
    page.locator("#undo").click()  # back to what stands
    page.locator("#refused .message").wait_for(state="detached")
    assert page.get_by_label("density", exact=True).input_value() == "1"
    assert formula(page) == before
    plain(page, steps)


@pytest.mark.slow
def test_undo_covers_the_method_and_its_parameters(open_page, steps):
    page = open_page()
    plain(page, steps)
    start = page.locator("#header .digest").inner_text()
    by_ties(page, steps)
    steps.parameter(page, "density", "0.5")
    page.wait_for_function(
        "document.querySelector('.formula').textContent.includes('; density 0.5)')"
    )
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
    page.wait_for_function(
        "document.querySelector('.formula').textContent.includes('; density 0.5)')"
    )
    steps.settled(page, [0.2] * 5)
    assert page.locator("#header .digest").inner_text() == tied
    plain(page, steps)


@pytest.mark.slow
def test_a_method_without_omega_shows_which_vectors_take_part(open_page, steps):
    page = open_page()
    plain(page, steps)
    before = formula(page)
    steps.method(page, "slerp")
    page.locator("#refused .message", has_text="slerp: parameters.t is missing").wait_for()
    assert "This method has no ω" in page.locator("#method-about").inner_text()
    assert (
        not page.locator("#sliders").is_visible()
        and page.locator("#members input:checked").count() == 5
    )
    steps.parameter(page, "t", "0.25")
    page.locator("#refused .message", has_text="slerp takes exactly 1 model").wait_for()
    assert formula(page) == before
    for place in range(1, 5):
        page.locator("#members input").nth(place).uncheck()
        page.wait_for_function(
            "n => +document.querySelectorAll('#sliders .omega input[type=range]')[n].value === 0",
            arg=place,
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
