"""The fields of the merge methods, made from signatures; and the formula in force, which is the recipe's own."""

import html
import re

import gradio as gr
import pytest

from merging.errors import RecipeError
from merging.methods import _contract as methods
from merging.recipe.formula import formula
from workbench.page.tabs import method as tab
from workbench.page.tabs.formula_line import formula_html
from workbench.session.standing import Choice, Standing, live_methods

REQUIRED = {"slerp": {"t": 0.25}, "nearswap": {"t": 0.01}}


def value_of(update):
    return update["value"] if isinstance(update, dict) else update.value


def form(session, method, **parameters):
    """What the page would send for the fields that it was shown."""
    with gr.Blocks():
        shown = tab.picker_updates(session, Standing((0.5, 0.0, 0.75), Choice(method, parameters)))
    return [shown[5], *map(value_of, shown[6:])]


@pytest.mark.parametrize("method", methods.names())
def test_the_pools_have_a_field_for_each_parameter(method):
    for kind, params in tab.parameters(method).items():
        assert len(params) <= tab.POOL[kind]
    count = sum(map(len, tab.parameters(method).values()))
    assert count == len([param for param in methods.load(method).parameters if not param.file])


@pytest.mark.parametrize("method", live_methods(3))
@pytest.mark.slow
def test_fields_as_they_are_shown_say_the_choice_that_they_show(session, method):
    known = REQUIRED.get(method, {})
    assert tab.read_choice(form(session, method, **known)) == Choice(method, known)
    if known:
        with pytest.raises(RecipeError, match="parameters.t is missing"):
            tab.read_choice(form(session, method))


@pytest.mark.slow
def test_a_field_tells_help_range_and_that_all_vectors_share_it(session):
    (density, _), (elect, divide), (normalize, rescale) = tab.parameters("ties").values()
    with gr.Blocks():
        number, word, tick = (
            tab._field(param, {"density": 0.2}) for param in (density, elect, rescale)
        )
    assert (
        number.info
        == "the share of the entries of each delta that is kept; 0 to 1; same for all vectors"
    )
    assert (number.value, number.minimum, number.maximum) == (
        0.2,
        None,
        None,
    )  # the engine refuses, not the widget
    assert word.value == "weighted" and [name for name, _ in word.choices] == [
        "weighted",
        "unweighted",
    ]
    assert tick.value is False and normalize.default is True and divide.name == "divide_by"


@pytest.mark.parametrize("method", live_methods(3))
def test_the_formula_on_the_page_is_the_recipes(session, method):
    names, least = session.models.names, methods.load(method).vectors[0]
    for omegas in ((0.5, -0.25, 0.75), (-0.5, 0.0, 0.75), (-0.5, 0.0, 0.0)):
        taking = tab.nonzero_vectors(names, omegas)
        if not least <= len(taking) <= (methods.load(method).vectors[1] or len(taking)):
            continue  # the method takes another number of vectors, which another of these has
        recipe = session.recipe(omegas, Choice(method, REQUIRED.get(method, {})))
        shown = formula_html(recipe, names, omegas)
        text = html.unescape(re.sub("<[^>]*>", "", shown))
        assert text.replace(" ", "") == formula(recipe).replace(" ", "")
        assert {names[int(place)] for place in re.findall(r'data-term="(\d)"', shown)} >= set(
            taking
        )


def test_names_that_are_markup_or_look_like_terms_stay_names(session, world):
    names = ["<img src=x>", "Δ0.50·Δ", "b"]
    paths = [
        (world / folder, name) for folder, name in zip(("ada", "bob", "lora"), names, strict=True)
    ]
    session.open(world / "base", paths, None)
    recipe = session.recipe((0.5, 0.5, 0.5), Choice("ties"))
    shown = formula_html(recipe, names, (0.5, 0.5, 0.5))
    assert "<img" not in shown
    assert html.unescape(re.sub("<[^>]*>", "", shown)) == formula(recipe)


def test_what_is_said_of_a_method():
    about = tab.about_html("slerp", ["slerp"])
    assert "This method has no ω" in about and "It takes exactly 1 vector." in about
    assert "It takes exactly 2 vectors; set ω of the others to 0." in tab.about_html("nuslerp", [])
    assert "It takes at least 2 vectors." in tab.about_html("model_stock", [])
    assert "has no ω" not in tab.about_html("ties", []) and "takes" not in tab.about_html(
        "linear", []
    )
