"""The inverse of the damped curvature, by one of four estimators."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor, nn

from influence.curvature.exact import exact_curvature
from influence.curvature.fisher_blocks import fisher_blocks
from influence.curvature.kronecker import DAMPING, spread_of
from influence.curvature.layer_passes import gradient_shape
from influence.errors import InfluenceError
from influence.gradients.examples import Examples
from influence.gradients.taps import LinearLayer

Estimator = Literal["ekfac", "kfac", "exact", "identity"]
"""How (H + λI)⁻¹ is computed; "identity" leaves it out and gives plain products of gradients."""

Solve = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""Path -> gradients (k, outputs, inputs) to path -> (H + λI)⁻¹ times each of them."""

MEMORY = 2**32
"""Bytes of factors and gradients that are held at once; more layers take more passes."""


@dataclass(frozen=True)
class CurvatureOptions:
    """How the inverse curvature is computed.

    Attributes:
        estimator: see Estimator.
        damping: λ as a share of each layer's mean eigenvalue.
        seed: of the tokens that are drawn from the model for ekfac and kfac.
        empirical: take the data's own tokens for ekfac and kfac, and draw none.
        memory: see MEMORY.
    """

    estimator: Estimator = "ekfac"
    damping: float = DAMPING
    seed: int = 0
    empirical: bool = False
    memory: int = MEMORY

    def __post_init__(self) -> None:
        """Raises InfluenceError for an unknown estimator."""
        if self.estimator not in get_args(Estimator):
            raise InfluenceError(
                f"the estimator is {self.estimator!r}; expected one of "
                f"{', '.join(get_args(Estimator))}."
            )

    @property
    def has_eigenvalues(self) -> bool:
        """Whether layers can be chosen by their eigenvalues."""
        return self.estimator in ("ekfac", "kfac")


def inverse_curvature(
    module: nn.Module,
    layers: Mapping[str, LinearLayer],
    sets: Mapping[str, Examples],
    weights: Mapping[str, float],
    options: CurvatureOptions,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[Solve, dict[str, float]]:
    """Returns (H + λI)⁻¹ as a function, and Var(Λ)/mean(Λ)² of each layer that has eigenvalues.

    Arguments and errors are those of fisher_blocks and exact_curvature.
    """
    if options.estimator == "identity":
        return dict, {}
    if options.estimator == "exact":
        exact = exact_curvature(
            module, layers, sets, weights, damping=options.damping, should_stop=should_stop
        )
        return exact.solve, {}
    blocks = fisher_blocks(
        module,
        layers,
        sets,
        weights,
        corrected=options.estimator == "ekfac",
        damping=options.damping,
        seed=None if options.empirical else options.seed,
        should_stop=should_stop,
    )

    def solve(gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {path: blocks[path].solve(each) for path, each in gradients.items()}

    return solve, {path: spread_of(block.values) for path, block in blocks.items()}


def layer_groups(
    layers: Mapping[str, LinearLayer], gradients: int, options: CurvatureOptions
) -> Iterator[dict[str, LinearLayer]]:
    """Splits layers into groups whose factors and gradients fit into the memory, in their order.

    Each group is worked on in passes of its own. A layer that does not fit is a group by itself,
    and the exact curvature, which joins all layers, is one group.

    Args:
        layers: path -> layer.
        gradients: how many gradients of each layer are held.
        options: its memory counts.
    """
    group: dict[str, LinearLayer] = {}
    taken = 0
    for path, layer in layers.items():
        outputs, inputs = gradient_shape(layer)
        # Both factors and their eigenvectors, Λ, and the gradients with their solutions.
        numbers = 2 * (inputs**2 + outputs**2) + (2 * gradients + 1) * inputs * outputs
        size = 4 * numbers
        if group and options.estimator != "exact" and taken + size > options.memory:
            yield group
            group, taken = {}, 0
        group[path] = layer
        taken += size
    yield group
