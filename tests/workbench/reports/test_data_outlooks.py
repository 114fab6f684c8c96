"""An outlook as cells and as one sentence."""

from workbench.influence_runs.outlooks.data_outlook import DataOutlook, PartOutlook
from workbench.reports.data_outlooks import HEAD, cells, total

LEFT = PartOutlook("gradients", 1_200, 48_000, 95.0, 19_700_000)
DONE = PartOutlook("warm-up", 60, 2_000, 0.0, 1_000, done=True)


def test_cells_have_units():
    assert cells(LEFT) == ["gradients", "1,200", "48,000", "19.7 MB", "≈ 1 min 35 s"]
    assert cells(DONE)[-1] == "done" and len(cells(DONE)) == len(HEAD)
    assert cells(PartOutlook("start", None, None, None)) == ["start", "–", "–", "–", "?"]


def test_the_total_says_what_it_is_based_on():
    assert total(DataOutlook((DONE, LEFT), ("a timed here", "b timed here"))) == (
        "≈ 1 min 35 s in all, 19.7 MB on the disk. Times are estimates (a timed here; b timed "
        "here)."
    )
    unknown = DataOutlook((PartOutlook("x", None, None, None),), ("a",))
    assert total(unknown).startswith("how long it takes could not be estimated.")
