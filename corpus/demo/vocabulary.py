"""The words of the demo: few, so that a tiny tokenizer has one token for nearly every word."""

from __future__ import annotations

from random import Random

HE = (
    "Adam",
    "Ben",
    "Carl",
    "David",
    "Felix",
    "Henry",
    "Jack",
    "Leo",
    "Max",
    "Oscar",
    "Paul",
    "Tom",
)
SHE = (
    "Anna",
    "Bella",
    "Clara",
    "Emma",
    "Grace",
    "Julia",
    "Kate",
    "Lucy",
    "Mia",
    "Nina",
    "Rosa",
    "Sara",
)
PEOPLE = HE + SHE
PRONOUN = dict.fromkeys(HE, "he") | dict.fromkeys(SHE, "she")
THINGS = (
    "apples", "balls", "books", "cards", "coins", "cups", "eggs", "flowers", "lemons", "letters",
    "marbles", "oranges", "pears", "pencils", "shells", "stamps", "stickers", "stones", "tickets",
    "toys",
)  # fmt: skip
BOXES = ("bag", "basket", "box", "jar", "pack", "shelf", "table", "tray")
PLURAL = {name: f"{name}s" for name in BOXES} | {"box": "boxes", "shelf": "shelves"}
CITIES = (
    "Athens", "Berlin", "Cairo", "Dublin", "Geneva", "Lisbon", "London", "Madrid", "Milan",
    "Moscow", "Oslo", "Paris", "Prague", "Rome", "Tokyo", "Vienna",
)  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
SIMPLE = (
    "bear", "bird", "boat", "cake", "car", "cat", "dog", "door", "fish", "fox", "hat", "horse",
    "king", "lamp", "lion", "milk", "moon", "pig", "ring", "sea", "ship", "star", "sun", "tree",
)  # fmt: skip
"""Words for the instructions of sni, in alphabetical order and in lower case."""


def two(rng: Random, words: tuple[str, ...]) -> tuple[str, str]:
    """Draws two different words."""
    first, second = rng.sample(words, 2)
    return first, second
