"""Γ is the step of a real AdamW, divided by its rate."""

import pytest
import torch

from influence.errors import InfluenceError
from influence.gradients.adam_direction import direction
from influence.gradients.moments import Moments

BETAS, EPS = (0.8, 0.97), 1e-6


def trained(dtype, rate, seed=0, amsgrad=False):
    """A parameter after 5 updates of AdamW with gradients of many magnitudes; and its optimiser."""
    generator = torch.Generator().manual_seed(seed)
    value = torch.nn.Parameter(0.02 * torch.randn(3, 5, generator=generator, dtype=dtype))
    optimiser = torch.optim.AdamW([value], rate, betas=BETAS, eps=EPS, weight_decay=0)
    for _ in range(5):
        value.grad = gradient(generator, dtype)
        optimiser.step()
    return value, optimiser, generator


def gradient(generator, dtype):
    sizes = 10.0 ** torch.arange(-9, 6, dtype=dtype).view(3, 5)
    return torch.randn(3, 5, generator=generator, dtype=dtype) * sizes


def moments(optimiser, value):
    state = optimiser.state[value]
    averages = state["exp_avg"].clone(), state["exp_avg_sq"].clone()
    return Moments(*averages, int(state["step"]), BETAS, EPS)


@pytest.mark.parametrize(
    ("dtype", "rate", "tolerance"),
    [
        (torch.float64, 1.0, 1e-11),
        (torch.float64, 1e-2, 1e-11),
        (torch.float64, 1e-5, 1e-11),
        (torch.float32, 1.0, 1e-6),
        (torch.float32, 1e-2, 1e-6),
    ],
)
def test_gamma_is_the_step_of_torchs_adamw(dtype, rate, tolerance):
    value, optimiser, generator = trained(dtype, rate)
    before, state, g = value.detach().clone(), moments(optimiser, value), gradient(generator, dtype)
    value.grad = g.clone()
    optimiser.step()
    step = (before - value.detach()) / rate
    gamma = direction(g[None], state)[0]
    assert (gamma - step).norm() <= tolerance * step.norm()
    # What the released code computes is far from it, and so is a forgotten correction.
    assert (direction(g[None], state, "adam-less-repo")[0] - step).norm() > 0.1 * step.norm()


def test_the_first_step_needs_no_average():
    """The worked example at the head of the module."""
    zero = torch.zeros(1, dtype=torch.float64)
    gamma = direction(torch.tensor([[3.0]]).double(), Moments(zero, zero, 0, (0.9, 0.99), 0.0))
    assert gamma.item() == pytest.approx(1, rel=1e-15)


def test_each_example_has_its_own_direction_and_nothing_is_changed():
    value, optimiser, generator = trained(torch.float64, 0.1)
    state = moments(optimiser, value)
    several = torch.stack([gradient(generator, torch.float64) for _ in range(4)])
    kept = several.clone(), state.first.clone(), state.second.clone()
    for kind in ("adam", "sgd", "sign", "adam-less-repo"):
        together = direction(several, state, kind)
        assert together.shape == (4, 3, 5)
        for row in range(4):
            assert torch.equal(
                together[row : row + 1], direction(several[row : row + 1], state, kind)
            )
    assert all(torch.equal(a, b) for a, b in zip(kept, (several, *state[:2]), strict=True))


def test_the_other_kinds_by_hand():
    g, m, v = (torch.tensor([value], dtype=torch.float64) for value in (-2.0, 1.0, 3e-6))
    state = Moments(m, v, 7, (0.5, 0.5), 0.1)
    assert direction(g[None], None, "sgd").tolist() == [[-2]]
    assert direction(torch.tensor([[-2.0, 0, 5]]), None, "sign").tolist() == [[-1, 0, 1]]
    # (0.9 · 1 + 0.1 · −2) / √(0.999 · 3e-6 + 0.001 · 4 + 1e-8), whatever betas and ε the state has
    repo = direction(g[None], state, "adam-less-repo").item()
    assert repo == pytest.approx(0.7 / 0.004003007**0.5, rel=1e-12)
    # ((0.5 − 1) / (1 − 0.5⁸)) / (√((1.5e-6 + 2) / (1 − 0.5⁸)) + 0.1)
    adam = direction(g[None], state).item()
    assert adam == pytest.approx((-0.5 * 256 / 255) / ((2.0000015 * 256 / 255) ** 0.5 + 0.1))


def test_an_unknown_kind_and_missing_averages_are_refused():
    with pytest.raises(InfluenceError, match=r"direction 'adm' is unknown; did you mean 'adam'\?"):
        direction(torch.ones(1, 1), None, "adm")
    with pytest.raises(InfluenceError, match="'adam' needs the optimiser's averages"):
        direction(torch.ones(1, 1), None)
