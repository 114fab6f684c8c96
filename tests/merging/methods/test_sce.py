"""sce by numbers written out."""

import pytest
import torch

from merging.methods import sce


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_variances_are_those_of_float64_and_0_where_all_are_equal(count):
    generator = torch.Generator().manual_seed(count)
    values = torch.randn(count, 50, generator=generator) * 1e-3
    values[:, :10] = values[:1, :10]
    found = sce._variance(values)
    torch.testing.assert_close(
        found.double(), values.double().var(0, unbiased=False), rtol=1e-6, atol=1e-20
    )
    assert not found[:10].any()


def test_weights_are_shares_of_the_mean_squares(combine, close):
    # squares 9 and 1: weights 0.9 and 0.1; + is elected, and a lone 3 is divided by its own weight
    close(combine("sce", [[3.0], [-1.0]]), [3])
    close(combine("sce", [[3.0], [1.0]]), [0.9 * 3 + 0.1 * 1])


def test_signs_are_elected_by_the_bare_sum(combine, close):
    close(combine("sce", [[1.0, 2.0], [-2.0, 2.0]]), [-2, 2])


def test_only_entries_of_high_variance_are_kept(combine, close):
    # variances 4, 0, 1: of the two that are not 0 the half is one
    close(
        combine("sce", [[5.0, 3.0, 2.0], [1.0, 3.0, 4.0]], select_topk=0.5),
        [(25 * 5 + 1) / 26, 0, 0],
    )
    close(combine("sce", [[5.0, 3.0], [1.0, 3.0]], select_topk=0.3), [0, 0])


def test_mergekit_weighs_small_deltas_alike_and_the_paper_does_not(combine, close):
    small = [[3e-4], [1e-4]]
    close(combine("sce", small), [2e-4])
    close(combine("sce", small, uniform_below=0.0), [0.9 * 3e-4 + 0.1 * 1e-4])
    close(combine("sce", [[0.0], [0.0]], uniform_below=0.0), [0])


def test_an_entry_of_one_model_alone_is_kept_however_small_its_share(combine, close):
    """c of the second is 10⁻⁸; where only it moves, c · Δ / c is Δ."""
    close(combine("sce", [[1.0, 0.0], [0.0, 1e-4]]), [1, 1e-4])
