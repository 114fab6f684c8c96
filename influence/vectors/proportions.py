"""From ω of a merged model to proportions of data for mixed training, and back.

For small steps of gradient descent, an expert that has seen E_j examples is displaced by

    Δ_j ≈ −(η/B) E_j ḡ_j        ḡ_j: mean gradient of dataset j at the base; rate η, batch B

and a model that is trained on a mixture with M_j examples of each dataset by −(η/B) Σ M_j ḡ_j. The
two are the same displacement Σ ω_j Δ_j if

    M_j = ω_j E_j        so        share_j = ω_j E_j / Σ_k ω_k E_k

Two facts carry this: the task vector of one epoch of gradient descent is −η times the gradient
(arXiv 2508.16082), and what a small step adds does not depend on the steps before it. So E_j counts
an example once for each pass over it. Beyond small steps the shares are a first guess, to be tried.

‖Δ_j‖ is not used in the place of E_j. It depends on the rate, on the optimiser and on LoRA: twice
the rate doubles it, and doubles no amount of data. At the other end, where experts are trained
until they stand still and all datasets have the same curvature, the mixture's optimum is
Σ share_j Θ_j. So share_j = ω_j there, which is the formula with the same E_j for all.
"""

from collections.abc import Mapping
from typing import NamedTuple

from influence.errors import InfluenceError
from plumbing.suggest import listed


class Mixture(NamedTuple):
    """How much of each dataset mixed training sees."""

    shares: dict[str, float]
    """Dataset -> its share of the examples that are seen; they sum to 1."""
    total: float
    """Number of examples that are seen in all, each pass over an example counted."""
    left_out: tuple[str, ...]
    """Datasets with a negative ω. Their share is 0, because data cannot be taken away from 0."""


class OmegaProposal(NamedTuple):
    """ω to try on a merged model before any retraining."""

    omegas: dict[str, float]
    """Dataset -> ω_j (1 + β_j)."""
    change: float
    """Predicted change of the reference loss, in nats per supervised token; to first order."""


def mixture_of(omegas: Mapping[str, float], seen: Mapping[str, float]) -> Mixture:
    """Returns the mixture that displaces a model as the merge does, to first order.

    >>> mixture_of({"code": 0.5, "chat": 0.25, "law": -0.1}, {"code": 600, "chat": 400, "law": 500})
    Mixture({"code": 0.75, "chat": 0.25, "law": 0.0}, 400.0, ("law",))

    Args:
        omegas: dataset -> ω of its vector.
        seen: dataset -> number of examples that its expert has seen: steps times batch.

    Raises:
        InfluenceError: names differ, a number in `seen` is not above 0, or no ω is above 0.
    """
    _check_names(omegas, seen)
    _check_seen(seen)
    amounts = {name: max(0.0, omega) * seen[name] for name, omega in omegas.items()}
    total = sum(amounts.values())
    if not total > 0:
        raise InfluenceError(
            f"no ω is above 0 ({_numbers(omegas)}), so no mixture corresponds to it. "
            "Give at least one ω above 0."
        )
    shares = {name: amount / total for name, amount in amounts.items()}
    return Mixture(shares, total, tuple(name for name, omega in omegas.items() if omega < 0))


def omegas_of(
    shares: Mapping[str, float], total: float, seen: Mapping[str, float]
) -> dict[str, float]:
    """Returns ω_j = share_j · total / E_j: the merge that displaces a model as the mixture does.

    >>> omegas_of({"code": 0.75, "chat": 0.25}, 400, {"code": 600, "chat": 400})
    {"code": 0.5, "chat": 0.25}

    Args:
        shares: dataset -> its share of the examples.
        total: number of examples that mixed training sees.
        seen: as in `mixture_of`.

    Raises:
        InfluenceError: names differ, a share or `total` is below 0, the shares do not sum to 1, or
            a number in `seen` is not above 0.
    """
    _check_names(shares, seen)
    _check_seen(seen)
    if min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-6 or not total >= 0:
        raise InfluenceError(
            f"the shares are {_numbers(shares)} of {total:g} examples; expected shares from 0 to 1 "
            "that sum to 1, of 0 or more examples. Divide the shares by their sum."
        )
    return {name: share * total / seen[name] for name, share in shares.items()}


def surrogate_omegas(
    shares: Mapping[str, float], total: float, seen: Mapping[str, float]
) -> dict[str, float]:
    """Returns the ω with which a merge stands for a training on a mixture.

    They are those of `omegas_of`, divided by their sum where that is above 1. A training that is
    longer than its experts' does not go further than they did: it comes to rest between them, as
    the head of this file says. So its surrogate stays within the experts, Σ ω = 1, as in MergeMix
    (arXiv 2601.17858), whose weights are the proportions of the mixture.

    >>> surrogate_omegas({"code": 0.75, "chat": 0.25}, 400, {"code": 600, "chat": 400})
    {"code": 0.5, "chat": 0.25}
    >>> surrogate_omegas({"code": 0.75, "chat": 0.25}, 4000, {"code": 600, "chat": 400})
    {"code": 2/3, "chat": 1/3}

    Args:
        shares, total, seen: as in `omegas_of`.

    Raises:
        InfluenceError: as `omegas_of`.
    """
    omegas = omegas_of(shares, total, seen)
    whole = max(1.0, sum(omegas.values()))
    return {name: omega / whole for name, omega in omegas.items()}


def proposed_omegas(
    omegas: Mapping[str, float], betas: Mapping[str, float], alphas: Mapping[str, float]
) -> OmegaProposal:
    """Turns a proposal for data, β_j, into one for ω, to be tried by merging before retraining.

    β_j is how much more of dataset j to train on, as in IDEAL (arXiv 2505.12762): 0.15 is 15 %
    more. As M_j = ω_j E_j, 15 % more of its data is 15 % more of its ω. The predicted change is

        Σ α_j ω_j β_j        with α_j = ∂L_ref/∂ω_j at the merged model

    which is IDEAL's Σ α_j β_j where every ω is 1.

    >>> proposed_omegas({"a": 0.5, "b": 1}, {"a": 0.1, "b": -0.1}, {"a": -2, "b": 1})
    OmegaProposal({"a": 0.55, "b": 0.9}, -0.2)

    Args:
        omegas: dataset -> ω of the merged model.
        betas: dataset -> β, above or equal to −1.
        alphas: dataset -> α at the merged model; see influence.vectors.vector_influence.

    Raises:
        InfluenceError: names differ, or a β is below −1.
    """
    _check_names(omegas, betas)
    _check_names(omegas, alphas)
    if few := [name for name, beta in betas.items() if beta < -1]:
        raise InfluenceError(
            f"β of {listed(few)} is below −1 ({_numbers(betas)}), which removes more than all of "
            "its data. Give β from −1 on."
        )
    return OmegaProposal(
        {name: omega * (1 + betas[name]) for name, omega in omegas.items()},
        sum(alphas[name] * omega * betas[name] for name, omega in omegas.items()),
    )


def _check_names(these: Mapping[str, float], those: Mapping[str, float]) -> None:
    if these.keys() != those.keys():
        raise InfluenceError(
            f"one mapping names {listed(sorted(these))}, another {listed(sorted(those))}. "
            "Give a number for the same datasets in each."
        )


def _check_seen(seen: Mapping[str, float]) -> None:
    if bad := [name for name, count in seen.items() if not count > 0]:
        raise InfluenceError(
            f"the experts of {listed(bad)} have seen no examples ({_numbers(seen)}). Give for each "
            "the number of examples that it was trained on, each pass counted."
        )


def _numbers(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in values.items())
