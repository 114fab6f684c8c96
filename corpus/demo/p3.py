"""Generates p3: classification by prompt (sentiment, topic, inference, paraphrase) with words."""

from __future__ import annotations

from random import Random

from corpus.demo.family import Family
from corpus.demo.vocabulary import CITIES, DAYS, PEOPLE
from corpus.jsonl import Example

SUBJECTS = (
    "band", "bread", "coffee", "concert", "dinner", "film", "food", "guide", "hotel", "music",
    "room", "service", "show", "soup", "story", "tea", "tour", "waiter",
)  # fmt: skip
GOOD = (
    "amazing",
    "brilliant",
    "charming",
    "excellent",
    "fresh",
    "friendly",
    "good",
    "great",
    "lovely",
    "perfect",
    "pleasant",
    "wonderful",
)
BAD = (
    "awful",
    "bad",
    "boring",
    "broken",
    "cold",
    "dirty",
    "dull",
    "horrible",
    "poor",
    "rude",
    "sad",
    "terrible",
)
TOPICS: dict[str, tuple[str, ...]] = {
    "sport": (
        "the team won the final",
        "a runner set a record",
        "the coach praised the players",
        "the match ended in a draw",
    ),
    "weather": (
        "heavy rain fell all day",
        "snow closed the roads",
        "a storm is on its way",
        "the sun will shine again",
    ),
    "music": (
        "the singer gave a concert",
        "a new song was played",
        "the choir sang two songs",
        "a violin was sold",
    ),
    "food": (
        "a new bakery opened",
        "the cook made fish soup",
        "the market sold fresh fruit",
        "a cake won the prize",
    ),
    "science": (
        "a star was measured",
        "the lab tested a drug",
        "a robot explored the sea",
        "a new planet was found",
    ),
}
VERBS = (
    ("chased", "chased"), ("helped", "helped"), ("called", "called"), ("saw", "seen"),
    ("met", "met"), ("thanked", "thanked"), ("paid", "paid"), ("taught", "taught"),
    ("found", "found"), ("followed", "followed"),
)  # fmt: skip
"""Past tense and participle."""
TRAITS = ("older", "taller", "faster", "richer")


def classify(prompt: str, labels: tuple[str, ...], right: str) -> Example:
    """Makes an example whose prompt ends in Answer:, with the labels as choices in fixed order."""
    return Example(f"{prompt}\nAnswer:", f" {right}", labels, labels.index(right))


def sentiment(rng: Random, text: str, positive: bool) -> Example:
    """Makes an example that asks whether a review is positive or negative."""
    city = rng.choice(CITIES)
    prompt = f"Review from {city}: {text}\nIs the review positive or negative?"
    return classify(prompt, ("positive", "negative"), "positive" if positive else "negative")


def plain(rng: Random) -> Example:
    """Two adjectives of one mood."""
    positive = rng.random() < 0.5
    first, second = rng.sample(GOOD if positive else BAD, 2)
    one, other = rng.sample(SUBJECTS, 2)
    return sentiment(rng, f"The {one} was {first} and the {other} was {second}.", positive)


def negated(rng: Random) -> Example:
    """Makes a review with negated adjectives: "The soup was not good" is negative."""
    positive = rng.random() < 0.5
    first, second = rng.sample(BAD if positive else GOOD, 2)
    one, other = rng.sample(SUBJECTS, 2)
    text = rng.choice(
        (
            f"The {one} was not {first} and the {other} was not {second}.",
            f"The {one} was not {first} at all, and the {other} was never {second}.",
            f"Neither the {one} nor the {other} was {first}.",
        )
    )
    return sentiment(rng, text, positive)


def contrast(rng: Random) -> Example:
    """Makes a review with two moods, in which the one after "but" decides."""
    positive = rng.random() < 0.5
    good, bad = rng.choice(GOOD), rng.choice(BAD)
    first, last = (bad, good) if positive else (good, bad)
    one, other = rng.sample(SUBJECTS, 2)
    return sentiment(
        rng, f"The {one} was {first}, but in the end the {other} was {last}.", positive
    )


def topic(rng: Random) -> Example:
    """Makes an example that asks which of five topics a line of news is about."""
    label = rng.choice(list(TOPICS))
    news, city, day = rng.choice(TOPICS[label]), rng.choice(CITIES), rng.choice(DAYS)
    prompt = (
        f"News: On {day} in {city}, {news}.\nIs this about sport, weather, music, food or science?"
    )
    return classify(prompt, tuple(TOPICS), label)


def inference(rng: Random) -> Example:
    """Makes an example that asks whether a comparison follows from two: yes, no or maybe."""
    more = rng.choice(TRAITS)
    first, second, third = rng.sample(PEOPLE, 3)
    # The answer is drawn first, so that all three are equally frequent; a model that scores the
    # choices alike always picks the first.
    label = rng.choice(("yes", "no", "maybe"))
    if label == "maybe":
        # Both facts begin with the same person, so nothing follows about the other two.
        text, claim = (
            f"{first} is {more} than {second}. {first} is {more} than {third}.",
            (second, third),
        )
    else:
        text = f"{first} is {more} than {second}. {second} is {more} than {third}."
        claim = (first, third) if label == "yes" else (third, first)
    prompt = (
        f"Facts: {text}\nIs it true that {claim[0]} is {more} than {claim[1]}? yes, no or maybe?"
    )
    return classify(prompt, ("yes", "no", "maybe"), label)


def direct(rng: Random) -> Example:
    """Makes an example that repeats a comparison as it is, or reversed: yes or no."""
    more = rng.choice(TRAITS)
    first, second = rng.sample(PEOPLE, 2)
    right = rng.random() < 0.5
    claim = (first, second) if right else (second, first)
    prompt = (
        f"Facts: {first} is {more} than {second}.\n"
        f"Is it true that {claim[0]} is {more} than {claim[1]}? yes, no or maybe?"
    )
    return classify(prompt, ("yes", "no", "maybe"), "yes" if right else "no")


def paraphrase(rng: Random) -> Example:
    """Makes an example that compares an active and a passive sentence, roles kept or swapped."""
    past, participle = rng.choice(VERBS)
    first, second = rng.sample(PEOPLE, 2)
    same = rng.random() < 0.5
    # The words are the same in both cases: only their roles tell yes from no.
    agent, patient = (first, second) if same else (second, first)
    day = rng.choice(DAYS)
    prompt = (
        f"Sentence A: {first} {past} {second} on {day}. "
        f"Sentence B: On {day} {patient} was {participle} by {agent}.\n"
        "Do A and B mean the same?"
    )
    return classify(prompt, ("yes", "no"), "yes" if same else "no")


P3 = Family(
    name="p3",
    mirrors="P3",
    easy=((plain, 0.4), (topic, 0.3), (direct, 0.3)),
    full=(
        (plain, 0.1),
        (topic, 0.15),
        (negated, 0.25),
        (contrast, 0.2),
        (inference, 0.15),
        (paraphrase, 0.15),
    ),
    share=0.15,
    taste=0.05,
)
