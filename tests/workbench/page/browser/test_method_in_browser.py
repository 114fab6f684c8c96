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
    for place in ("#chart .cli code", "#answer-a small"):  # they follow the model at rest
        page.wait_for_function(
            "([at, d]) => document.querySelector(at).textContent.includes(d)", arg=[place, now]
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
def test_a_bad_parameter_is_told_beside_its_field_and_the_composition_stays(open_page, steps):
    page = open_page()
    plain(page, steps)
    by_ties(page, steps)
    digest, before = page.locator("#header .digest").inner_text(), formula(page)
    for value, words in (("3", "from 0 to 1"), ("", "not a number"), ("x", "not a number")):
        steps.parameter(page, "density", value)
        page.locator(".field .field-error", has_text=words).wait_for()
        steps.exact(page)
        assert (page.locator("#header .digest").inner_text(), formula(page)) == (digest, before)
    steps.tab(page, "Export")  # and an action is still on what is shown
    page.wait_for_function(
        "d => document.querySelector('#export-preflight code')?.textContent.includes(d)", arg=digest
    )
    steps.parameter(page, "density", "0.5")
    page.wait_for_function("!document.querySelector('.field .field-error').textContent")
    steps.settled(page, [0.2] * 5)
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
    assert page.locator("#parameter-density").input_value() == "1"
    page.locator("#undo").click()
    page.locator(".formula[data-method=task_arithmetic]").wait_for()
    steps.settled(page, [0.2] * 5)
    assert page.locator("#method-choice").input_value() == "task_arithmetic"
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
    page.locator(".field .field-error", has_text="needs a value").wait_for()
    assert "This method has no ω" in page.locator("#controls .about").inner_text()
    members = page.locator(".members input")
    assert not page.locator("#sliders").is_visible()
    assert page.locator(".members input:checked").count() == 5
    assert formula(page) == before  # nothing is composed before the parameter has a value
    steps.parameter(page, "t", "0.25")
    page.locator("#controls .message.problem", has_text="slerp takes exactly 1 model").wait_for()
    assert formula(page) == before and page.locator("#sliders").is_visible()
    for place in range(1, 5):  # one vector is left
        page.locator(".omega .reset").nth(place).click()
    steps.settled(page, [0.2, 0, 0, 0, 0])
    steps.method(page, "slerp")
    steps.parameter(page, "t", "0.25")
    page.wait_for_function("document.querySelector('.formula').textContent.includes('slerp')")
    assert re.fullmatch(r"slerp\(Θ, Θ\w+; t 0\.25\)", formula(page))
    assert page.locator("#controls .message.problem").count() == 0
    steps.settled(page, [0.2, 0, 0, 0, 0])
    members.nth(1).click()  # two are too many: refused, and back to one
    page.locator("#controls .message.problem", has_text="2 are given").wait_for()
    page.wait_for_function("document.querySelectorAll('.members input:checked').length === 1")
    plain(page, steps)
    assert page.locator("#sliders").is_visible() and not members.first.is_visible()
