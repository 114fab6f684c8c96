"""A tiny base with its tokenizer, made once, and stages on it that take a second."""

from pathlib import Path

import pytest

from corpus import Example
from training.stage import Stage
from workbench.demo.blank_base import write_blank

EXAMPLES = tuple(Example(f"{a} plus {b} is", f" {a + b}") for a in range(7) for b in range(5))
REPLAY = tuple(Example(f"say {word}", f" {word}") for word in ("one", "two", "three"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A Llama with 4 layers of 32, a context of 256 and 300 tokens."""
    texts = [example.prompt + example.completion for example in EXAMPLES + REPLAY]
    return write_blank(tmp_path_factory.mktemp("tiny") / "base", texts, vocabulary=300, hidden=32)


@pytest.fixture(scope="session")
def stage(tiny) -> Stage:
    """Three steps of 5 of 35 sums, in float32."""
    return Stage(base=tiny, examples=EXAMPLES, steps=3, batch=5, precision="fp32", device="cpu")


@pytest.fixture(scope="session")
def replay() -> tuple[Example, ...]:
    """Three other examples."""
    return REPLAY
