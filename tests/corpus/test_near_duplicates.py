"""Near-duplicates: other endings count, other questions do not."""

from corpus.near_duplicates import near


def test_another_ending_is_found_and_another_question_is_not():
    others = ["What is the capital of France?", "Who wrote the play Hamlet?"]
    asked = [
        "what is the capital of France",
        "What is the largest planet?",
        others[1] + " Tell me.",
    ]
    assert near(asked, others) == [True, False, True]


def test_with_nothing_to_compare_with_there_is_none():
    assert near(["What?", "Who?"], []) == [False, False]
