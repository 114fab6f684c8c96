"""Questions with short answers: what is read, and what counts as the answer."""

import pytest

from corpus.real.pairs import FOLDER, LONGEST, items, right


def package(text):
    return {f"{FOLDER}/trivia.yml": text.encode()}


def test_the_first_answer_is_read_and_begins_with_a_capital():
    text = "conversations:\n- - who\n  - a  man\n  - another\n- - When?\n  - 1963\n"
    made = list(items(package(text), ("trivia",)))
    assert [(item.question, item.answer) for item in made] == [("Who", "A man"), ("When?", "1963")]


def test_long_answers_are_left_out():
    text = f"conversations:\n- - who\n  - {'x' * (LONGEST + 1)}\n"
    assert list(items(package(text), ("trivia",))) == []


@pytest.mark.parametrize(
    ("answer", "accepted", "verdict"),
    [
        ("It was the Soviet Union.", "The Soviet Union.", True),
        ("1963", "1963", True),
        ("In 1963, I think", "1963", True),
        ("In 19634", "1963", False),
        ("Union Soviet", "The Soviet Union.", False),
        ("", "1963", False),
        ("A", "A", True),
    ],
)
def test_verdicts(answer, accepted, verdict):
    assert right(answer, accepted) is verdict
