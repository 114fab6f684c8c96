"""Questions of many subjects with explained answers, which no expert is trained on.

lm-eval comes with the worked examples of MMLU's 57 subjects, five each (Hendrycks et al., 2021,
MIT; explanations of Chung et al., 2022, arXiv 2210.11416, Apache-2.0).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from corpus.real.item import Item

FILE = "tasks/mmlu/flan_cot_fewshot/_cot_prompts.json"
"""Path of the file in the package lm_eval."""

LONGEST = 500
"""Most characters of question and answer together."""

OPENING = re.compile(r"^Let's think step by step\. (We refer to \S+ .*? help\. )?")
"""How every explanation begins."""


def items() -> Iterator[Item]:
    """Yields the questions that are short enough, subject by subject."""
    for text in json.loads(_file().read_text("utf-8")).values():
        for part in re.split(r"\n\nQ: ", text)[1:]:
            question, answer = part.split("\nA: ", 1)
            answer = OPENING.sub("", answer).strip()
            if len(question) + len(answer) <= LONGEST:
                yield Item(question.strip(), answer)


def _file() -> Path:
    found = find_spec("lm_eval")
    assert found is not None and found.origin is not None  # a dependency of the project
    return Path(found.origin).parent / FILE
