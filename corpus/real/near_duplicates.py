"""Finds texts that are nearly the same, so that no training set holds what a test set asks."""

from __future__ import annotations

from collections.abc import Sequence

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
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not others:
        return [False] * len(texts)
    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
    weights = vectors.fit_transform([*texts, *others])
    cosines = weights[: len(texts)] @ weights[len(texts) :].T
    return [bool(row.max() >= NEAR) for row in cosines]
