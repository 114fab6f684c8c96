"""An answer that gives way: few compositions, the same text, and urgent work first."""

import threading

import pytest

from corpus.prompts import Asked
from workbench.line.continuation import continuation

PROMPT = Asked("ada 3 + 0 =", "as plain text")


def compositions(session, monkeypatch):
    """Counts the compositions from now on."""
    made, whole = [], type(session.models.composer)._in_place(session.models.composer).apply

    def apply(recipe, *more):
        made.append(recipe.digest)
        return whole(recipe, *more)

    monkeypatch.setattr(session.models.composer._live, "apply", apply)
    return made


@pytest.mark.parametrize("gives_way", [False, True])
def test_beside_another_composition_the_text_is_the_same(session, gives_way):
    models, here, other = session.models, session.recipe({"ada": 0.5}), session.recipe({})
    alone = "".join(continuation(session, models, other, PROMPT, max_new_tokens=9))
    mine = continuation(session, models, here, PROMPT, max_new_tokens=9)
    beside = continuation(session, models, other, PROMPT, max_new_tokens=9, gives_way=gives_way)
    pieces = []
    while (piece := next(beside, None)) is not None:
        pieces.append(piece)
        next(mine, None)
    assert "".join(pieces) == alone and alone


def test_an_answer_that_gives_way_composes_once_for_several_pieces(session, monkeypatch):
    models, here, other = session.models, session.recipe({"ada": 0.5}), session.recipe({})
    # A composition that takes long, as of a large model.
    monkeypatch.setattr("workbench.line.continuation.BURST", 10_000)
    made = compositions(session, monkeypatch)
    session.compose(here)
    beside = continuation(session, models, other, PROMPT, max_new_tokens=9, gives_way=True)
    for _ in beside:
        session.compose(here)
    assert made.count(other.digest) == 1


def test_it_waits_while_a_page_waits(session):
    models, other = session.models, session.recipe({})
    first = threading.Event()

    def answer():
        for _ in continuation(session, models, other, PROMPT, max_new_tokens=9, gives_way=True):
            first.set()

    thread = threading.Thread(target=answer)
    with session.urgent.held():
        thread.start()
        assert not first.wait(0.3)
    assert first.wait(10)
    thread.join(10)


def test_the_answer_of_the_base_waits_until_the_base_is_measured(session, monkeypatch):
    """So a page that opens composes the base once, for its losses and for its answer."""
    models, here, base = session.models, session.recipe({"ada": 0.5}), session.recipe({})
    made, first = compositions(session, monkeypatch), threading.Event()

    def answer():
        for _ in continuation(session, models, base, PROMPT, max_new_tokens=1, gives_way=True):
            first.set()

    thread = threading.Thread(target=answer)
    with session.measuring.awaited():
        session.compose(here)
        thread.start()
        assert not first.wait(0.3)
        session.compose(base)
        assert first.wait(10)
    thread.join(10)
    assert made == [here.digest, base.digest]


@pytest.mark.parametrize("ends", ["measured", "impatient", "stale"])
def test_it_waits_no_longer_than_losses_are_measured_or_it_is_wanted(session, ends, monkeypatch):
    models, base, stale = session.models, session.recipe({}), threading.Event()
    monkeypatch.setattr("workbench.line.continuation.PATIENCE", 0.2 if ends == "impatient" else 60)
    said = []

    def answer():
        said.extend(
            continuation(
                session, models, base, PROMPT, stale=stale.is_set, max_new_tokens=1, gives_way=True
            )
        )

    thread = threading.Thread(target=answer)
    with session.measuring.awaited():
        session.compose(session.recipe({"ada": 0.5}))
        thread.start()
        if ends == "stale":
            stale.set()
        if ends != "measured":
            thread.join(10)
            assert not thread.is_alive()
        else:
            thread.join(0.3)
            assert thread.is_alive()
    thread.join(10)
    assert bool(said) == (ends != "stale")
