"""Where examples lie in a model's own space: hidden states at a layer, their t-SNE by dataset, and a silhouette number.

DEM (arXiv 2406.15570, figure 2) plots its datasets by t-SNE without saying of what. Here it is of examples, each the
mean of the hidden states of its tokens. A picture proves little: t-SNE keeps neighbours and neither distances
nor sizes. So the silhouette is taken in the space of the states, never in the picture.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from evaluation.errors import DataError, Stopped
from evaluation.loss import Prepared, vocabulary_size
from evaluation.unpadded import Part, parts

Over = Literal["supervised", "all"]
Metric = Literal["cosine", "euclidean"]
Floats = NDArray[np.float32]

FEWEST = 4
"""Points below which t-SNE has no neighbourhoods to keep: its perplexity would fall below 1."""


@dataclass(frozen=True)
class States:
    """One vector per example."""

    vectors: Floats
    """(N, d)."""
    labels: tuple[str, ...]
    """Per row its dataset."""
    layer: int
    """0 for the embeddings, else the layer that they are the output of; the last is after the final norm where there is one."""
    over: Over


class Silhouette(NamedTuple):
    """How much nearer examples lie to their own dataset than to the nearest other one, from -1 to 1."""

    value: float
    """Mean over examples."""
    by_label: dict[str, float]
    """Mean over the examples of each label, in order of first appearance."""
    n: int
    """Examples."""
    metric: Metric


@dataclass(frozen=True)
class Scatter:
    """Points to draw, with all that made them."""

    points: Floats
    """(N, 2), without unit."""
    labels: tuple[str, ...]
    """Per point its dataset, or its group."""
    layer: int
    over: Over
    perplexity: float
    """As used: at most a third of the other points."""
    seed: int
    silhouette: Silhouette | None
    """Of the states, not of the points; None for a single dataset."""
    by: str = "datasets"
    """What the labels are."""

    @property
    def caption(self) -> str:
        """What is seen, in words."""
        tokens = "supervised tokens" if self.over == "supervised" else "all tokens"
        near = "" if self.silhouette is None else f" Silhouette {self.silhouette.value:.2f} ({self.silhouette.metric})."
        return (
            f"{len(self.labels)} examples of {len(set(self.labels))} {self.by}: mean over {tokens} of the states at layer "
            f"{self.layer}; t-SNE, perplexity {self.perplexity:g}, seed {self.seed}.{near} "
            "Distances between clusters, and their sizes, mean little."
        )


def hidden_states(
    module: nn.Module,
    prepared: Prepared,
    layer: int = -1,
    over: Over = "supervised",
    *,
    should_stop: Callable[[], bool] | None = None,
) -> States:
    """The mean hidden state of each example that `prepare` kept, dataset by dataset, in the order of the examples.

    The states of all layers of one batch are in memory at a time: batch_tokens × (layers + 1) × d × bytes per number.

    Args:
        module: any causal language model of transformers, in evaluation mode, on any device.
        prepared: what `prepare` made with this model's tokenizer. Where it dropped examples there are no rows for them.
        layer: 0 for the embeddings, 1 to L for the output of a layer, or counted from the end: -1 is the last.
        over: "supervised": the mean over the positions that predict a supervised token, which for all but the
            first of them are supervised tokens themselves; "all": over every position up to the last of these.
        should_stop: asked before each batch.

    Raises:
        DataError: no such layer, a token outside the model's vocabulary, or states that are not finite.
        Stopped: `should_stop` said so.
    """
    if over not in ("supervised", "all"):
        raise DataError(f'over is "{over}"; expected "supervised" or "all".')
    if prepared.largest >= (known := vocabulary_size(module)):
        raise DataError(
            f"token {prepared.largest} occurs in the data, the model knows {known} tokens. Use the tokenizer of this model."
        )
    starts, labels = {}, list[str]()
    for dataset in prepared.datasets:
        starts[dataset.name] = len(labels)
        labels += [dataset.name] * dataset.n
    rows: Tensor | None = None
    for part in parts(prepared, alone=False):
        if should_stop is not None and should_stop():
            raise Stopped(f"stopped at dataset {part.dataset!r}")
        layers = _layers(module, part)
        if not -len(layers) <= layer < len(layers):
            raise DataError(f"layer is {layer}; the model has 0 (embeddings) to {len(layers) - 1}, or -1 for the last.")
        found = _mean(layers[layer].float(), part, over).cpu()
        rows = torch.empty(len(labels), found.shape[1]) if rows is None else rows
        rows[torch.tensor(part.examples) + starts[part.dataset]] = found
    assert rows is not None  # prepare refuses what has no examples
    number = layer % len(layers)
    _finite(rows.numpy(), f"hidden states at layer {number}")
    return States(rows.numpy(), tuple(labels), number, over)


@torch.inference_mode()
def _layers(module: nn.Module, part: Part) -> tuple[Tensor, ...]:
    """(examples, length, d) per layer, the embeddings first."""
    keep = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(module.forward).parameters else {}
    ids = part.ids.to(next(module.parameters()).device)
    layers: tuple[Tensor, ...] = module(input_ids=ids, use_cache=False, output_hidden_states=True, **keep).hidden_states
    return layers


def _mean(states: Tensor, part: Part, over: Over) -> Tensor:
    """(examples, d)."""
    if over == "all":
        return states.mean(1)
    chosen = torch.zeros(part.ids.shape, dtype=states.dtype)
    chosen[part.rows, part.positions] = 1
    weights = (chosen / chosen.sum(1, keepdim=True)).to(states.device)
    return torch.einsum("el,eld->ed", weights, states)


def tsne(vectors: ArrayLike, seed: int, perplexity: float = 30.0, metric: Metric = "cosine") -> Floats:
    """(N, 2): scikit-learn's t-SNE (van der Maaten and Hinton, JMLR 9, 2008), begun from the principal components.

    The same seed gives the same points on the same machine.

    Args:
        vectors: (N, d), d at least 2.
        seed: of the principal components' solver, the only thing that is drawn.
        perplexity: about how many neighbours each point keeps; see `bounded`.
        metric: how near two vectors are.

    Raises:
        DataError: fewer than 4 vectors, all of them equal, numbers that are not finite, or zeros where a cosine is taken.
    """
    from sklearn.manifold import TSNE

    rows = _rows(vectors, metric)
    if len(rows) < FEWEST or rows.shape[1] < 2:
        raise DataError(
            f"{len(rows)} vectors of {rows.shape[1]} numbers cannot be laid out; expected {FEWEST} of 2 or more."
        )
    if (rows == rows[0]).all():
        raise DataError(f"all {len(rows)} vectors are equal: there is nothing to lay out. Give different examples.")
    near = bounded(perplexity, len(rows))
    layout = TSNE(2, perplexity=near, metric=metric, init="pca", learning_rate="auto", random_state=seed)
    return np.asarray(layout.fit_transform(rows), dtype=np.float32)


def bounded(perplexity: float, count: int) -> float:
    """The perplexity for so many points: a third of the others at most, as a neighbourhood is about three times as wide.

    >>> bounded(30, 13)
    4.0
    """
    if not perplexity > 0:
        raise DataError(f"perplexity is {perplexity}; expected a number above 0.")
    return min(float(perplexity), (count - 1) / 3)


def silhouette(vectors: ArrayLike, labels: Sequence[str], metric: Metric = "cosine") -> Silhouette:
    """The silhouette (Rousseeuw, J. Comput. Appl. Math. 20, 1987) of vectors by label, computed by scikit-learn.

        s = (b − a) / max(a, b)     a: mean distance to the others of its label, b: to those of the nearest other label

    A vector that is alone with its label has s = 0. Worked example, Euclidean, 0 and 1 against 4 and 5:
    0 has a = 1, b = 4.5; 1 has a = 1, b = 3.5; the mean is (3.5/4.5 + 2.5/3.5) / 2 = 0.746.

    Args:
        vectors: (N, d).
        labels: N names, of which 2 to N − 1 differ.
        metric: what the distance is; 1 − cosine for "cosine".

    Raises:
        DataError: labels that do not fit, numbers that are not finite, or zeros where a cosine is taken.
    """
    from sklearn.metrics import silhouette_samples

    rows = _rows(vectors, metric)
    names = list(dict.fromkeys(labels))
    if len(labels) != len(rows) or not 2 <= len(names) < len(rows):
        raise DataError(
            f"{len(rows)} vectors have {len(labels)} labels, {len(names)} of them different; expected one for each vector, "
            "two different ones at least, and not all different."
        )
    scores, own = silhouette_samples(rows, list(labels), metric=metric), np.array(labels)
    by_label = {name: float(scores[own == name].mean()) for name in names}
    return Silhouette(float(scores.mean()), by_label, len(rows), metric)


def scatter(
    states: States,
    seed: int,
    perplexity: float = 30.0,
    metric: Metric = "cosine",
    *,
    groups: Sequence[str] | None = None,
    by: str = "datasets",
) -> Scatter:
    """The t-SNE of states with their silhouette; errors as of `tsne`.

    Args:
        states: of all examples.
        seed, perplexity, metric: see tsne.
        groups: N labels to look at instead of the datasets, such as CommonIT's groups.
        by: what the labels are.
    """
    labels = states.labels if groups is None else tuple(groups)
    points = tsne(states.vectors, seed, perplexity, metric)
    near = bounded(perplexity, len(points))
    score = silhouette(states.vectors, labels, metric) if 1 < len(set(labels)) < len(points) else None
    return Scatter(points, labels, states.layer, states.over, near, seed, score, by)


def _rows(vectors: ArrayLike, metric: Metric) -> NDArray[np.float64]:
    rows = np.asarray(vectors, dtype=np.float64)
    if rows.ndim != 2:
        raise DataError(f"vectors have the shape {rows.shape}; expected (examples, numbers).")
    _finite(rows, "vectors")
    if metric == "cosine" and (none := int((rows == 0).all(axis=1).sum())):
        raise DataError(
            f'{none} of {len(rows)} vectors are zero and have no cosine. Leave them out, or use "euclidean".'
        )
    return rows


def _finite(rows: NDArray[np.floating], what: str) -> None:
    if bad := int((~np.isfinite(rows)).any(axis=1).sum()):
        raise DataError(
            f"{bad} of {len(rows)} {what} are not finite. Use a model whose weights are finite, or float32."
        )
