"""The weights of a proxy as lines: each domain in its colour, thinned if there are many steps."""

import numpy as np

from workbench.plots import theme
from workbench.plots.domain_weights import POINTS, domain_weights


def test_each_domain_is_a_line_from_the_start_on():
    weights = np.array([[0.5, 0.5], [0.25, 0.75], [0.125, 0.875]])
    for dark in (False, True):
        first, second = domain_weights(["a", "<b>"], weights, dark).data
        assert (list(first.x), list(first.y)) == ([0, 1, 2], [0.5, 0.25, 0.125])
        assert list(second.y) == [0.5, 0.75, 0.875] and second.name == "&lt;b&gt;"
        assert second.line.color == theme.dataset_colour(1, dark)


def test_many_steps_are_thinned_and_the_last_is_kept():
    weights = np.arange(2003.0)[:, None]
    [line] = domain_weights(["a"], weights).data
    assert len(line.x) == POINTS and (line.x[0], line.x[-1]) == (0, 2002)
    assert list(line.y) == list(line.x)
