"""Continues a prompt with a composition, and frees the live module between two pieces of text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from workbench.session.tickets import Stale

if TYPE_CHECKING:
    from merging.recipe import Recipe
    from workbench.session.models import Models
    from workbench.session.session import Session


def continuation(
    session: Session,
    models: Models,
    recipe: Recipe,
    prompt: str,
    *,
    stale: Stale = lambda: False,
    max_new_tokens: int = 64,
) -> Iterator[str]:
    """Yields a composition's continuation of a prompt, piece by piece.

    Between two pieces somebody else may compose another recipe. Composing the same one again gives
    the same weights, so the text goes on as if nothing had happened.

    Args:
        session: the session.
        models: the open models.
        recipe: the composition.
        prompt: what a person typed or chose; see corpus.prompts.
        stale: asked before each piece; True ends the text.
        max_new_tokens: the longest text, in tokens.

    Raises:
        SessionError: the base has no tokenizer.
        DataError: the prompt is empty or fills the model's context.
        CorpusError: the chat template refuses the prompt.
    """
    from corpus.prompts import ask
    from evaluation.errors import Stopped
    from evaluation.generation import generate

    tokenizer = models.tokenizer()
    offered = [each for data in models.data.values() for each in data.prompts]
    asked = ask(prompt, offered, tokenizer)
    pieces: Iterator[str] | None = None
    while not stale():
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
                piece = next(pieces, None)
        except Stopped:
            return
        if piece is None:
            return
        yield piece
