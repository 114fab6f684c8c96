"""fisher by numbers written out."""

import pytest
import torch

from merging.methods import _contract
from merging.methods._values import Site, Statistic


def fisher(rows, information, omegas=None, *, norms=None, **given):
    """The method on rows of numbers with their Fisher information (None: none of this tensor), in float64."""
    stack = torch.tensor(rows, dtype=torch.float64)
    known = tuple(
        None
        if values is None
        else Statistic(
            torch.tensor(values, dtype=torch.float64), 1.0 if norms is None else norms[number]
        )
        for number, values in enumerate(information)
    )
    site = Site("w", torch.zeros_like(stack[0]), None, (), known)
    omegas = torch.tensor(omegas or [1.0] * len(rows), dtype=torch.float64)
    return _contract.load("fisher").combine(
        stack, omegas, site, **_contract.load("fisher").arguments(given, len(rows))
    )


def test_each_entry_is_weighed_by_its_own_information(close):
    # (3·2 + 1·5) / 4 = 2.75 and (1·8 + 7·16) / 8 = 15
    close(fisher([[2.0, 8.0], [5.0, 16.0]], [[3.0, 1.0], [1.0, 7.0]]), [2.75, 15.0])


def test_omega_is_a_factor_on_the_information(close):
    # (0.5·4·1 + 1.5·2·11) / (2 + 3) = 35 / 5
    close(fisher([[1.0], [11.0]], [[4.0], [2.0]], [0.5, 1.5]), [7.0])


def test_each_models_information_is_divided_by_its_norm(close):
    # 30/10 and 1/1: (3·2 + 1·5) / 4
    rows, information, norms = [[2.0], [5.0]], [[30.0], [1.0]], [10.0, 1.0]
    close(fisher(rows, information, norms=norms), [2.75])
    # as collected: (30·2 + 1·5) / 31
    close(fisher(rows, information, norms=norms, unit_norm=False), [65 / 31])


def test_the_floor_comes_before_the_norm(close):
    # max(0, 0.5) / 2 = 0.25 and 0.75 / 1: (0.25·4 + 0.75·8) / 1
    close(fisher([[4.0], [8.0]], [[0.0], [0.75]], norms=[2.0, 1.0], floor=0.5), [7.0])


def test_at_the_default_floor_what_only_one_model_uses_is_nearly_its_own(close):
    # (1e-6·4 + 1·8) / (1 + 1e-6)
    close(fisher([[4.0], [8.0]], [[0.0], [1.0]]), [8.000004 / 1.000001])


def test_without_information_it_is_the_average(close):
    close(fisher([[2.0], [6.0]], [None, None], [1.0, 3.0]), [5.0])
    close(
        fisher([[2.0, 2.0], [6.0, 6.0]], [[0.0, 1.0], [0.0, 1.0]], [1.0, 3.0], floor=0.0),
        [5.0, 5.0],
    )
    close(fisher([[2.0], [6.0]], [[0.0], [0.0]], [1.0, 3.0], norms=[0.0, 0.0]), [5.0])


def test_equal_information_gives_the_average_and_one_model_itself():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3, 17, generator=generator, dtype=torch.float64)
    same = torch.rand(17, generator=generator, dtype=torch.float64).tolist()
    torch.testing.assert_close(fisher(rows.tolist(), [same] * 3), rows.mean(0))
    torch.testing.assert_close(fisher(rows[:1].tolist(), [same]), rows[0])


@pytest.mark.parametrize("omegas", [(-0.5,), (1.0, -0.25)])
def test_a_share_below_zero_is_refused(omegas):
    for name in ("fisher", "regmean"):
        assert f"ω is {omegas[-1]:g}, but" in _contract.load(name).refusal(omegas, {})
        assert _contract.load(name).refusal((0.5, 2.0), {}) is None


def test_products_that_float32_cannot_hold(close):
    """(3·2 + 1·5) / 4 = 2.75 in units of 10³⁰, with information in units of 10³⁰ and of 10⁻³⁰."""
    for unit in (1e30, 1e-30):
        stack = torch.tensor([[2e30], [5e30]])
        known = tuple(Statistic(torch.tensor([value * unit])) for value in (3, 1))
        site = Site("w", torch.zeros(1), None, (), known)
        given = _contract.load("fisher").arguments({"floor": 0.0}, 2)
        found = _contract.load("fisher").combine(stack, torch.ones(2), site, **given)
        assert found.item() == pytest.approx(2.75e30)
