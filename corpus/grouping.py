"""Puts each example into one group, by its label, its response length or its embedding: CommonIT.

CommonIT (arXiv 2410.03077) groups by one of these three metrics and fine-tunes on batches of one
group. By embedding it gives each example the task of its nearest anchors (the MMLU development set,
whose 57 tasks are the groups). `by_kmeans`, which needs no anchors, is our extension. The defaults
for the number of length bins and of voting anchors are ours too, because the paper does not give
its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from corpus.errors import CorpusError

CHUNK = 1024
"""How many examples are compared with all anchors at once."""
NO_EXAMPLES = "there are no examples to group. Give at least one."
DIGITS = 12
"""Decimals of a cosine that count: float64 products of equal rows may differ in the last bits."""


@dataclass(frozen=True)
class Groups:
    """Which group each example belongs to; every group has at least one example.

    Attributes:
        labels: per group, its name.
        of: per example, the index of its group in `labels`.
        metric: how the groups were made, in words.
        empty: names that no example belongs to: anchors' labels, bins or clusters.
        ties: how many examples needed a tie to be broken; see `by_anchors`.

    Raises:
        CorpusError: no examples, an unknown group, a label that occurs twice, or an empty group.
    """

    labels: tuple[str, ...]
    of: tuple[int, ...]
    metric: str
    empty: tuple[str, ...] = ()
    ties: int = 0

    def __post_init__(self) -> None:
        if not self.of:
            raise CorpusError(NO_EXAMPLES)
        if len(set(self.labels)) < len(self.labels):
            twice = next(label for label in self.labels if self.labels.count(label) > 1)
            raise CorpusError(
                f"two groups are called {twice!r}. Give each group a name of its own."
            )
        if not 0 <= min(self.of) <= max(self.of) < len(self.labels):
            raise CorpusError(
                f"examples name the groups {min(self.of)} to {max(self.of)}, and there are "
                f"{len(self.labels)} labels. Number the groups from 0 to {len(self.labels) - 1}."
            )
        if without := [
            label for label, size in zip(self.labels, self.sizes, strict=True) if not size
        ]:
            raise CorpusError(
                f"{len(without)} of {len(self.labels)} groups have no examples "
                f"({', '.join(map(repr, without[:5]))}). Leave them out of the labels, or name "
                "them in `empty`."
            )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Per group, how many examples it has."""
        return tuple(np.bincount(self.of, minlength=len(self.labels)).tolist())


def by_label(labels: Sequence[str]) -> Groups:
    """Makes one group per label that occurs, in alphabetical order.

    >>> by_label(["sums", "chat", "sums"]).of
    (1, 0, 1)

    Raises:
        CorpusError: there are no examples, or some have no label; says how many, and the first.
    """
    unlabelled = [number for number, label in enumerate(labels) if not label.strip()]
    if unlabelled:
        raise CorpusError(
            f"{len(unlabelled)} of {len(labels)} examples have no label, the first is example "
            f"{unlabelled[0] + 1}. Label each example, name the field that holds the label, or "
            "group by length or embedding."
        )
    names = sorted(set(labels))
    index = {name: number for number, name in enumerate(names)}
    return Groups(tuple(names), tuple(index[label] for label in labels), "task label")


def by_length(
    lengths: Sequence[int], bins: int = 10, *, edges: Sequence[int] | None = None
) -> Groups:
    """Makes one group per range of response lengths, shortest first.

    Args:
        lengths: per example, the tokens of its response, that is its supervised tokens.
        bins: number of quantile bins. Bin i ends with the smallest length that at least i/bins of
            the examples do not exceed. Equal lengths stay together, so there may be fewer bins.
        edges: instead of bins, the greatest length of each group but the last, in rising order.

    >>> by_length([3, 9, 4, 30], bins=2).labels
    ('3 to 4 tokens', '9 to 30 tokens')
    >>> by_length([3, 9, 4, 30], edges=[5, 20]).labels
    ('up to 5 tokens', '6 to 20 tokens', '21 tokens and more')

    Raises:
        CorpusError: no examples, a length below 1, fewer than 2 bins, or edges that do not rise.
    """
    values = np.asarray(lengths, dtype=np.int64)
    if not len(values):
        raise CorpusError(NO_EXAMPLES)
    if values.min() < 1:
        first = int(np.argmin(values))
        raise CorpusError(
            f"example {first + 1} has a response of {values[first]} tokens; expected 1 or more."
        )
    if edges is not None:
        return _between(values, list(edges))
    if bins < 2:
        raise CorpusError(f"bins is {bins}; expected 2 or more, or groups by label.")
    # inverted_cdf gives a length that occurs and interpolates nothing, so every end is a whole
    # number.
    ends = np.unique(np.quantile(values, np.arange(1, bins) / bins, method="inverted_cdf"))
    # A length equal to an end belongs to the bin below it, so that no bin is empty.
    group_of = np.searchsorted(ends, values)
    members = [values[group_of == group] for group in range(group_of.max() + 1)]
    ranges = [(part.min(), part.max()) for part in members]
    names = tuple(f"{low} to {high} tokens" if low < high else _tokens(low) for low, high in ranges)
    fewer = f", {len(names)} with lengths of their own" if len(names) < bins else ""
    return Groups(names, tuple(group_of.tolist()), f"response length, {bins} quantile bins{fewer}")


def _between(values: NDArray[np.int64], edges: list[int]) -> Groups:
    """Groups lengths by the edges that were given."""
    if not edges or edges[0] < 1 or any(low >= high for low, high in pairwise(edges)):
        raise CorpusError(
            f"edges are {edges}; expected rising lengths from 1 on, such as 16, 64, 256."
        )
    starts = [edge + 1 for edge in edges[:-1]]
    middle = [
        f"{low} to {high} tokens" if low < high else _tokens(low)
        for low, high in zip(starts, edges[1:], strict=True)
    ]
    names = [f"up to {_tokens(edges[0])}", *middle, f"{edges[-1] + 1} tokens and more"]
    return _drop_empty(np.searchsorted(edges, values), names, "response length, given edges")


def _tokens(count: int) -> str:
    return f"{count} token{'s' if count != 1 else ''}"


def by_anchors(
    vectors: ArrayLike, anchors: ArrayLike, anchor_labels: Sequence[str], k: int = 1
) -> Groups:
    """Gives each example the label that most of its k nearest anchors have: CommonIT by embedding.

    The nearest anchor is the one with the highest cosine. Of equal cosines, the earlier anchor
    counts as nearer. Of labels with equally many votes, that of the nearest anchor wins.
    `Groups.ties` counts the examples that either rule decided, and labels that no example got are
    in `Groups.empty`. The cosines take CHUNK × M × 8 bytes at a time.

    Worked example: with anchors at 0°, 30° and 90°, labelled a, b and b, an example at 10° is in
    group a with k = 1 and in group b with k = 3.

    Args:
        vectors: (N, d), one row per example.
        anchors: (M, d), from the same encoder; for TF-IDF, from the same call.
        anchor_labels: M names.
        k: how many neighbours vote, 1 to M.

    Raises:
        CorpusError: shapes or counts that do not fit, numbers that are not finite, or rows of
            zeros, which have no cosine.
    """
    rows, points = _unit(vectors, "vectors"), _unit(anchors, "anchors")
    if rows.shape[1] != points.shape[1]:
        raise CorpusError(
            f"vectors have {rows.shape[1]} columns and anchors {points.shape[1]}. "
            "Encode both with the same encoder."
        )
    if len(anchor_labels) != len(points):
        raise CorpusError(
            f"there are {len(points)} anchors and {len(anchor_labels)} labels. "
            "Give one label per anchor."
        )
    if not 1 <= k <= len(points):
        raise CorpusError(f"k is {k}; expected 1 to {len(points)}, the number of anchors.")
    names = sorted(set(anchor_labels))
    index = {name: number for number, name in enumerate(names)}
    label_of = np.array([index[label] for label in anchor_labels])
    votes = [
        _vote(rows[at : at + CHUNK] @ points.T, label_of, k) for at in range(0, len(rows), CHUNK)
    ]
    group_of, tied = (np.concatenate(parts) for parts in zip(*votes, strict=True))
    metric = f"{k} nearest of {len(points)} anchors, cosine"
    return _drop_empty(group_of, names, metric, ties=int(tied.sum()))


def _vote(
    cosines: NDArray[np.float64], label_of: NDArray[np.int64], k: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Returns per row of (examples, anchors) the label that wins, and whether a tie was broken."""
    cosines = np.round(cosines, DIGITS)
    # Stable, so that of equal cosines the earlier anchor comes first.
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    voted = label_of[nearest]
    votes = np.zeros((len(cosines), label_of.max() + 1), dtype=np.int64)
    # Not votes[…] += 1, which counts a label once however many of the neighbours have it.
    np.add.at(votes, (np.arange(len(cosines))[:, None], voted), 1)
    most = votes.max(axis=1, keepdims=True)
    leading = np.take_along_axis(votes, voted, axis=1) == most
    winner = np.take_along_axis(voted, leading.argmax(axis=1)[:, None], axis=1)[:, 0]
    # The last of the k voters is tied if anchors with several labels are equally far away and some
    # of them do not vote.
    level = cosines == np.take_along_axis(cosines, nearest[:, -1:], axis=1)
    left_out = level.sum(axis=1) > np.take_along_axis(level, nearest, axis=1).sum(axis=1)
    several = np.where(level, label_of, label_of.max()).min(axis=1) < np.where(
        level, label_of, 0
    ).max(axis=1)
    return winner, ((votes == most).sum(axis=1) > 1) | (left_out & several)


def by_kmeans(vectors: ArrayLike, count: int, seed: int) -> Groups:
    """Makes clusters by scikit-learn's mini-batch k-means over rows scaled to length 1.

    Clusters are numbered by their first example. The paper does not do this; it is for data
    without anchors. A row of zeros stays a row of zeros.

    Args:
        vectors: (N, d), one row per example.
        count: clusters to look for; those that end without an example are in `Groups.empty`.
        seed: of the first centres and of the mini-batches.

    Raises:
        CorpusError: fewer than one cluster, or fewer different vectors than clusters.
    """
    from sklearn.cluster import MiniBatchKMeans

    rows = _unit(vectors, "vectors", zeros=True)
    different = len(np.unique(rows, axis=0))
    if not 1 <= count <= different:
        raise CorpusError(
            f"{count} clusters of {len(rows)} examples, of which {different} differ; "
            f"expected 1 to {different} clusters."
        )
    clusters = MiniBatchKMeans(n_clusters=count, n_init=3, random_state=seed).fit_predict(rows)
    _, first = np.unique(clusters, return_index=True)
    # scikit-learn numbers clusters arbitrarily; the order of first examples is the same every time.
    order = clusters[np.sort(first)]
    rank = np.zeros(count, dtype=np.int64)
    rank[order] = np.arange(len(order))
    names = [f"cluster {number + 1}" for number in range(count)]
    return _drop_empty(rank[clusters], names, f"k-means, {count} clusters, seed {seed}")


def _drop_empty(group_of: NDArray[Any], names: Sequence[str], metric: str, ties: int = 0) -> Groups:
    """Makes groups of the names that have examples, and lists the other names as empty."""
    used, dense = np.unique(group_of, return_inverse=True)
    empty = tuple(name for number, name in enumerate(names) if number not in used)
    return Groups(
        tuple(names[number] for number in used), tuple(dense.tolist()), metric, empty, ties
    )


def _unit(vectors: ArrayLike, what: str, *, zeros: bool = False) -> NDArray[np.float64]:
    """Returns rows scaled to length 1, in float64; `zeros` allows rows of zeros and keeps them."""
    rows = np.asarray(vectors, dtype=np.float64)
    if rows.ndim != 2 or not rows.size:
        raise CorpusError(
            f"{what} have the shape {rows.shape}; expected one row of numbers per example, "
            "at least one."
        )
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise CorpusError(
            f"{len(bad)} of {len(rows)} {what} hold numbers that are not finite; "
            f"the first is row {bad[0]}."
        )
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    none = np.flatnonzero(lengths[:, 0] == 0)
    if len(none) and not zeros:
        raise CorpusError(
            f"{len(none)} of {len(rows)} {what} are zero and have no cosine; the first is row "
            f"{none[0]}. A text without a word that its encoder knows gives such a row: leave it "
            "out, or use another encoder."
        )
    return rows / np.where(lengths == 0, 1, lengths)
