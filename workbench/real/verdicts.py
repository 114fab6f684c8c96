"""Asks a model questions in batches, and counts how many of its answers are right."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from corpus.real.datasets import VERDICTS

NEW_TOKENS = {"calls": 96, "sums": 60, "problems": 128, "trivia": 12}
"""Name of a dataset -> the most tokens of an answer, enough for nearly all right ones."""

LONGEST = 40
"""The most tokens of an answer without a verdict."""

ASKED = {"calls": 40, "sums": 40, "problems": 20, "trivia": 40}
"""Name of a dataset -> how many questions of the test split are asked, from the first.

Writing an answer takes far longer than its loss, above all for word problems.
"""


class Verdict(NamedTuple):
    """How many answers of one dataset are right."""

    right: float
    """Share of right answers."""
    stderr: float
    """Standard error of `right`, √(right · (1 − right) / (n − 1))."""
    n: int
    """Number of answers."""


def verdict(module: Any, tokenizer: Any, name: str, rows: Sequence[Mapping[str, Any]]) -> Verdict:
    """Asks the first questions of a dataset and judges the answers.

    Args:
        module: the model, in evaluation mode.
        tokenizer: its tokenizer, with a chat template.
        name: of the dataset, one of VERDICTS.
        rows: lines of the dataset's test split.
    """
    rows = rows[: ASKED[name]]
    said = answers(
        module,
        tokenizer,
        [row["messages"][0]["content"] for row in rows],
        max_new_tokens=NEW_TOKENS[name],
    )
    right = [VERDICTS[name](text, row["accepted"]) for text, row in zip(said, rows, strict=True)]
    share, n = sum(right) / len(right), len(right)
    return Verdict(share, math.sqrt(share * (1 - share) / (n - 1)), n)


def answers(
    module: Any, tokenizer: Any, questions: Sequence[str], *, max_new_tokens: int
) -> list[str]:
    """Returns the likeliest answer to each question; `generate_many` asks them in batches.

    Args:
        module: the model, in evaluation mode.
        tokenizer: its tokenizer, with a chat template.
        questions: what the user writes.
        max_new_tokens: the most tokens of an answer.
    """
    from evaluation.generation import generate_many

    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
        )
        for question in questions
    ]
    said = generate_many(module, tokenizer, prompts, max_new_tokens=max_new_tokens, written=True)
    return [text.strip() for text in said]
