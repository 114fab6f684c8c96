"""Which texts count as the same."""

import pytest

from corpus import Chat, Example, Message
from influence.selection.example_set import encode_examples
from influence.selection.texts_alike import CopyFilter, text_key


def chat(answer, more="", tools=""):
    return Chat((Message("user", "Two?"), Message("assistant", answer, more=more)), tools=tools)


def test_case_space_and_unicode_form_do_not_count_and_letters_do():
    same = [Example("Wie  viele?\n", "\tFünf"), Example("wie viele? ", "FU\u0308NF")]
    assert text_key(same[0]) == text_key(same[1]) == "wie viele? fünf"
    assert text_key(same[0]) != text_key(Example("Wie viele?", "Fünf."))


def test_calls_and_tools_of_a_chat_count():
    keys = [chat(""), chat("", more='{"a": 1}'), chat("", more='{"a": 2}'), chat("", tools="[]")]
    assert len({text_key(each) for each in keys}) == 4


@pytest.mark.parametrize(
    ("alike", "copies"),
    [
        (None, [False] * 4),
        ("exact", [True, True, False, False]),
        ("near", [True, True, True, False]),
    ],
)
def test_copies_of_what_was_chosen(letters, alike, copies):
    texts = [
        "The sum of twelve and seven is nineteen",
        "the sum of twelve and seven is  nineteen",
        "The sum of seven and twelve is nineteen",
        "A quite different text",
    ]
    pool = encode_examples({"a": [Example("", text) for text in texts]}, letters)
    found = CopyFilter(pool, alike)
    assert not any(found.is_copy(row) for row in range(4))
    found.add(0)
    assert [found.is_copy(row) for row in range(4)] == copies
