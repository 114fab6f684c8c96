"""The result of a search as text."""

from workbench.plots.bullets import Gain
from workbench.reports import search_tables
from workbench.search.outcome import Leaning


def test_a_row_without_an_expert_has_no_share():
    rows = [
        Gain("cot", 0.4, 0.01, 50, 1.0, 0.2, 0.75, 0.02),
        Gain("talk", 2.5, 0.01, 9, 3.0, None, None, None),
    ]
    lines = search_tables.gains(rows).splitlines()
    assert lines[1].split() == ["cot", "1.0000", "0.2000", "0.4000", "75.0", "%", "2.0", "50"]
    assert lines[2].split() == ["talk", "3.0000", "–", "2.5000", "–", "–", "9"]


def test_omegas_and_predictions():
    assert search_tables.omegas({"cot": 0.5, "p3": -0.25}).splitlines()[2].split() == [
        "p3",
        "-0.25",
    ]
    text = search_tables.prediction({"cot": 0.914, "p3": float("nan")})
    assert text == "R² of the surrogate for compositions left out: cot 0.91"
    assert search_tables.prediction({"p3": float("nan")}) == ""
    assert search_tables.prediction({"cot": 0.914}, Leaning(7, 0, ())) == text
    leant = search_tables.prediction({"cot": 0.914}, Leaning(7, 2, ("cot", "p3")))
    assert leant.splitlines() == [
        text,
        "Of 7 steps 2 went half as far, because R² was below 0.9 for cot, p3",
    ]
