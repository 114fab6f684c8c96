"""Scores by shared words: Okapi BM25 of each pool text for each validation text."""

from __future__ import annotations

import numpy as np

from corpus.text_encoders import WORD
from influence.errors import InfluenceError
from influence.selection.example_set import ExampleSet
from influence.selection.score_matrix import ScoreMatrix, score_matrix

K1 = 1.5
B = 0.75
ROWS = 4096
"""How many pool texts are scored at once, which bounds the memory for a sparse product."""


def bm25_scores(pool: ExampleSet, targets: ExampleSet) -> ScoreMatrix:
    """Scores each text of the pool, as a document, for each validation text, as a query.

    The score of a document d for a query is a sum over the words w of the query (Robertson and
    Zaragoza 2009, equation 3.15):

        idf(w) · tf(w, d) · (k1 + 1) / (tf(w, d) + k1 · (1 − b + b · |d| / mean |d|))
        idf(w) = ln(1 + (N − n(w) + ½) / (n(w) + ½))

    tf(w, d) counts w in d, |d| the words of d, and n(w) the documents of N that hold w.

    A word counts as often as it is in the query. The 1 in the logarithm (Lucene's) keeps the idf of
    frequent words above 0. Words are lower-cased. A text is prompt and completion.

    Scores for a query with more words are higher, so that the maximum over queries favours long
    ones; the turns of round-robin do not.

    Returns:
        (N, V); 0 where a document shares no word with a query.

    Raises:
        InfluenceError: a validation text shares no word with any text of the pool.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer(token_pattern=WORD, dtype=np.float64)
    try:
        weights = counter.fit_transform(pool.texts)
    except ValueError:
        # scikit-learn's own error speaks of an empty vocabulary.
        raise InfluenceError(
            f"BM25: none of {len(pool)} texts of the pool holds a word. Use another method."
        ) from None
    documents = len(pool)
    lengths = np.asarray(weights.sum(axis=1)).ravel()
    holding = np.bincount(weights.indices, minlength=weights.shape[1])
    idf = np.log1p((documents - holding + 0.5) / (holding + 0.5))
    # Only the words that a document has are stored, and only these have a weight.
    norm = K1 * (1 - B + B * lengths / lengths.mean())
    counts = weights.data
    row_of = np.repeat(np.arange(documents), np.diff(weights.indptr))
    weights.data = idf[weights.indices] * counts * (K1 + 1) / (counts + norm[row_of])
    queries = counter.transform(targets.texts).T.tocsr()
    scores = np.empty((documents, len(targets)), np.float32)
    for at in range(0, documents, ROWS):
        scores[at : at + ROWS] = (weights[at : at + ROWS] @ queries).toarray()
    return score_matrix("BM25", scores, pool, targets.names, zero_rows=True)
