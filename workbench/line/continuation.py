"""Asks a composition a question, and frees the live module between pieces of its answer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from workbench.session.losses import SLICE
from workbench.session.tickets import Stale

if TYPE_CHECKING:
    from corpus.prompts import Asked
    from merging.recipe import Recipe
    from workbench.session.models import Models
    from workbench.session.session import Session


BURST = 4
"""An answer that gives way keeps the module for this many times as long as composing took."""
PATIENCE = 60.0
"""Seconds for which a part of such an answer waits for the losses that a page measures."""


def asked_of(models: Models, prompt: str, plain: bool) -> Asked:
    """Returns what the open models are given for a prompt; see corpus.prompts.

    Args:
        models: the open models.
        prompt: what a person typed or chose.
        plain: whether the person wants it sent as plain text.

    Raises:
        SessionError: the base has no tokenizer.
        CorpusError: the chat template refuses the prompt.
    """
    from corpus.prompts import ask

    offered = [each for data in models.data.values() for each in data.prompts]
    return ask(prompt, offered, models.tokenizer(), plain=plain)


def continuation(
    session: Session,
    models: Models,
    recipe: Recipe,
    asked: Asked,
    *,
    stale: Stale = lambda: False,
    max_new_tokens: int = 64,
    gives_way: bool = False,
) -> Iterator[str]:
    """Yields a composition's continuation of a question, piece by piece.

    Between two pieces somebody else may compose another recipe. Composing the same one again gives
    the same weights, so the text goes on as if nothing had happened.

    Args:
        session: the session.
        models: the open models.
        recipe: the composition.
        asked: the question, as `asked_of` gives it.
        stale: asked before each piece; True ends the text.
        max_new_tokens: the longest text, in tokens.
        gives_way: whether it waits while a page waits for something else, for losses too unless
            they are of the same composition. It then composes once for several pieces: with a
            composition for each, neither would come forward.

    Raises:
        SessionError: the base has no tokenizer.
        DataError: the question is empty or fills the model's context.
    """
    from evaluation.errors import Stopped
    from evaluation.generation import generate

    tokenizer = models.tokenizer()
    pieces: Iterator[str] | None = None
    while not stale():
        if gives_way:
            session.urgent.wait(stale)
            _wait_for_losses(session, models, recipe, stale)
        begin = time.monotonic()
        try:
            with session.composed(models, recipe, stale) as module:
                pieces = pieces or generate(
                    module,
                    tokenizer,
                    asked.text,
                    max_new_tokens=max_new_tokens,
                    should_stop=stale,
                    written=asked.written,
                )
                until = time.monotonic() + BURST * (time.monotonic() - begin) * gives_way
                burst = [next(pieces, None)]
                while burst[-1] is not None and time.monotonic() < until and not session.urgent:
                    burst.append(next(pieces, None))
        except Stopped:
            return
        yield from (piece for piece in burst if piece is not None)
        if burst[-1] is None:
            return


def _wait_for_losses(session: Session, models: Models, recipe: Recipe, stale: Stale) -> None:
    """Waits until no losses are measured, or the module stands at the recipe, or it took too long.

    Losses of the base are measured when models are opened. Its answer then needs no composition.
    """
    end = time.monotonic() + PATIENCE
    while session.measuring.busy and not models.composer.stands(recipe):
        if stale() or time.monotonic() > end:
            return
        time.sleep(SLICE)
