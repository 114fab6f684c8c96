"""Texts to vectors: rows of length 1, near when words are shared, and advice where something is missing."""

import sys

import numpy as np
import pytest

from corpus.errors import CorpusError
from corpus.grouping import by_anchors
from corpus.text_encoders import sentence_transformers, tfidf

TEXTS = [
    "what is the sum of 7 and 12",
    "the sum of 3 and 4 is",
    "translate the word house into French",
    "translate into French the word tree",
    "is this review good or bad",
    "a bad review, is it good",
]


def test_rows_have_length_one_and_like_texts_are_near():
    rows = tfidf(TEXTS, 4, seed=0)
    assert rows.dtype == np.float32
    assert rows.shape == (6, 4)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-6)
    near = rows @ rows.T - 2 * np.eye(6)
    assert near.argmax(axis=1).tolist() == [1, 0, 3, 2, 5, 4]


def test_the_same_seed_gives_the_same_rows():
    texts = [f"{a} {b} {a * b} times" for a in range(20) for b in range(20)]
    assert (tfidf(texts, 8, seed=1) == tfidf(texts, 8, seed=1)).all()


def test_cosines_by_hand():
    """No projection below 64 words: idf = ln((1 + 3) / (1 + df)) + 1, counts as 1 + ln c, rows of length 1."""
    rows = tfidf(["a b", "a a c", "d"])
    idf_a, idf_b = np.log(4 / 3) + 1, np.log(4 / 2) + 1
    first, second = np.array([idf_a, idf_b, 0]), np.array([idf_a * (1 + np.log(2)), 0, idf_b])
    expected = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    assert rows.shape == (3, 4)
    assert (rows @ rows.T)[0].tolist() == pytest.approx([1, expected, 0])


def test_all_directions_keep_all_cosines():
    whole, projected = tfidf(TEXTS, 64), tfidf(TEXTS, 6)
    assert projected.shape == (6, 6)
    assert projected @ projected.T == pytest.approx(whole @ whole.T, abs=1e-6)


def test_a_text_of_which_nothing_is_known_is_a_row_of_zeros():
    assert (tfidf(["a b", "…", "b c"])[1] == 0).all()
    lost = tfidf(["a b"] * 50 + ["a c"] * 50 + ["x"], 2)
    assert (lost[100] == 0).all()
    assert np.linalg.norm(lost[:100], axis=1) == pytest.approx(1, abs=1e-6)


def test_digits_are_words():
    rows = tfidf(["7 7 7", "8 8"])
    assert rows[0] @ rows[1] == 0


def test_examples_and_anchors_in_one_call():
    anchors = ["sum of 1 and 2", "French word", "good review"]
    rows = tfidf(TEXTS + anchors, 6)
    found = by_anchors(rows[:6], rows[6:], ["maths", "French", "reviews"])
    assert [found.labels[group] for group in found.of] == ["maths"] * 2 + ["French"] * 2 + [
        "reviews"
    ] * 2


@pytest.mark.parametrize(
    ("texts", "dimensions", "words"),
    [
        (["…", "!"], 2, "none of 2 texts holds a word"),
        ([], 2, "none of 0 texts holds a word"),
        (["a b"], 0, "dimensions is 0; expected 1 or more"),
    ],
)
def test_refused(texts, dimensions, words):
    with pytest.raises(CorpusError, match=words):
        tfidf(texts, dimensions)


def test_without_sentence_transformers_the_way_out_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(
        CorpusError,
        match="is not installed. Install it .pip install sentence-transformers., or encode",
    ):
        sentence_transformers(["a"], "nowhere")


def test_sentence_transformers(tmp_path):
    package = pytest.importorskip("sentence_transformers", reason="the extra is not installed")
    from sentence_transformers.sentence_transformer import modules
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = {"[UNK]": 0, "[PAD]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}
    words |= {
        word: 5 + number
        for number, word in enumerate(sorted({w for text in TEXTS for w in text.split()}))
    }
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]")
    tokenizer.save_pretrained(tmp_path / "bert")
    sizes = {
        "hidden_size": 20,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 13,
    }
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(tmp_path / "bert")
    layers = [modules.Transformer(str(tmp_path / "bert")), modules.Pooling(20)]
    package.SentenceTransformer(modules=layers, device="cpu").save(str(tmp_path / "model"))
    rows = sentence_transformers(TEXTS, str(tmp_path / "model"))
    assert rows.dtype == np.float32
    assert rows.shape == (6, 20)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-5)
    with pytest.raises(
        CorpusError, match="no sentence-transformers model can be loaded from there"
    ):
        sentence_transformers(TEXTS, str(tmp_path / "nowhere"))
