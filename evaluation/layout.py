"""t-SNE and silhouette of vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from evaluation.errors import DataError
from evaluation.hidden_states import FEWEST, Floats, Metric, Over, States, _rows


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
        near = (
            ""
            if self.silhouette is None
            else f" Silhouette {self.silhouette.value:.2f} ({self.silhouette.metric})."
        )
        return (
            f"{len(self.labels)} examples of {len(set(self.labels))} {self.by}: mean over {tokens} of the states at layer "
            f"{self.layer}; t-SNE, perplexity {self.perplexity:g}, seed {self.seed}.{near} "
            "Distances between clusters, and their sizes, mean little."
        )


def tsne(
    vectors: ArrayLike, seed: int, perplexity: float = 30.0, metric: Metric = "cosine"
) -> Floats:
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
        raise DataError(
            f"all {len(rows)} vectors are equal: there is nothing to lay out. Give different examples."
        )
    near = bounded(perplexity, len(rows))
    layout = TSNE(
        2, perplexity=near, metric=metric, init="pca", learning_rate="auto", random_state=seed
    )
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
    score = (
        silhouette(states.vectors, labels, metric) if 1 < len(set(labels)) < len(points) else None
    )
    return Scatter(points, labels, states.layer, states.over, near, seed, score, by)
