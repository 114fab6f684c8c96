"""The tokenizer of a stranger's folder reads this folder alone and runs nothing."""

import json

import pytest

from merging.errors import LoadError
from merging.live.model_config import read_config
from merging.live.tokenizer import read_tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture
def tokens(tmp_path):
    """tokens(files, **settings): the words that the tokenizer of such a folder knows, besides SPECIAL.

    The settings are those of tokenizer_config.json. The folder's own vocabulary has one word, mine.
    """
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}', "utf-8")
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, "mine"]), "utf-8")

    def known(files=None, **settings):
        settings = {"tokenizer_class": "BertTokenizer"} | settings
        for name, document in ({"tokenizer_config.json": settings} | (files or {})).items():
            (folder / name).write_text(json.dumps(document), "utf-8")
        read = read_tokenizer(folder, read_config(folder))
        return [word for word in read.get_vocab() if word not in SPECIAL]

    return known


@pytest.fixture
def secret(tmp_path):
    """A vocabulary outside the folder."""
    file = tmp_path / "secret.txt"
    file.write_text("\n".join([*SPECIAL, "root:x:0"]), "utf-8")
    return str(file)


def test_paths_in_the_settings_are_not_followed(tokens, secret):
    from transformers import AutoTokenizer

    assert tokens() == ["mine"]
    for key in ("vocab", "vocab_file", "tokenizer_file", "merges", "merges_file", "gguf_file"):
        assert tokens(**{key: secret}) == ["mine"]
    # The twin: transformers itself follows one of them.
    tokens(vocab=secret)
    theirs = AutoTokenizer.from_pretrained(f"{secret.removesuffix('secret.txt')}model")
    assert "root:x:0" in theirs.get_vocab()


@pytest.mark.parametrize(
    ("name", "document", "words"),
    [
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["m.X", None]}}, "'auto_map'"),
        ("tokenizer_config.json", {"init_inputs": ["/etc/passwd"]}, "holds init_inputs"),
        ("tokenizer_config.json", {"sp_model_kwargs": {"model_file": "/etc/x"}}, "names a file"),
        ("tokenizer_config.json", ["x"], "holds a JSON list, expected an object"),
        ("special_tokens_map.json", {"vocab": "/etc/passwd"}, "expected special tokens"),
        ("special_tokens_map.json", {"a": {"auto_map": "m.X"}}, "'auto_map'"),
    ],
)  # fmt: skip
def test_what_cannot_be_ignored_is_refused(tokens, name, document, words):
    with pytest.raises(LoadError) as caught:
        tokens({name: document})
    assert words in str(caught.value) and name in str(caught.value)


def test_a_class_that_is_unknown_is_not_looked_for(tokens):
    """The message or the tokenizer is our own; transformers 5.23 takes its general class."""
    with pytest.raises(LoadError, match=r"has no tokenizer\.json"):
        tokens(tokenizer_class="MyOwnTokenizer")


def test_a_folder_without_or_with_a_broken_tokenizer(tokens, tmp_path):
    folder = tmp_path / "model"
    tokens()
    (folder / "tokenizer.json").write_text("{", "utf-8")
    with pytest.raises(LoadError, match="the tokenizer cannot be read"):
        read_tokenizer(folder, read_config(folder))
    for file in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (folder / file).unlink()
    assert read_tokenizer(folder, read_config(folder)) is None
