"""The mixtures of balancing as HTML: the table, α and warnings, the weights of a proxy."""

from pathlib import Path

import pytest

from workbench.page.tabs.data.balance_answer import answer_html, weights_figure

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


RUN = Path("/w/data/balance/one")
START = {
    "number": 0, "method": "start", "sizes": {"a": 30, "b": 10}, "mean": 0.5, "tokens": 900,
    "losses": [{"dataset": "ref", "value": 0.5, "stderr": 0.0125, "n": 9}],
}  # fmt: skip
SAME = {
    "number": 1, "method": "stratified", "sizes": {"a": 20, "b": 20}, "mean": 0.4875,
    "losses": [{"dataset": "ref", "value": 0.4875, "stderr": None, "n": 9}], "tokens": 800,
}  # fmt: skip
PROPOSED = SAME | {
    "method": "doge", "sizes": {"a": 16, "b": 24},
    "weights": {"start": {"a": 0.5, "b": 0.5}, "end": {"a": 0.25, "b": 0.75},
                "mean": {"a": 0.4, "b": 0.6}},
    "proxy": {"steps": 2, "file": "doge.csv", "tokens": 700, "reference_tokens": 0},
}  # fmt: skip


def html(**changed):
    return answer_html([FIRST | changed, LAST], RUN, Path("/w"), finished=True)


def test_sizes_losses_and_influence_are_those_of_the_answer():
    text = html()
    for words in (
        "start", "round 1", "1,200 (92.3%)", "1,380 (93.8%)", "0.5000 ±0.0125", "0.4875", "−0.2500", "15.0 %",
        "1,200 → 1,380", "−0.0200 predicted, −0.0125 measured",
        "dem train /w/data/balance/one/rounds/balanced.yml /w/data/balance/one/trained",
    ):  # fmt: skip
        assert words in text, words
    assert "warning" not in text and "tokens trained" not in text


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"stationarity": 0.5}, "Train longer"), ({"split_half": 0.3}, "Give more examples"),
     ({"split_half": None}, "Give more examples")],
)  # fmt: skip
def test_alpha_that_is_not_to_be_trusted_is_told(changed, said):
    assert said in html(**changed)


def test_a_proposal_stands_beside_the_plans_own_mixture_with_its_weights_and_its_cost():
    text = answer_html([START, PROPOSED], RUN, Path("/w"), finished=True)
    for words in (
        ">start<", ">DOGE<", "30 (75.0%)", "16 (40.0%)", "0.4875", "after 2 steps", "0.250",
        "0.600", "3 trainings of 2,400 tokens (start 900, proxy 700, DOGE 800).", "balanced.yml",
        "an equal share of each domain too",
    ):  # fmt: skip
        assert words in text, words
    assert "round" not in text.replace("/rounds/", "") and "predicted" not in text


def test_an_equal_share_has_no_weights_and_is_not_recommended_beside_itself():
    text = answer_html([START, SAME], RUN, Path("/w"), finished=True)
    assert "2 trainings of 1,700 tokens (start 900, stratified 800)." in text
    assert "Weights" not in text and "too: no way" not in text
    assert "No way of mixing is known to beat an equal share" in text


def test_what_is_measured_so_far_has_no_plan_to_train_yet():
    text = answer_html([START], RUN, Path("/w"), finished=False)
    assert "30 (75.0%)" in text and "not finished" in text and "balanced.yml" not in text
    text = answer_html([FIRST, LAST], RUN, Path("/w"), finished=False)
    assert "−0.0200 predicted" in text and "dem train" not in text


def test_the_weights_are_drawn_from_the_table_of_the_proxy(tmp_path):
    assert weights_figure([START, PROPOSED], tmp_path, False) is None  # the table was removed
    (tmp_path / "doge.csv").write_text("step,a,b\n0,0.5,0.5\n1,0.4,0.6\n2,0.25,0.75\n")
    lines = weights_figure([START, PROPOSED], tmp_path, True).data
    assert [(line.name, list(line.y)) for line in lines] == [
        ("a", [0.5, 0.4, 0.25]), ("b", [0.5, 0.6, 0.75]),
    ]  # fmt: skip
    for rounds in ([START], [START, SAME], [FIRST, LAST]):
        assert weights_figure(rounds, tmp_path, False) is None
