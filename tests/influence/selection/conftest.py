"""Pools of texts whose tokens are their characters, and parts of the shipped demo."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from corpus import Example
from corpus.jsonl import read_records
from influence.selection.example_set import ExampleSet, encode_examples
from influence.selection.score_matrix import ScoreMatrix, score_matrix

DEMO = Path(__file__).parents[3] / "assets" / "demo"
FAMILIES = ("cot", "dialog", "mathqa", "p3", "sni")

torch.set_num_threads(1)


class Letters:
    """A tokenizer with one token for each character, and 1 as the end token."""

    eos_token_id = 1
    chat_template = None
    model_max_length = 10**30

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) for letter in text]}


@pytest.fixture(scope="session")
def letters() -> Any:
    return Letters()


@pytest.fixture(scope="session")
def make_pool(letters: Any) -> Callable[..., ExampleSet]:
    """make_pool({source: [completion, …]}): their lengths + 1 are the supervised tokens."""

    def make(texts: Mapping[str, list[str]], prompt: str = "?") -> ExampleSet:
        records = {
            name: [Example(prompt, text, line=at + 1) for at, text in enumerate(own)]
            for name, own in texts.items()
        }
        return encode_examples(records, letters)

    return make


@pytest.fixture(scope="session")
def sized_pool(make_pool: Any) -> Callable[..., ExampleSet]:
    """sized_pool(a=3, b=5): so many examples of each source, all texts different."""

    def make(**sizes: int) -> ExampleSet:
        return make_pool(
            {name: [f"{name}{at}" for at in range(size)] for name, size in sizes.items()}
        )

    return make


@pytest.fixture(scope="session")
def scored() -> Callable[..., ScoreMatrix]:
    """scored(pool, values): the scores of a method called "by hand"."""

    def make(pool: ExampleSet, values: Any) -> ScoreMatrix:
        values = np.asarray(values, np.float32)
        count = 1 if values.ndim == 1 else values.shape[1]
        return score_matrix("by hand", values, pool, [f"q{at}" for at in range(count)])

    return make


def demo_records(split: str, count: int, start: int = 0) -> dict[str, list[Any]]:
    """Some records of each of the demo's families."""
    files = {name: DEMO / "data" / name / f"{split}.jsonl" for name in FAMILIES}
    return {name: read_records(file)[start : start + count] for name, file in files.items()}


@pytest.fixture(scope="session")
def demo_tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(DEMO / "base")


@pytest.fixture(scope="session")
def planted(demo_tokenizer: Any) -> tuple[ExampleSet, ExampleSet, list[int]]:
    """9 records of each family with copies of 10 validation examples among them.

    The pool, the validation examples, and the rows of the copies, each that of its example.
    """
    validation = demo_records("validation", 2)
    records = {
        name: [*own[:5], *validation[name], *own[5:]]
        for name, own in demo_records("train", 9).items()
    }
    pool = encode_examples(records, demo_tokenizer)
    rows = [11 * family + 5 + at for family in range(5) for at in range(2)]
    return pool, encode_examples(validation, demo_tokenizer), rows


@pytest.fixture(scope="session")
def demo_model() -> Any:
    """The base of the demo, 2 million parameters."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(DEMO / "base").eval()
