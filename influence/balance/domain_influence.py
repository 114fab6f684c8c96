"""The influence of training domains on reference sets: what more of a domain does to a loss.

With N = Σ|D_j| training examples, mean gradients ḡ and mean curvature H̄ over them, adding the share
β_j of domain j changes the loss on a reference set by α_j β_j, to first order (IDEAL,
arXiv 2505.12762, lemma 1; there with sums over examples in place of means):

    α_j = −(|D_j|/N) · ḡ_refᵀ (H̄ + λI)⁻¹ ḡ_j

So more of a domain with α_j < 0 helps. The lemma holds where the model is an optimum of its
training loss. There Σ_j |D_j| ḡ_j = 0, and Σ_j α_j = 0 whatever the curvature: `stationarity` and
`imbalance` tell how far the model is from that.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from torch import nn

from influence.balance.half_sums import HalfSums, half_sums
from influence.balance.resize import sizes_of
from influence.curvature.inverse import CurvatureOptions, Solve, inverse_curvature, layer_groups
from influence.curvature.layer_choice import choose_layers, steadiest
from influence.errors import InfluenceError
from influence.gradients.domain_means import check_mode
from influence.gradients.examples import Examples
from plumbing.suggest import listed


class LayerInfluence(NamedTuple):
    """One layer's part of the influence."""

    path: str
    alpha: tuple[float, ...]
    """[n] its part of α, the mean over the reference sets."""
    spread: float
    """Var(Λ)/mean(Λ)² of its eigenvalues; NaN for an estimator without eigenvalues."""
    kept: bool
    """Whether it counts."""


@dataclass(frozen=True)
class DomainInfluence:
    """The influence of n domains on r reference sets, and what tells how far to trust it.

    Attributes:
        domains: names of the domains.
        references: names of the reference sets.
        sizes: training examples of each domain.
        alpha_per_ref: [r, n] float64, in nats for each added share of a domain.
        halves: [2, n] α (the mean over reference sets) from one random half of the examples of
            every set, and from the other half; the curvature is that of all. NaN if a set has one
            example only.
        stationarity: ‖Σ|D_j| ḡ_j‖ / Σ|D_j| ‖ḡ_j‖ from 0, an optimum of the training loss, to 1.
        layers: each layer's part.
    """

    domains: tuple[str, ...]
    references: tuple[str, ...]
    sizes: tuple[int, ...]
    alpha_per_ref: np.ndarray
    halves: np.ndarray
    stationarity: float
    layers: tuple[LayerInfluence, ...]

    @property
    def alpha(self) -> np.ndarray:
        """[n] the mean of α over the reference sets, each counting alike."""
        return np.asarray(self.alpha_per_ref.mean(0))

    @property
    def imbalance(self) -> float:
        """Σα / Σ|α| from −1 to 1; 0 at an optimum of the training loss, NaN if α is 0."""
        whole = float(np.abs(self.alpha).sum())
        return float(self.alpha.sum()) / whole if whole else math.nan

    @property
    def split_half(self) -> float:
        """Pearson's correlation of the two rows of `halves`; NaN where it is undefined."""
        first, second = self.halves - self.halves.mean(1, keepdims=True)
        norms = float(np.linalg.norm(first) * np.linalg.norm(second))
        return float(first @ second) / norms if norms else math.nan

    def predicted_change(self, beta: ArrayLike) -> float:
        """Returns Σ α_j β_j: the change of the mean reference loss in nats, if linear in β."""
        return float(self.alpha @ np.asarray(beta, np.float64))


def domain_influence(
    module: nn.Module,
    domains: Mapping[str, Examples],
    references: Mapping[str, Examples],
    *,
    sizes: Mapping[str, int] | None = None,
    layers: str = "mlp",
    keep: int | None = None,
    options: CurvatureOptions | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> DomainInfluence:
    """Computes the influence of each domain on each reference set, with its diagnostics.

    Args:
        module: the model, trained on the domains, in evaluation mode; it is not changed.
        domains: name -> examples of a training domain, all of them or a sample.
        references: name -> examples of a reference set; the model must not be trained on them.
        sizes: name -> training examples of a domain, if `domains` holds samples.
        layers: see choose_layers.
        keep: use only so many layers, those with the steadiest eigenvalues; see steadiest.
        options: how the curvature is inverted; its seed is also that of the halves.
        should_stop: asked before each batch.

    Raises:
        InfluenceError: sizes that do not fit, no such layer, a layer that no gradient reaches,
            `keep` with an estimator that has no eigenvalues, a model in
            training mode or examples that do not fit it, or an error of inverse_curvature.
        InfluenceStopped: `should_stop` returned True.
    """
    options = options or CurvatureOptions()
    read = {name: len(examples.records) for name, examples in domains.items()}
    if sizes is not None and (wrong := sizes.keys() ^ read.keys()):
        raise InfluenceError(
            f"domains and sizes differ in {listed(sorted(wrong))}; expected a size for each domain "
            "and no other. Give them the same names."
        )
    counts = sizes_of([(sizes or read)[name] for name in domains])
    if keep is not None and not options.has_eigenvalues:
        raise InfluenceError(
            f"keep={keep} chooses layers by their eigenvalues, and the estimator "
            f"{options.estimator} computes none. Leave keep out, or take ekfac."
        )
    check_mode(module)
    for examples in (*domains.values(), *references.values()):
        examples.check(module)
    chosen = choose_layers(module, layers)
    steadiest(dict.fromkeys(chosen, 0.0), keep)  # a wrong number is told before the long work
    shares = counts / counts.sum()
    weights = {name: share / read[name] for name, share in zip(domains, shares, strict=True)}
    held = 2 * (len(domains) + len(references))
    parts: dict[str, _Part] = {}
    for group in layer_groups(chosen, held, options):
        solve, spread = inverse_curvature(module, group, domains, weights, options, should_stop)
        trained, wanted = (
            half_sums(module, group, each, seed=options.seed, should_stop=should_stop)
            for each in (domains, references)
        )
        parts |= _parts(trained, wanted, solve, shares, spread)
    kept = steadiest({path: part.spread for path, part in parts.items()}, keep)
    used = [part for path, part in parts.items() if path in kept]
    squares = np.sum([part.squares for part in used], axis=0)
    return DomainInfluence(
        domains=tuple(domains),
        references=tuple(references),
        sizes=tuple(int(count) for count in counts),
        alpha_per_ref=np.sum([part.alpha for part in used], axis=0),
        halves=np.sum([part.halves for part in used], axis=0),
        stationarity=float(np.sqrt(squares[-1]) / (shares @ np.sqrt(squares[:-1]))),
        layers=tuple(
            LayerInfluence(path, tuple(part.alpha.mean(0).tolist()), part.spread, path in kept)
            for path, part in parts.items()
        ),
    )


class _Part(NamedTuple):
    """What one layer adds to the sums over layers."""

    alpha: np.ndarray
    """[r, n]."""
    halves: np.ndarray
    """[2, n]."""
    squares: np.ndarray
    """[n + 1] ‖ḡ_j‖² of each domain, and ‖Σ (|D_j|/N) ḡ_j‖²."""
    spread: float


def _parts(
    trained: HalfSums,
    wanted: HalfSums,
    solve: Solve,
    shares: np.ndarray,
    spread: Mapping[str, float],
) -> dict[str, _Part]:
    """Returns the part of each layer.

    Args:
        trained: of the domains.
        wanted: of the reference sets.
        solve: (H̄ + λI)⁻¹.
        shares: [n] |D_j|/N.
        spread: of the layers' eigenvalues.
    """
    # The inverse is linear, so that of sums serves the whole and both halves.
    sums = {path: each.flatten(0, 1) for path, each in trained.gradients.items()}
    solved = solve(sums)
    # 0/0, of a half without examples, is NaN.
    n, r = trained.counts.numpy(), wanted.counts.numpy()
    parts = {}
    for path, references in wanted.gradients.items():
        inverse = solved[path].flatten(1).double()
        flat = references.flatten(0, 1).flatten(1).double()
        # [halves of references, r, halves of domains, n]
        products = (flat @ inverse.T).cpu().numpy().reshape(*r.shape, *n.shape)
        whole = products.sum((0, 2)) / np.outer(r.sum(0), n.sum(0))
        with np.errstate(invalid="ignore"):
            halves = [
                (products[half, :, half] / np.outer(r[half], n[half])).mean(0) for half in (0, 1)
            ]
        gradients = trained.gradients[path].sum(0).flatten(1).double().cpu().numpy()
        means = gradients / n.sum(0)[:, None]
        rows = np.vstack([means, shares @ means])
        parts[path] = _Part(
            -shares * whole,
            -shares * np.array(halves),
            np.square(rows).sum(1),
            spread.get(path, math.nan),
        )
    return parts
