"""Which linear layers the curvature is computed for, and which of them count."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from influence.errors import InfluenceError
from influence.gradients.taps import LinearLayer, linear_layers

MLP = r"(^|\.)(mlp|ffn|feed_forward|fc[12])(\.|$)"
"""Paths of the feed-forward layers in the families of transformers."""


def choose_layers(module: nn.Module, which: str = "mlp") -> dict[str, LinearLayer]:
    """Returns linear layers of a causal language model by their paths.

    Args:
        module: the model.
        which: "mlp", the feed-forward layers, which IDEAL uses (arXiv 2505.12762); "all", every
            linear layer but the output layer, whose outputs are as many as the vocabulary;
            "trained", the layers with requires_grad, such as those of a LoRA; or a regular
            expression that is searched for in the paths.

    Raises:
        InfluenceError: no layer is chosen, or a chosen one cannot be seen; see linear_layers.
    """
    if which == "all":
        model: Any = module
        head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
        layers = linear_layers(module, "")
        return {path: layer for path, layer in layers.items() if layer.module is not head}
    return linear_layers(module, {"mlp": MLP, "trained": None}.get(which, which))


def steadiest(spread: Mapping[str, float], keep: int | None) -> set[str]:
    """Returns the `keep` layers whose eigenvalues vary least, or all of them if it is None.

    IDEAL calls the layers with the least variance stable and leaves the others out (section 4.2);
    how many it keeps is not told.

    Args:
        spread: path -> Var(Λ)/mean(Λ)², without a unit, so that layers can be compared.
        keep: how many.

    Raises:
        InfluenceError: `keep` is below 1 or above the number of layers.
    """
    if keep is None:
        return set(spread)
    if not 1 <= keep <= len(spread):
        raise InfluenceError(
            f"{keep} layers are to be kept of {len(spread)}; expected 1 to {len(spread)}. "
            "Give such a number, or None for all."
        )
    return set(sorted(spread, key=lambda path: spread[path])[:keep])
