"""The table: means over seeds, errors over examples, and sentences that follow the numbers."""

from corpus.real.datasets import EXPERTS, UNSEEN, VERDICTS
from workbench.real.results_page import table
from workbench.real.search import BASE, FULL_ROW, LABELS, MIXED, OWN, TUNED


def row(loss, right=0.5, names=(*EXPERTS, UNSEEN)):
    made = {name: {"loss": loss, "loss_stderr": 0.1, "n": 40} for name in names}
    for name in VERDICTS.keys() & made.keys():
        made[name] |= {"right": right, "right_stderr": 0.05, "asked": 20}
    return made


def results(dem=1.5, mixing=1.6):
    losses = dict.fromkeys(LABELS, 2.0) | {OWN: 1.0, TUNED: dem, MIXED: mixing}
    rows = {}
    for seed, more in ((0, 0.0), (1, 0.2)):
        for label, loss in losses.items():
            rows[f"row {label} {seed}"] = row(loss + more, right=0.5 + more / 2)
        rows[f"row {FULL_ROW} {seed}"] = row(1.0, names=("sums", UNSEEN))
        rows[f"search {TUNED} {seed}"] = {"omegas": dict.fromkeys(EXPERTS, 0.7)}
    seconds = {f"train {name} {seed}": 100.0 for name in (*EXPERTS, "mixed") for seed in (0, 1)}
    seconds |= {f"search {TUNED} {seed}": 30.0 for seed in (0, 1)}
    said = {
        name: dict.fromkeys(("question", "answer", BASE, OWN), "one\n`two`") for name in EXPERTS
    }
    for name in EXPERTS:
        said[name][TUNED] = f"said of {name}"
    return {
        "seeds": [0, 1],
        "budget": 10,
        "base": row(3.0),
        "rows": rows,
        "seconds": seconds,
        "said": said,
    }


def line(text, label):
    return next(line for line in text.splitlines() if line.startswith(f"| {label} "))


def test_a_row_has_means_over_seeds_and_errors_over_examples():
    """1.5 and 1.7 have the mean 1.6; their standard deviation is 0.2 / √2 = 0.141.

    Shares of 50 and 60 have the mean 55 and the deviation 10 / √2 = 7.1.
    """
    loss = line(table(results()), TUNED)
    assert loss == (f"| {TUNED} | " + "1.600 ± 0.100 | " * 5 + "1.600 ± 0.141 | 1.600 ± 0.100 |")
    assert right(table(results()), TUNED) == "55.0 ± 5.0 | " * 4 + "55.0 ± 7.1 |"
    assert right(table(results()), BASE) == "50.0 ± 5.0 | " * 4 + "50.0 |"
    assert right(table(results()), FULL_ROW).count("–") == 4
    assert "to the models of seeds 0, 1. The mean is over" in table(results())


def right(text, label):
    return line(text.split("## Right answers")[1], label).removeprefix(f"| {label} | ")


def without_verdicts(row):
    return {
        name: {key: cell[key] for key in ("loss", "loss_stderr", "n")} for name, cell in row.items()
    }


def test_a_build_that_asked_one_seed_only_has_errors_over_questions():
    """The mean of four shares with errors of 5 has one of √(4 · 25) / 4 = 2.5."""
    older = results()
    key = f"row {TUNED} 1"
    older["rows"][key] = without_verdicts(older["rows"][key])  # one row is enough
    text = table(older)
    assert right(text, TUNED) == "50.0 ± 5.0 | " * 4 + "50.0 ± 2.5 |"
    assert right(text, MIXED) == right(text, BASE) == right(text, TUNED)
    assert "to the models of seed 0.\n" in text
    assert line(text, TUNED) == line(table(results()), TUNED)  # losses are of both seeds


def test_a_build_that_asked_nothing_has_no_table_of_answers():
    older = results()
    older["rows"] = {
        key: without_verdicts(value) if key.startswith("row") else value
        for key, value in older["rows"].items()
    }
    older["base"] = without_verdicts(older["base"])
    assert "## Right answers" not in table(older)
    assert table(older) == table(results()).replace(answers(table(results())), "")


def answers(text):
    return text[text.index("## Right answers") : text.index("## What it says")]


def test_what_was_not_measured_is_a_dash():
    text = line(table(results()), FULL_ROW)
    assert text.count("–") == 5 and text.count("1.000 ± 0.100") == 2
    assert line(table(results()), BASE).count("±") == 6  # the mean of one seed has no deviation


def test_the_sentences_follow_the_numbers():
    """(3 − 1.6) / (3 − 1.1) = 74 % of the gain are kept, by mixing (3 − 1.7) / 1.9 = 68 %."""
    text = table(results())
    assert "DEM with tuned ω keeps 74 %" in text and "mixed data 68 %" in text
    assert "The mean loss of DEM is lower than" in text
    assert f"lowest mean loss of all compositions is that of {TUNED}." in text
    worse = table(results(dem=1.9))
    assert "The mean loss of DEM is not lower than" in worse
    assert "the five experts 500 to 500" in text and "All parts add up to 21 minutes" in text


def test_what_was_said_is_in_one_line_each():
    text = table(results())
    assert "**calls**: one ⏎ 'two'\n\n- base: `one ⏎ 'two'`\n" in text
    assert "- composition: `said of talk`" in text
