"""Lays out hidden states in two dimensions by t-SNE, and rates their clusters by silhouette.

A picture proves little: t-SNE keeps neighbours, and neither distances nor sizes. So the silhouette
is computed from the states themselves and never from the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluation.errors import DataError
from evaluation.hidden_states import Floats, Over, States, check_finite

Metric = Literal["cosine", "euclidean"]

FEWEST = 4
"""The fewest points for t-SNE: with fewer its perplexity would fall below 1, and there would be no
neighbourhoods to keep.
"""


class Silhouette(NamedTuple):
    """How much nearer examples are to their own dataset than to the nearest other one."""

    value: float
    """Mean over all examples, from -1 to 1."""
    by_label: dict[str, float]
    """Mean over the examples of each label, in order of first appearance."""
    n: int
    """Number of examples."""
    metric: Metric


@dataclass(frozen=True)
class Scatter:
    """The points of a t-SNE picture, with the settings that made them."""

    points: Floats
    """(N, 2) coordinates, without unit."""
    labels: tuple[str, ...]
    """The dataset, or the group, of each point."""
    layer: int
    """As in States."""
    over: Over
    """As in States."""
    perplexity: float
    """As used: at most a third of the number of other points."""
    seed: int
    """Of the principal components' solver."""
    silhouette: Silhouette | None
    """Computed from the states and not from the points; None for a single dataset."""
    by: str = "datasets"
    """What the labels are, as a plural noun."""

    @property
    def caption(self) -> str:
        """Describes the picture in two or three sentences."""
        tokens = "supervised tokens" if self.over == "supervised" else "all tokens"
        score = (
            ""
            if self.silhouette is None
            else f" Silhouette {self.silhouette.value:.2f} ({self.silhouette.metric})."
        )
        return (
            f"{len(self.labels)} examples of {len(set(self.labels))} {self.by}: "
            f"mean over {tokens} of the states at layer {self.layer}; "
            f"t-SNE, perplexity {self.perplexity:g}, seed {self.seed}.{score} "
            "Distances between clusters, and their sizes, mean little."
        )


def tsne(
    vectors: ArrayLike, seed: int, perplexity: float = 30.0, metric: Metric = "cosine"
) -> Floats:
    """Lays out vectors in two dimensions by scikit-learn's t-SNE.

    The method is van der Maaten and Hinton's (JMLR 9, 2008), started from the principal components.
    The same seed gives the same points on the same machine.

    Args:
        vectors: (N, d), N at least 4 and d at least 2.
        seed: of the principal components' solver; nothing else is random.
        perplexity: about how many neighbours each point keeps; see `bounded_perplexity`.
        metric: how the distance of two vectors is measured.

    Returns:
        (N, 2) float32 coordinates.

    Raises:
        DataError: fewer than 4 vectors, vectors that are all equal, numbers that are not finite,
            or a vector of zeros with metric "cosine".
    """
    from sklearn.manifold import TSNE

    rows = _rows(vectors, metric)
    if len(rows) < FEWEST or rows.shape[1] < 2:
        raise DataError(
            f"{len(rows)} vectors of {rows.shape[1]} numbers cannot be laid out; "
            f"expected {FEWEST} of 2 or more."
        )
    # scikit-learn divides by the spread of the first component, which is 0 for equal vectors.
    if (rows == rows[0]).all():
        raise DataError(
            f"all {len(rows)} vectors are equal: there is nothing to lay out. "
            "Give different examples."
        )
    near = bounded_perplexity(perplexity, len(rows))
    # A start from the principal components: a random one would give another picture for each seed.
    layout = TSNE(
        2, perplexity=near, metric=metric, init="pca", learning_rate="auto", random_state=seed
    )
    return np.asarray(layout.fit_transform(rows), dtype=np.float32)


def bounded_perplexity(perplexity: float, count: int) -> float:
    """Returns the perplexity for `count` points: at most a third of the number of other points.

    The neighbourhood that t-SNE looks at is about three times as large as the perplexity.

    >>> bounded_perplexity(30, 13)
    4.0
    """
    if not perplexity > 0:
        raise DataError(f"perplexity is {perplexity}; expected a number above 0.")
    return min(float(perplexity), (count - 1) / 3)


def silhouette(vectors: ArrayLike, labels: Sequence[str], metric: Metric = "cosine") -> Silhouette:
    """Computes the silhouette of labelled vectors (Rousseeuw, J. Comput. Appl. Math. 20, 1987).

        s = (b − a) / max(a, b)

    a is a vector's mean distance to the other vectors of its label, b that to the vectors of the
    nearest other label. A vector that is alone with its label has s = 0.

    Worked example, Euclidean, 0 and 1 against 4 and 5: 0 has a = 1, b = 4.5; 1 has a = 1, b = 3.5;
    the mean is (3.5/4.5 + 2.5/3.5) / 2 = 0.746.

    Args:
        vectors: (N, d).
        labels: N names, of which 2 to N − 1 are different.
        metric: how distances are measured; "cosine" is 1 − cosine.

    Raises:
        DataError: the labels do not fit, numbers are not finite, or a vector is zero with metric
            "cosine".
    """
    from sklearn.metrics import silhouette_samples

    rows = _rows(vectors, metric)
    names = list(dict.fromkeys(labels))
    if len(labels) != len(rows) or not 2 <= len(names) < len(rows):
        raise DataError(
            f"{len(rows)} vectors have {len(labels)} labels, {len(names)} of them different; "
            "expected one label for each vector, at least two different ones, "
            "and not all different."
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
    """Returns the t-SNE of hidden states together with their silhouette.

    Args:
        states: of all examples.
        seed, perplexity, metric: as `tsne` takes them.
        groups: N labels in the place of the datasets, such as CommonIT's groups.
        by: what the labels are, as a plural noun.

    Raises:
        DataError: as `tsne`.
    """
    labels = states.labels if groups is None else tuple(groups)
    points = tsne(states.vectors, seed, perplexity, metric)
    # As `tsne` used it, so that the caption is true.
    near = bounded_perplexity(perplexity, len(points))
    # With a single label, or a label for each point, there is no other cluster to compare with.
    score = (
        silhouette(states.vectors, labels, metric) if 1 < len(set(labels)) < len(points) else None
    )
    return Scatter(points, labels, states.layer, states.over, near, seed, score, by)


def _rows(vectors: ArrayLike, metric: Metric) -> NDArray[np.float64]:
    """Returns vectors as a matrix (N, d) in float64, once they are fit for the metric.

    Raises:
        DataError: another shape, numbers that are not finite, or a zero vector with "cosine".
    """
    rows = np.asarray(vectors, dtype=np.float64)
    if rows.ndim != 2:
        raise DataError(f"vectors have the shape {rows.shape}; expected (examples, numbers).")
    check_finite(rows, "vectors")
    if metric == "cosine" and (zeros := int((rows == 0).all(axis=1).sum())):
        raise DataError(
            f"{zeros} of {len(rows)} vectors are zero and have no cosine. "
            'Leave them out, or use "euclidean".'
        )
    return rows
