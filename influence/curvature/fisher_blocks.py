"""The curvature of a causal language model's linear layers, by K-FAC or EK-FAC.

The curvature is that of the mean loss, each example's loss being the mean over its T_z supervised
tokens. Its Gauss-Newton matrix is the Fisher matrix with tokens drawn from the model's own
distribution (Martens, arXiv 1412.1193), and drawn tokens are independent given the text, so

    H = E_z[ g_z g_zᵀ ],    g_z = ∇ Σ_t ℓ_zt / √T_z

without the products of different tokens, whose expectation is 0. The gradients are those of whole
examples and not of single positions, because what a layer computes at one position changes the
losses of all later ones.

With the data's own tokens (`empirical`) H is the empirical Fisher matrix, which costs the same and
is the Gauss-Newton matrix only where the model predicts the data well (Kunstner et al.,
arXiv 1905.12558).
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from evaluation.prepared import Batch
from influence.curvature.kronecker import DAMPING, Eigenbasis, KroneckerBlock, damping_of
from influence.curvature.layer_passes import LayerPass, layer_passes
from influence.curvature.token_logits import token_logits, tokens_of
from influence.gradients.examples import Examples
from influence.gradients.taps import LinearLayer
from merging.engine.task import seed_of

BYTES = 2**26
"""The most bytes of per-example gradients of one layer that are held at once."""


def fisher_blocks(
    module: nn.Module,
    layers: Mapping[str, LinearLayer],
    sets: Mapping[str, Examples],
    weights: Mapping[str, float],
    *,
    corrected: bool = True,
    damping: float = DAMPING,
    seed: int | None = 0,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, KroneckerBlock]:
    """Returns the curvature block of each layer.

    It takes one pass over the examples for the factors, and one for the corrected eigenvalues.

    Args:
        module: the model, in evaluation mode.
        layers: path -> layer.
        sets: name -> examples.
        weights: name -> the weight of one of its examples; over all examples they sum to 1.
        corrected: whether eigenvalues are corrected (EK-FAC) or products of the factors' (K-FAC).
        damping: λ as a share of each layer's mean eigenvalue.
        seed: of the tokens that are drawn from the model, which depend neither on the batches nor
            on their order; None for the data's own tokens, the empirical Fisher matrix.
        should_stop: asked before each batch.

    Raises:
        InfluenceError: no gradient reaches a layer, or the damping is not above 0.
        InfluenceStopped: `should_stop` returned True.
    """

    def pseudo_loss(name: str, batch: Batch) -> Tensor:
        logs = token_logits(module, batch).log_softmax(-1)
        tokens = batch.targets if seed is None else _drawn(logs, batch, name, seed)
        losses = -logs.gather(1, tokens.to(logs.device)[:, None])[:, 0]
        return (losses * (weights[name] / tokens_of(batch)).sqrt().to(losses)).sum()

    passes = partial(layer_passes, layers, sets, pseudo_loss, should_stop)
    inputs, outputs, seen = dict[str, Tensor](), dict[str, Tensor](), dict[str, Tensor]()
    for each in passes():
        for path, (x, delta) in each.layers.items():
            # Positions that no loss depends on, such as padding, have no curvature.
            reached = delta.any(-1) * weights[each.name]
            rows = (x * reached.sqrt()[..., None]).flatten(0, 1)
            _add(inputs, path, rows.T @ rows)
            _add(outputs, path, delta.flatten(0, 1).T @ delta.flatten(0, 1))
            _add(seen, path, reached.sum())
    for path in layers:
        # Told now, before the decompositions.
        damping_of(path, float(outputs[path].trace()) if path in outputs else 0.0, damping)
    bases = {path: Eigenbasis.of(inputs[path] / seen[path], outputs[path]) for path in layers}
    values = {path: basis.values for path, basis in bases.items()}
    if corrected:
        values = {path: torch.zeros_like(each) for path, each in values.items()}
        for each in passes():
            _add_squares(values, bases, each)
    return {
        path: KroneckerBlock(
            bases[path],
            values[path],
            damping_of(path, float(values[path].mean()), damping),
        )
        for path in layers
    }


def _add(sums: dict[str, Tensor], path: str, term: Tensor) -> None:
    sums[path] = sums[path] + term if path in sums else term


def _add_squares(
    values: Mapping[str, Tensor], bases: Mapping[str, Eigenbasis], each: LayerPass
) -> None:
    """Adds Σ_z (Q_Bᵀ g_z Q_A)² over the examples of a batch, in place."""
    for path, (x, delta) in each.layers.items():
        total = values[path]
        step = max(1, BYTES // (total.numel() * total.element_size()))
        rotated_delta, rotated_x = delta @ bases[path].outputs, x @ bases[path].inputs
        for some, others in zip(
            torch.split(rotated_delta, step), torch.split(rotated_x, step), strict=True
        ):
            total += torch.einsum("epo,epi->eoi", some, others).square().sum(0)


def _drawn(logs: Tensor, batch: Batch, name: str, seed: int) -> Tensor:
    """Draws a token for each supervised one from the model's distribution: (tokens,) int64."""
    probabilities, drawn = logs.detach().exp().cpu(), torch.empty_like(batch.targets)
    for example in torch.unique(batch.examples).tolist():
        tokens = batch.examples == example
        # From a seed of the example, on the CPU: batches, their order and the device do not matter.
        generator = torch.Generator().manual_seed(seed_of(seed, name, str(example)))
        drawn[tokens] = torch.multinomial(probabilities[tokens], 1, generator=generator)[:, 0]
    return drawn
