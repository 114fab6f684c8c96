"""Encodes texts as vectors, for groups by embedding.

The hidden states of the model itself are another encoder; see evaluation/hidden_states.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from corpus.errors import CorpusError

WORD = r"(?u)\b\w+\b"
"""What a word is. scikit-learn's own pattern ignores words of one character, and so every digit."""
NOTHING = 1e-6
"""A row has length 1 before the projection. If at most this is left, its text counts as unknown."""


def tfidf(texts: Sequence[str], dimensions: int = 64, seed: int = 0) -> NDArray[np.float32]:
    """Encodes texts by TF-IDF, projected to its first singular vectors; needs no download.

    This is latent semantic analysis. Words are lower-cased, and a word that occurs c times counts
    1 + ln c. Rows have length 1, so the product of two rows is their cosine. A text without any
    word that the kept directions represent becomes a row of zeros.

    Args:
        texts: N texts. Rows can only be compared within one call, so encode examples and anchors
            together.
        dimensions: the greatest number of columns; there are fewer with fewer words or texts.
        seed: seeds the randomised singular value decomposition.

    Returns:
        (N, d) float32.

    Raises:
        CorpusError: no text holds a word, or dimensions is below 1.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    if dimensions < 1:
        raise CorpusError(f"dimensions is {dimensions}; expected 1 or more.")
    weigh = TfidfVectorizer(token_pattern=WORD, sublinear_tf=True)
    split = weigh.build_analyzer()
    # scikit-learn's own error speaks of an empty vocabulary, which does not help users.
    if not any(split(text) for text in texts):
        raise CorpusError(
            f"none of {len(texts)} texts holds a word. Give texts with letters or digits."
        )
    sparse = weigh.fit_transform(texts)
    # With no more words than dimensions there is nothing to project.
    if sparse.shape[1] <= dimensions:
        rows = sparse.toarray()
    else:
        # There are no more singular vectors than texts.
        rows = TruncatedSVD(min(dimensions, len(texts)), random_state=seed).fit_transform(sparse)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(lengths > NOTHING, rows / np.maximum(lengths, NOTHING), 0).astype(np.float32)


def sentence_transformers(texts: Sequence[str], model: str) -> NDArray[np.float32]:
    """Encodes texts by a sentence-transformers model, on the device that the library picks.

    Args:
        texts: N texts.
        model: a folder, checked by training.plan.encoder_folder, or a name on the hub, which is
            downloaded. Models that need code of their own are refused.

    Returns:
        (N, d) float32; rows have length 1.

    Raises:
        CorpusError: the package is not installed, or the model cannot be loaded.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise CorpusError(
            "sentence-transformers is not installed. Install it (pip install "
            "sentence-transformers), or encode with TF-IDF or with the model's own states, which "
            "need nothing more."
        ) from None
    try:
        # A folder is read as it is; a name is looked up on the hub, unless HF_HUB_OFFLINE is set.
        folder = Path(model).expanduser()
        encoder = SentenceTransformer(
            str(folder) if folder.is_dir() else model,
            trust_remote_code=False,
            local_files_only=folder.is_dir(),
            model_kwargs={"use_safetensors": True},
        )
    except (OSError, ValueError) as error:
        raise CorpusError(
            f"{model}: no sentence-transformers model can be loaded from there "
            f"({str(error).splitlines()[0]}). Give a folder that holds one, or a name on the hub "
            "while there is a network."
        ) from None
    vectors = encoder.encode(
        list(texts), normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True
    )
    return np.asarray(vectors, dtype=np.float32)
