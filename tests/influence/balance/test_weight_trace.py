"""The weights of a proxy in a file: means by hand, and every bit read back."""

import numpy as np
import pytest

from influence.balance.doge import Doge
from influence.balance.doremi import DoReMi
from influence.balance.weight_trace import WeightTrace, read_trace, trace_csv

ROWS = np.array([[0.5, 0.5], [0.25, 0.75], [0.75, 0.25]])


def test_the_start_counts_in_the_mean_of_doremi_only():
    assert WeightTrace(("a", "b"), ROWS[:2], True).mean.tolist() == [0.375, 0.625]
    assert WeightTrace(("a", "b"), ROWS[:2], False).mean.tolist() == [0.25, 0.75]
    assert WeightTrace(("a", "b"), ROWS[:2], False).sizes(8) == {"a": 2, "b": 6}


def test_the_mean_is_the_average_of_the_rule():
    random = np.random.default_rng(0).random((7, 3))
    for rule, with_start in ((DoReMi([1, 2, 3]), True), (Doge(3), False)):
        rows = [rule.weights, *(rule.update(each) for each in random)]
        trace = WeightTrace(("a", "b", "c"), np.array(rows), with_start)
        np.testing.assert_allclose(trace.mean, rule.average, rtol=1e-12)


@pytest.mark.parametrize("with_start", [True, False])
def test_a_trace_is_read_back_bit_for_bit(with_start):
    rows = np.random.default_rng(1).dirichlet(np.ones(3), 11)
    trace = WeightTrace(("a", "-b", "c"), rows, with_start)
    text = trace_csv(trace)
    assert text.splitlines()[0] == "step,a,'-b,c" and len(text.splitlines()) == 12
    again = read_trace(text, trace.domains, with_start=with_start)
    assert again.domains == trace.domains and again.with_start == with_start
    assert (again.weights == rows).all()
