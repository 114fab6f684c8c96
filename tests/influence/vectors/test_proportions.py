"""From ω to proportions of data and back: the formulas, and the displacements that they equate."""

import pytest
import torch

from influence.errors import InfluenceError
from influence.vectors.proportions import (
    Mixture,
    OmegaProposal,
    mixture_of,
    omegas_of,
    proposed_omegas,
    surrogate_omegas,
)

SEEN = {"code": 600, "chat": 400, "law": 500}


def test_a_worked_example() -> None:
    """0.5 · 600 = 300 and 0.25 · 400 = 100 examples of 400; a negative ω has none."""
    got = mixture_of({"code": 0.5, "chat": 0.25, "law": -0.1}, SEEN)
    assert got == Mixture({"code": 0.75, "chat": 0.25, "law": 0.0}, 400.0, ("law",))


def test_there_and_back() -> None:
    omegas = {"code": 0.31, "chat": 0.0, "law": 1.7}
    mixture = mixture_of(omegas, SEEN)
    assert sum(mixture.shares.values()) == pytest.approx(1, abs=1e-15)
    assert omegas_of(mixture.shares, mixture.total, SEEN) == pytest.approx(omegas, abs=1e-15)
    assert mixture.left_out == ()


def test_equal_training_gives_the_omegas_themselves() -> None:
    same = dict.fromkeys(SEEN, 700)
    assert mixture_of({"code": 0.5, "chat": 0.2, "law": 0.3}, same).shares == pytest.approx(
        {"code": 0.5, "chat": 0.2, "law": 0.3}
    )


def test_a_surrogate_stays_within_the_experts() -> None:
    """Of 400 examples 300/600 and 100/400; ten times as many would be 5 and 2.5, which sum to 7.5."""
    shares, seen = {"code": 0.75, "chat": 0.25}, {"code": 600, "chat": 400}
    assert surrogate_omegas(shares, 400, seen) == {"code": 0.5, "chat": 0.25}
    assert surrogate_omegas(shares, 4000, seen) == pytest.approx({"code": 2 / 3, "chat": 1 / 3})


class Domains:
    """Logistic regression on three datasets, trained by full gradients from one base, in float64."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        rows = {"code": 31, "chat": 53, "law": 41}
        self.inputs = {
            name: torch.randn(n, 7, dtype=torch.float64) + i
            for i, (name, n) in enumerate(rows.items())
        }
        self.labels = {name: (torch.rand(n) < 0.5).double() for name, n in rows.items()}

    def trained(self, amounts: dict[str, float], rate: float, steps: int = 10) -> torch.Tensor:
        """The displacement of training on a mixture: `amounts` examples in batches of 1/steps."""
        at = torch.zeros(7, dtype=torch.float64)
        for _ in range(steps):
            step = torch.zeros_like(at)
            for name, amount in amounts.items():
                x = self.inputs[name]
                errors = torch.sigmoid(x @ at) - self.labels[name]
                step += amount * (x.T @ errors) / len(x)
            at = at - rate / steps * step
        return at


def test_the_mixture_displaces_as_the_merge_does_for_small_steps() -> None:
    """They differ in proportion to the rate; shares by ω or by ω‖Δ‖ differ at any rate."""
    domains, omegas = Domains(), {"code": 0.5, "chat": 0.25, "law": 0.9}

    def off(rate: float, weights: dict[str, float] | None = None) -> float:
        """How far the mixture's displacement is from the merge's, as a share of it."""
        experts = {name: domains.trained({name: seen}, rate) for name, seen in SEEN.items()}
        merged = sum(omegas[name] * experts[name] for name in SEEN)
        mixture = mixture_of(omegas, SEEN)
        shares = mixture.shares
        if weights is not None:
            total = sum(omegas[name] * weights[name] for name in SEEN)
            shares = {name: omegas[name] * weights[name] / total for name in SEEN}
        amounts = {name: share * mixture.total for name, share in shares.items()}
        return float((domains.trained(amounts, rate) - merged).norm() / merged.norm())

    assert off(1e-5) < 0.003
    assert off(1e-4) / off(1e-5) == pytest.approx(10, rel=0.1)
    lengths = {
        name: float(domains.trained({name: seen}, 1e-5).norm()) for name, seen in SEEN.items()
    }
    assert off(1e-5, dict.fromkeys(SEEN, 1.0)) > 0.03
    assert off(1e-5, lengths) > 0.03


def test_a_proposal_for_data_is_one_for_omega() -> None:
    """0.5 · 1.1 and 1 · 0.9; −2 · 0.5 · 0.1 + 1 · 1 · −0.1 = −0.2."""
    got = proposed_omegas(
        {"code": 0.5, "chat": 1.0}, {"code": 0.1, "chat": -0.1}, {"code": -2.0, "chat": 1.0}
    )
    assert got.omegas == pytest.approx({"code": 0.55, "chat": 0.9})
    assert got.change == pytest.approx(-0.2)
    assert isinstance(got, OmegaProposal)


def test_more_of_a_dataset_is_more_of_its_examples() -> None:
    """The mixture of the proposal has (1 + β) times the examples of the mixture before."""
    omegas, betas = (
        {"code": 0.5, "chat": 0.25, "law": 0.4},
        {"code": 0.15, "chat": 0.0, "law": -0.1},
    )
    before = mixture_of(omegas, SEEN)
    after = mixture_of(proposed_omegas(omegas, betas, dict.fromkeys(SEEN, 1.0)).omegas, SEEN)
    for name in SEEN:
        grown = after.shares[name] * after.total / (before.shares[name] * before.total)
        assert grown == pytest.approx(1 + betas[name])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mixture_of({"a": 1}, {"b": 1}), "one mapping names a, another b"),
        (lambda: mixture_of({"a": 1}, {"a": 0}), r"the experts of a have seen no examples \(a 0\)"),
        (lambda: mixture_of({"a": -1, "b": 0}, {"a": 1, "b": 1}), r"no ω is above 0 \(a -1, b 0\)"),
        (
            lambda: omegas_of({"a": 0.5}, 9, {"a": 1}),
            "the shares are a 0.5 of 9 examples; expected",
        ),
        (lambda: omegas_of({"a": 1.5, "b": -0.5}, 9, {"a": 1, "b": 1}), "expected shares from 0"),
        (lambda: proposed_omegas({"a": 1}, {"a": -1.2}, {"a": 1}), "β of a is below −1"),
        (lambda: proposed_omegas({"a": 1}, {"a": 0}, {"b": 1}), "one mapping names a, another b"),
    ],
)
def test_what_is_refused(call, message: str) -> None:
    with pytest.raises(InfluenceError, match=message):
        call()
