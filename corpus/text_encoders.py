"""Texts to vectors, for groups by embedding. The trained model's own states are evaluation/hidden_states.py's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from corpus.errors import CorpusError

WORD = r"(?u)\b\w+\b"
"""What a word is; scikit-learn's own pattern leaves out those of one letter, and so every digit."""
NOTHING = 1e-6
"""A row, of length 1 before the projection, of which no more than this is left has nothing in the kept directions."""


def tfidf(texts: Sequence[str], dimensions: int = 64, seed: int = 0) -> NDArray[np.float32]:
    """TF-IDF of words, projected to its first singular vectors (latent semantic analysis); needs no download.

    Words are lower-cased, a word that occurs c times counts 1 + ln c, and rows have length 1, so that a product of two is
    their cosine. A text without any word, or without one that the kept directions hold, is a row of zeros.

    Args:
        texts: N of them. Rows are comparable within one call only: encode examples and anchors together.
        dimensions: columns of the result, at most; fewer where there are fewer words or texts.
        seed: of the randomised singular value decomposition.

    Returns:
        (N, d) float32.

    Raises:
        CorpusError: no text holds a word, or dimensions below 1.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    if dimensions < 1:
        raise CorpusError(f"dimensions is {dimensions}; expected 1 or more.")
    weigh = TfidfVectorizer(token_pattern=WORD, sublinear_tf=True)
    split = weigh.build_analyzer()
    if not any(split(text) for text in texts):
        raise CorpusError(
            f"none of {len(texts)} texts holds a word. Give texts with letters or digits."
        )
    sparse = weigh.fit_transform(texts)
    if sparse.shape[1] <= dimensions:
        rows = sparse.toarray()
    else:
        rows = TruncatedSVD(min(dimensions, len(texts)), random_state=seed).fit_transform(sparse)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(lengths > NOTHING, rows / np.maximum(lengths, NOTHING), 0).astype(np.float32)


def sentence_transformers(texts: Sequence[str], model: str) -> NDArray[np.float32]:
    """Vectors of a sentence-transformers model, rows of length 1, on the CPU or whatever device that library picks.

    Args:
        texts: N of them.
        model: a folder, or a name on the hub, which is downloaded. Models that bring code of their own are refused.

    Returns:
        (N, d) float32.

    Raises:
        CorpusError: the package is not installed, or the model cannot be loaded.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise CorpusError(
            "sentence-transformers is not installed. Install it (pip install sentence-transformers), or encode with "
            "TF-IDF or with the model's own states, which need nothing more."
        ) from None
    try:
        encoder = SentenceTransformer(model, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CorpusError(
            f"{model}: no sentence-transformers model can be loaded from there ({str(error).splitlines()[0]}). Give "
            "a folder that holds one, or a name on the hub while there is a network."
        ) from None
    found = encoder.encode(
        list(texts), normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True
    )
    return np.asarray(found, dtype=np.float32)
