"""stream_answer: generates text in a thread of its own and yields it in pieces."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any


def stream_answer(
    with_module: Callable[[Callable[[Any], None]], None],
    tokenizer: Any,
    prompt: str,
    stale: Callable[[], bool],
    max_new_tokens: int,
) -> Iterator[str]:
    """Yields a module's continuation of a prompt, piece by piece.

    Args:
        with_module: calls its argument with the module, which does not change meanwhile.
        tokenizer: the tokenizer of the module.
        prompt: the text to continue.
        stale: asked between pieces; True ends the answer.
        max_new_tokens: the longest answer, in tokens.

    Raises:
        Exception: whatever the thread raised, at the piece where it happened.
    """
    from evaluation.generation import generate

    pieces: queue.Queue[str | Exception | None] = queue.Queue()
    # Set when the page leaves the generator. Otherwise the thread would generate to the last token
    # and hold the lock of the module until then.
    closed = threading.Event()

    def stop() -> bool:
        return closed.is_set() or stale()

    def answer(module: Any) -> None:
        for piece in generate(
            module, tokenizer, prompt, max_new_tokens=max_new_tokens, should_stop=stop
        ):
            pieces.put(piece)

    # In its own thread, because with_module holds a lock: the page may resume its generators from
    # different threads, so a lock must not be held across a yield.
    def work() -> None:
        try:
            with_module(answer)
            pieces.put(None)
        # Handed over, because an error in a thread is only printed, and the page would wait for a
        # piece that never comes.
        except Exception as error:
            pieces.put(error)

    threading.Thread(target=work, name="answer", daemon=True).start()
    try:
        while (piece := pieces.get()) is not None:
            if isinstance(piece, Exception):
                raise piece
            yield piece
    finally:
        closed.set()
