"""A dragged adapter shows where it is without a weight being written; what settles is exact, and the last wish lands."""

import threading

import pytest
import torch

from corpus.prompts import Asked
from merging.errors import NotMounted
from tests.workbench.conftest import measuring
from workbench.line.continuation import continuation
from workbench.session.standing import Choice

QUESTION = Asked("ada 3 + 0 =", "as plain text")
SETTLED = (0.5, -0.25, 0.75)


def bits(session):
    return {
        name: value.clone() for name, value in session.models.loaded.module.state_dict().items()
    }


def entries(session):
    return session.book._database.rows("SELECT composition, data FROM losses ORDER BY 1, 2")


@pytest.fixture
def settled(session):
    """The recipe that the session stands at, measured: the ends of the axis are in the book."""
    recipe = session.recipe(SETTLED)
    list(measuring(session, recipe))
    session.compose(recipe)  # the ends of the axes were composed in between
    return recipe


def test_a_preview_shows_the_quick_losses_of_the_move_and_writes_nothing(session, settled):
    before, kept = bits(session), entries(session)
    wanted = session.recipe((0.5, -0.25, -0.6))
    shown = session.preview(settled, wanted)
    assert list(shown) == ["ada", "bob", "lora"]
    assert all(torch.equal(value, before[name]) for name, value in bits(session).items())
    assert entries(session) == kept, "what is not exact is not kept"
    exact = session.losses(wanted, "quick")
    for name, point in shown.items():
        assert point.quick and point.loss.n == exact[name].n
        assert point.loss.value == pytest.approx(exact[name].value, rel=1e-5)
        assert (point.base, point.expert) == session.baselines("quick")[name]
    standing = session.losses(settled, "quick")[
        "lora"
    ].value  # the twin: it is not what was settled
    assert abs(standing - exact["lora"].value) > 100 * abs(
        shown["lora"].loss.value - exact["lora"].value
    )


def test_settled_weights_and_answers_are_the_same_after_any_drag(session, settled):
    wanted = session.recipe((0.5, -0.25, 1.5))
    session.compose(wanted)
    exact, said = (
        bits(session),
        "".join(continuation(session, session.models, wanted, QUESTION, max_new_tokens=7)),
    )
    session.compose(settled)
    for omega in (0.8, 1.1, -0.4, 1.5):
        session.preview(settled, session.recipe((0.5, -0.25, omega)))
    assert (
        "".join(continuation(session, session.models, wanted, QUESTION, max_new_tokens=7)) == said
    )
    assert all(torch.equal(value, exact[name]) for name, value in bits(session).items())
    assert not any(one._forward_hooks for one in session.models.loaded.module.modules())


def test_what_was_composed_elsewhere_meanwhile_is_left_for_what_is_settled(session, settled):
    """Another page's composition, or an end of the axis that was being measured when the drag began."""
    wanted = session.recipe((0.5, -0.25, -0.6))
    first = session.preview(settled, wanted)
    session.compose(session.recipe((1.0, 1.0, 0.0)))
    again = session.preview(settled, wanted)
    assert {name: point.loss for name, point in again.items()} == {
        name: point.loss for name, point in first.items()
    }


def test_a_move_that_has_to_be_composed_says_why_and_composes_nothing(session, settled):
    session.compose(session.recipe((0.0, 0.0, 0.0)))
    before = bits(session)
    with pytest.raises(NotMounted, match="ada moves too, and it is not an adapter"):
        session.preview(settled, session.recipe((0.6, -0.25, 0.75)))
    ties = Choice("ties", {"density": 0.5})
    with pytest.raises(NotMounted, match="ties is not linear"):
        session.preview(session.recipe(SETTLED, ties), session.recipe((0.5, -0.25, 0.8), ties))
    assert all(torch.equal(value, before[name]) for name, value in bits(session).items())
    assert session.models.adapters == ["lora"]


def test_a_model_that_is_loaded_anew_says_so(session, settled, monkeypatch):
    monkeypatch.setattr(session.models.composer, "_loaded", type("Anew", (), {"reloads": True}))
    with pytest.raises(NotMounted, match="each composition is loaded anew"):
        session.preview(settled, session.recipe((0.5, -0.25, 0.8)))


def test_without_ends_of_the_axis_nothing_is_shown(session):
    settled = session.recipe(SETTLED)
    session.compose(settled)
    before = bits(session)
    assert session.preview(settled, session.recipe((0.5, -0.25, 0.8))) == {}
    assert all(torch.equal(value, before[name]) for name, value in bits(session).items())


def test_an_overtaken_preview_ends_and_says_nothing(session, settled):
    wanted = session.recipe((0.5, -0.25, 0.8))
    assert session.preview(settled, wanted, lambda: True) is None
    asked = iter(range(100))
    assert session.preview(settled, wanted, lambda: next(asked) >= 2) is None
    assert not any(one._forward_hooks for one in session.models.loaded.module.modules())
    assert session.preview(settled, wanted) is not None


def test_previews_of_one_page_and_settling_of_another_do_not_mix(session, settled):
    """Eight threads on one module: each sees its own composition, bit for bit or up to rounding."""
    settles = [session.recipe((0.1 * number, 0.2, 0.3)) for number in range(4)]
    moves = [session.recipe((0.5, -0.25, 0.1 * number)) for number in range(4)]
    exact = [session.losses(recipe, "quick")["ada"].value for recipe in moves]
    found, wrong = [None] * 4, []

    def settle(recipe):
        session.compose(recipe)

    def drag(number):
        try:
            found[number] = session.preview(settled, moves[number])["ada"].loss.value
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=settle, args=[recipe]) for recipe in settles]
    threads += [threading.Thread(target=drag, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert found == pytest.approx(exact, rel=1e-5)
