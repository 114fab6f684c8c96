"""The questions that no expert sees, as lm-eval ships them."""

from corpus.real.general import LONGEST, items


def test_every_answer_names_a_choice_and_has_lost_its_opening():
    made = list(items())
    assert len(made) > 100
    for item in made:
        assert "(A)" in item.question and "The answer is (" in item.answer
        assert not item.answer.startswith("Let's think step by step.")
        assert len(item.question) + len(item.answer) <= LONGEST
