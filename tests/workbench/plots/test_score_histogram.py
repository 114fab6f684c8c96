"""The histogram of scores: bars where the bins are, in both themes."""

from workbench.plots.score_histogram import score_histogram

FOUND = {"edges": [0.0, 0.5, 1.0], "pool": [7, 3], "chosen": [0, 3]}


def test_bars_stand_in_the_middle_of_their_bins():
    pool, chosen = score_histogram(FOUND).data
    assert list(pool.x) == [0.25, 0.75] and list(pool.width) == [0.5, 0.5]
    assert list(pool.y) == [7, 3] and list(chosen.y) == [0, 3]
    assert list(pool.customdata) == ["0 to 0.5", "0.5 to 1"]


def test_the_chosen_ones_are_drawn_over_the_pool_and_colours_follow_the_theme():
    light, dark = score_histogram(FOUND), score_histogram(FOUND, dark=True)
    assert light.layout.barmode == "overlay"
    assert [bar.name for bar in light.data] == ["pool", "chosen"]
    assert light.data[1].marker.color != dark.data[1].marker.color
