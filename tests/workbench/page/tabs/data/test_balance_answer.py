"""The rounds of balancing as HTML: the table, α, and warnings where α is not to be trusted."""

from pathlib import Path

import pytest

from workbench.page.tabs.data.balance_answer import answer_html

FIRST = {
    "number": 0, "sizes": {"a": 1200, "b": 100}, "mean": 0.5,
    "losses": [{"dataset": "ref", "value": 0.5, "stderr": 0.0125, "n": 9}],
    "alpha": {"a": -0.25, "b": 0.125}, "beta": {"a": 0.15, "b": -0.075},
    "stationarity": 0.1, "imbalance": 0.02, "split_half": 0.9, "predicted_change": -0.02,
}  # fmt: skip
LAST = {
    "number": 1, "sizes": {"a": 1380, "b": 92}, "mean": 0.4875,
    "losses": [{"dataset": "ref", "value": 0.4875, "stderr": None, "n": 9}],
}  # fmt: skip


def html(**changed):
    return answer_html([FIRST | changed, LAST], Path("/w/data/balance/one"), Path("/w"))


def test_sizes_losses_and_influence_are_those_of_the_answer():
    text = html()
    for words in (
        "round 0", "round 1", "1,200", "1,380", "0.5000 ±0.0125", "0.4875", "−0.2500", "15.0 %",
        "1,200 → 1,380", "−0.0200 predicted, −0.0125 measured",
        "dem train /w/data/balance/one/rounds/balanced.yml /w/data/balance/one/trained",
    ):  # fmt: skip
        assert words in text, words
    assert "warning" not in text


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"stationarity": 0.5}, "Train longer"), ({"split_half": 0.3}, "Give more examples"),
     ({"split_half": None}, "Give more examples")],
)  # fmt: skip
def test_alpha_that_is_not_to_be_trusted_is_told(changed, said):
    assert said in html(**changed)
