"""An answer piece by piece, made in a thread of its own."""

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
    """A module's continuation of a prompt.

    Args:
        with_module: runs work on the module, which stays as it is until the work is done.
        tokenizer: the module's.
        prompt: what to continue.
        stale: whether the answer is wanted no more.
        max_new_tokens: how long it may be.
    """
    from evaluation.model import generate

    pieces: queue.Queue[str | Exception | None] = queue.Queue()
    gone = threading.Event()

    def stop() -> bool:
        return gone.is_set() or stale()

    def answer(module: Any) -> None:
        for piece in generate(
            module, tokenizer, prompt, max_new_tokens=max_new_tokens, should_stop=stop
        ):
            pieces.put(piece)

    def work() -> (
        None
    ):  # a thread of its own: a lock may not be held across the yields of a page's generator
        try:
            with_module(answer)
            pieces.put(None)
        except Exception as error:
            pieces.put(error)

    threading.Thread(target=work, name="answer", daemon=True).start()
    try:
        while (piece := pieces.get()) is not None:
            if isinstance(piece, Exception):
                raise piece
            yield piece
    finally:
        gone.set()
