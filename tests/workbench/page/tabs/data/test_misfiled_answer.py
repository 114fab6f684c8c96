"""Suspects as a table: order, filter, ranks within the dataset, and the reason in words."""

import pytest

from workbench.page.tabs.data.misfiled_answer import (
    EVERY,
    ranks,
    reason,
    suspects_html,
    suspects_of,
)


def suspect(dataset, number, own, margin, suspicion):
    return {
        "dataset": dataset, "number": number, "name": f"line {number}", "suspicion": suspicion,
        "own_loss": own, "base_loss": 2.0, "better": "b", "loss_margin": margin,
        "text": "<script>x</script>",
    }  # fmt: skip


SUSPECTS = [
    suspect("a", 1, 3.0, -0.5, 1.0),
    suspect("a", 2, 1.0, 0.25, 0.9),
    suspect("c", 1, 0.5, -1.0, 0.95),
]


def test_the_most_suspicious_come_first_of_all_datasets_or_of_one():
    assert [each["suspicion"] for each in suspects_of(SUSPECTS, EVERY)] == [1.0, 0.95, 0.9]
    assert [each["number"] for each in suspects_of(SUSPECTS, "a")] == [1, 2]


def test_ranks_are_within_the_dataset():
    assert ranks(SUSPECTS) == {"a": ([1.0, 3.0], [-0.5, 0.25]), "c": ([0.5], [-1.0])}


def test_the_table_has_reasons_and_escaped_texts():
    html = suspects_html(SUSPECTS[:2], ranks(SUSPECTS))
    assert "<script>x" not in html and "&lt;script&gt;x" in html
    assert "high loss of its own expert (rank 100%)" in html
    assert "b is better by 0.25 (rank 100%): it may belong there" in html
    assert "b 3.50" in html  # the other expert's loss is own − margin


@pytest.mark.parametrize(
    ("margin", "by_loss", "by_other", "said"),
    [(0.5, 0.5, 0.9, "b is better by 0.50"), (0.004, 0.5, 0.9, "b is about as good"),
     (0.5, 0.9, 0.5, "answer may be wrong"), (None, 0.9, 0.0, "answer may be wrong")],
)  # fmt: skip
def test_the_reason_is_the_larger_rank(margin, by_loss, by_other, said):
    assert said in reason(suspect("a", 1, 1.0, margin, 1.0), by_loss, by_other)
