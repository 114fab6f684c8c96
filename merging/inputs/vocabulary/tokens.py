"""Vocabularies: reads and compares them, and adds tokens to the base's tokenizer files."""

import filecmp
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from merging.dtypes import QUANTISED
from merging.errors import CheckpointError
from merging.inputs.checkpoint import Checkpoint
from merging.inputs.strict_json import parse_json, read_json
from merging.inputs.weight_files import folder_of
from merging.tensor_names import place

TOKENIZER = "tokenizer.json"
MAX_BYTES = 256_000_000
"""The largest tokenizer.json that is read."""
# Parts of the names of embeddings that have a row per position or segment, not per token.
_NO_ROWS = ("wpe", "position", "token_type")
_DECODER = "added_tokens_decoder"
_FLAGS = ("lstrip", "normalized", "rstrip", "single_word", "special")


class Tokens(NamedTuple):
    """The vocabulary of a tokenizer."""

    ids: dict[str, int]
    """Token -> id, added tokens included."""
    added: dict[str, dict[str, Any]]
    """Token -> its entry in added_tokens of tokenizer.json."""
    size: int
    """Number of tokens without the added ones."""
    merges: tuple[str, ...]
    """The pairs that BPE joins, in order; empty for other kinds of tokenizer.

    Two tokenizers with the same vocabulary and other merges split the same text differently.
    """

    @property
    def next_id(self) -> int | None:
        """The id that the tokenizers library gives to the next added token; None if it is taken.

        When the library reads a file, it numbers added tokens itself, whatever ids the file has:
        it continues after the greatest id of an added token, or after the vocabulary if no added
        token is beyond it (tokenizers 0.22).
        """
        last = max((entry["id"] for entry in self.added.values()), default=-1)
        number = max(last + 1, self.size)
        return number if number > max(self.ids.values(), default=-1) else None


class Difference(NamedTuple):
    """The differences between the vocabulary of a checkpoint and that of its base.

    Attributes:
        rows: numbers of rows of the embeddings: the base's and the checkpoint's; 0 if none.
        tables: names of the tensors with these rows: in the base, and in the checkpoint.
        moved: tokens that both have, with different ids.
        added: tokens that the base lacks, in the order of their ids.
        lost: tokens that only the base has.
        tokens: the base's tokenizer and the checkpoint's; both empty if one is missing or nothing
            differs.
        missing: the folder without a tokenizer.json, or 'both'; empty if both have one.
    """

    rows: tuple[int, int]
    tables: tuple[tuple[str, ...], tuple[str, ...]]
    moved: tuple[str, ...]
    added: tuple[str, ...]
    lost: tuple[str, ...]
    tokens: tuple[Tokens, Tokens]
    missing: str

    @property
    def matters(self) -> bool:
        """Whether a plain merge would fail or be wrong.

        It is if shapes do not fit, a row belongs to different tokens, or tokens would be lost.
        """
        return (self.rows[0] != self.rows[1] and all(self.rows)) or bool(self.moved or self.added)


NO_TOKENS = Tokens({}, {}, 0, ())


def read_tokens(folder: Path) -> Tokens | None:
    """Reads the vocabulary of a model folder; None if it has no tokenizer.json.

    Raises:
        CheckpointError: if the file is not a tokenizer.
    """
    file = folder / TOKENIZER
    if not file.is_file():
        return None
    document = read_json(file, MAX_BYTES, finite=False)
    try:
        vocabulary = document["model"]["vocab"]
        # Unigram stores pairs of token and score; the id is the position.
        if isinstance(vocabulary, list):
            vocabulary = {entry[0]: number for number, entry in enumerate(vocabulary)}
        added = {entry["content"]: dict(entry) for entry in document.get("added_tokens", [])}
        ids = {**vocabulary, **{token: entry["id"] for token, entry in added.items()}}
        # Older versions of the library write a pair as "a b", newer ones as ["a", "b"].
        pairs = document["model"].get("merges") or []
        merges = tuple(pair if isinstance(pair, str) else " ".join(pair) for pair in pairs)
        if not all(
            # Ids index rows in NumPy, where a negative one would count from the end.
            type(number) is int and number >= 0 and isinstance(token, str)
            for token, number in ids.items()
        ):
            raise TypeError
    except (KeyError, IndexError, TypeError, AttributeError, ValueError):
        raise CheckpointError(
            f"{file} is not a tokenizer of the tokenizers library. Copy it again from the source."
        ) from None
    return Tokens(ids, added, len(vocabulary), merges)


def token_tables(weights: Checkpoint, like: Sequence[str] = ()) -> tuple[int, tuple[str, ...]]:
    """Returns the number of rows of the vocabulary, and the tensors with one row for each token.

    These tensors are embeddings and heads. The number of rows is the first of these that exists:
    that of a tensor named in `like`; the configuration's vocab_size, if a matrix has it; that of
    the largest embedding or head. Quantised tensors do not count.

    Args:
        weights: the model.
        like: names of such tensors in a related model.
    """
    shapes = {
        name: weights.info(name).shape
        for name in weights
        if place(name).layer is None
        and not folder_of(name, weights.folders)
        and place(name).part not in ("norms", "attention", "mlp")
        and not any(word in name.lower() for word in _NO_ROWS)
        and weights.info(name).dtype.is_floating_point
        and weights.info(name).dtype not in QUANTISED
        and weights.info(name).shape
    }
    # Models of several modalities have vocab_size in a nested configuration.
    configs = [
        weights.config,
        *(part for part in weights.config.values() if isinstance(part, dict)),
    ]
    named = [config["vocab_size"] for config in configs if "vocab_size" in config]
    lengths = [
        shape[0] for name, shape in shapes.items() if len(shape) > 1 and place(name).part != "other"
    ]
    matrices = {shape[0] for shape in shapes.values() if len(shape) > 1}
    preferred = [shapes[name][0] for name in like if name in shapes] + [
        number for number in named if number in matrices
    ]
    rows = preferred[0] if preferred else max(lengths, default=0)
    return rows, tuple(name for name, shape in shapes.items() if rows and shape[0] == rows)


def difference(base: Checkpoint, tuned: Checkpoint) -> Difference:
    """Compares two vocabularies; reads headers and tokenizer.json, no weights.

    Raises:
        CheckpointError: if a tokenizer.json is not a tokenizer.
    """
    rows, tables = token_tables(base)
    their_rows, their_tables = token_tables(tuned, tables)
    shapes = (rows, their_rows), (tables, their_tables)
    files = base.path / TOKENIZER, tuned.path / TOKENIZER
    if (
        rows == their_rows
        and all(file.is_file() for file in files)
        and filecmp.cmp(*files, shallow=False)
    ):
        # Reading a vocabulary of 150,000 tokens takes half a second, and most checkpoints have
        # their base's tokenizer, byte for byte.
        return Difference(*shapes, (), (), (), (NO_TOKENS, NO_TOKENS), "")
    ours, theirs = read_tokens(base.path), read_tokens(tuned.path)
    if ours is None or theirs is None:
        both = ours is None and theirs is None
        missing = "both" if both else str(base.path if ours is None else tuned.path)
        return Difference(*shapes, (), (), (), (NO_TOKENS, NO_TOKENS), missing)
    base_ids, ids = ours.ids, theirs.ids
    return Difference(
        *shapes,
        tuple(token for token in base_ids if token in ids and base_ids[token] != ids[token]),
        tuple(sorted((token for token in ids if token not in base_ids), key=ids.__getitem__)),
        tuple(token for token in base_ids if token not in ids),
        (ours, theirs),
        "",
    )


def with_added_tokens(
    name: str, content: bytes, entries: Sequence[Mapping[str, Any]], rows: tuple[int, int]
) -> bytes:
    """Returns the content of one of the base's files after tokens are added.

    Only the configuration and the tokenizer's files change.

    Args:
        name: the file's name, such as tokenizer.json.
        content: the base's content of this file.
        entries: the new entries of added_tokens, with their new ids.
        rows: numbers of rows of the embeddings, before and after.
    """
    if name not in ("config.json", TOKENIZER, "tokenizer_config.json", "added_tokens.json"):
        return content
    document = parse_json(content, name, finite=False)
    if name == "config.json":
        for config in (document, *(part for part in document.values() if isinstance(part, dict))):
            # A part for images or sound may have a vocabulary of its own, which does not grow.
            if config.get("vocab_size") == rows[0]:
                config["vocab_size"] = rows[1]
    elif name == TOKENIZER:
        document["added_tokens"] = [*document.get("added_tokens", []), *map(dict, entries)]
    elif name == "added_tokens.json":
        document |= {entry["content"]: entry["id"] for entry in entries}
    elif _DECODER in document:
        keys = ("content", *_FLAGS)
        document[_DECODER] |= {
            str(entry["id"]): {key: entry[key] for key in keys if key in entry} for entry in entries
        }
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()
