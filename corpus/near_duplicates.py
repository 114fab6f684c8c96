"""Finds texts that are nearly the same: in a training and a test set, or twice in one pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

NEAR = 0.8
"""Cosine similarity from which two texts count as near-duplicates.

The vectors are the TF-IDF weights of character 3- to 5-grams inside words (scikit-learn), which
notice another ending or another order of words, and weigh little what all texts share.
"""


def near(texts: Sequence[str], others: Sequence[str]) -> list[bool]:
    """Returns for each text whether one of the others is a near-duplicate of it.

    Args:
        texts: at least one.
        others: what they are compared with; none makes all False.
    """
    if not others:
        return [False] * len(texts)
    weights = gram_weights([*texts, *others])
    cosines = weights[: len(texts)] @ weights[len(texts) :].T
    return [bool(row.max() >= NEAR) for row in cosines]


def gram_weights(texts: Sequence[str]) -> Any:
    """Returns one row of TF-IDF weights per text; the product of two rows is their cosine.

    Returns:
        A sparse matrix (texts, grams) in rows (scipy CSR), float64. Rows of two calls cannot be
        compared, because the weights depend on all texts of a call.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True).fit_transform(
        texts
    )
