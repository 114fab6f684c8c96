"""Questions of trivia, and small talk with an assistant: from the package chatterbot-corpus (BSD).

Both are pairs of a question and a short answer. A question with several answers keeps the first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from corpus.real.item import Item

FOLDER = "chatterbot_corpus/data/english"
"""Folder of the package that holds the files."""

TRIVIA = ("trivia",)
TALK = (
    "ai",
    "botprofile",
    "emotion",
    "conversations",
    "psychology",
    "money",
    "humor",
    "gossip",
    "greetings",
    "food",
    "politics",
    "sports",
)
"""Names of the files of each dataset. Those about knowledge are left out of the small talk."""

LONGEST = 300
"""Most characters of an answer; the corpus has some recipes and stories."""


def items(files: Mapping[str, bytes], names: tuple[str, ...]) -> Iterator[Item]:
    """Yields the first question and answer of each conversation.

    Args:
        files: path in the package -> content.
        names: the files to read, without their ending.
    """
    for name in names:
        for turns in yaml.safe_load(files[f"{FOLDER}/{name}.yml"])["conversations"]:
            # A year or a yes without quotes is no text in YAML.
            question, answer = (_clean(str(turn)) for turn in turns[:2])
            if question and answer and len(answer) <= LONGEST:
                yield Item(_sentence(question), _sentence(answer), answer)


def right(answer: str, accepted: Any) -> bool:
    """Returns whether a text is the accepted answer, or names it as its own words.

    Case, marks and a leading article do not count.

    >>> right("It was the Soviet Union.", "The Soviet Union.")
    True
    """
    given, wanted = _words(answer), _words(accepted)
    return bool(wanted) and any(
        given[start : start + len(wanted)] == wanted for start in range(len(given))
    )


def _words(text: str) -> list[str]:
    words = re.findall(r"\w+", text.lower())
    return words[1:] if len(words) > 1 and words[0] in ("the", "a", "an") else words


def _clean(text: str) -> str:
    return " ".join(text.split())


def _sentence(text: str) -> str:
    """Returns a text with a capital first letter; a part of the corpus is in small letters."""
    return text[0].upper() + text[1:]
