"""Which token stands for which row of which tensors, and the base's tokenizer files with tokens added to them."""

import filecmp
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from merging.dtypes import QUANTISED
from merging.errors import CheckpointError
from merging.inputs.checkpoint import Checkpoint
from merging.inputs.header import parse_json, read_json
from merging.tensor_names import place

TOKENIZER = "tokenizer.json"
MAX_BYTES = 256_000_000
_NO_ROWS = ("wpe", "position", "token_type")
_DECODER = "added_tokens_decoder"
_FLAGS = ("lstrip", "normalized", "rstrip", "single_word", "special")


class Tokens(NamedTuple):
    """A tokenizer's vocabulary."""

    ids: dict[str, int]
    """Token -> id, added tokens included."""
    added: dict[str, dict[str, Any]]
    """Token -> its entry in added_tokens."""
    size: int
    """Number of tokens of the vocabulary proper, without added ones."""
    merges: tuple[str, ...]
    """The pairs that BPE joins, in order; two tokenizers may cut text differently over one vocabulary."""

    @property
    def next_id(self) -> int | None:
        """The id that the tokenizers library gives to the next token added; None where that id is taken.

        It numbers added tokens itself when it reads a file, whatever ids the file has: after the greatest of those
        added, or after the vocabulary proper where none lies beyond it (tokenizers 0.22).
        """
        last = max((entry["id"] for entry in self.added.values()), default=-1)
        found = max(last + 1, self.size)
        return found if found > max(self.ids.values(), default=-1) else None


class Difference(NamedTuple):
    """How the vocabulary of a checkpoint differs from its base's."""

    rows: tuple[int, int]
    """Of the embeddings, the base's and the checkpoint's; 0 where there are none."""
    tables: tuple[tuple[str, ...], tuple[str, ...]]
    """The tensors that have these rows, in the base and in the checkpoint."""
    moved: tuple[str, ...]
    """Tokens of both, with other ids."""
    added: tuple[str, ...]
    """Tokens that the base lacks, in the order of their ids."""
    lost: tuple[str, ...]
    """Tokens that only the base has."""
    tokens: tuple[Tokens, Tokens]
    """The base's tokenizer and the checkpoint's; both empty where one is missing, or nothing differs."""
    missing: str
    """The folder without a tokenizer.json, or 'both'; empty where both have one."""

    @property
    def matters(self) -> bool:
        """Whether, if nothing were done, shapes would not fit, rows go to other tokens, or tokens be lost."""
        return (self.rows[0] != self.rows[1] and all(self.rows)) or bool(self.moved or self.added)


NO_TOKENS = Tokens({}, {}, 0, ())


def read_tokens(folder: Path) -> Tokens | None:
    """The vocabulary of a model folder; None where it has no tokenizer.json.

    Raises:
        CheckpointError: when the file is not a tokenizer.
    """
    file = folder / TOKENIZER
    if not file.is_file():
        return None
    document = read_json(file, MAX_BYTES, finite=False)
    try:
        vocabulary = document["model"]["vocab"]
        if isinstance(
            vocabulary, list
        ):  # Unigram: pairs of token and score, the id is the position
            vocabulary = {entry[0]: number for number, entry in enumerate(vocabulary)}
        added = {entry["content"]: dict(entry) for entry in document.get("added_tokens", [])}
        ids = {**vocabulary, **{token: entry["id"] for token, entry in added.items()}}
        pairs = document["model"].get("merges") or []
        merges = tuple(pair if isinstance(pair, str) else " ".join(pair) for pair in pairs)
        if not all(
            type(number) is int and number >= 0 and isinstance(token, str)
            for token, number in ids.items()
        ):
            raise TypeError
    except (KeyError, IndexError, TypeError, AttributeError, ValueError):
        raise CheckpointError(
            f"{file} is not a tokenizer of the tokenizers library. Copy the folder again."
        ) from None
    return Tokens(ids, added, len(vocabulary), merges)


def token_tables(weights: Checkpoint, like: Sequence[str] = ()) -> tuple[int, tuple[str, ...]]:
    """The number of rows that the vocabulary has, and the tensors with a row for each token: embeddings, heads.

    The number is that of a tensor in `like`, the names that another model has for them; else the configuration's
    vocab_size where a matrix has it; else that of the largest embedding or head. Quantised tensors do not count.
    """
    shapes = {
        name: weights.info(name).shape
        for name in weights
        if place(name).layer is None
        and place(name).part not in ("norms", "attention", "mlp")
        and not any(word in name.lower() for word in _NO_ROWS)
        and weights.info(name).dtype.is_floating_point
        and weights.info(name).dtype not in QUANTISED
        and weights.info(name).shape
    }
    configs = [
        weights.config,
        *(part for part in weights.config.values() if isinstance(part, dict)),
    ]
    named = [config["vocab_size"] for config in configs if "vocab_size" in config]
    lengths = [
        shape[0] for name, shape in shapes.items() if len(shape) > 1 and place(name).part != "other"
    ]
    matrices = {shape[0] for shape in shapes.values() if len(shape) > 1}
    known = [shapes[name][0] for name in like if name in shapes] + [
        number for number in named if number in matrices
    ]
    rows = known[0] if known else max(lengths, default=0)
    return rows, tuple(name for name, shape in shapes.items() if rows and shape[0] == rows)


def difference(base: Checkpoint, tuned: Checkpoint) -> Difference:
    """Compare two vocabularies, from headers and tokenizers.

    Raises:
        CheckpointError: when a tokenizer.json is none.
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
        # a vocabulary of 150,000 tokens takes half a second to read, and most checkpoints have their base's
        return Difference(*shapes, (), (), (), (NO_TOKENS, NO_TOKENS), "")
    ours, theirs = read_tokens(base.path), read_tokens(tuned.path)
    if ours is None or theirs is None:
        both = ours is None and theirs is None
        missing = "both" if both else str(base.path if ours is None else tuned.path)
        return Difference(*shapes, (), (), (), (NO_TOKENS, NO_TOKENS), missing)
    one, other = ours.ids, theirs.ids
    return Difference(
        *shapes,
        tuple(token for token in one if token in other and one[token] != other[token]),
        tuple(sorted((token for token in other if token not in one), key=other.__getitem__)),
        tuple(token for token in one if token not in other),
        (ours, theirs),
        "",
    )


def with_added(
    name: str, content: bytes, entries: Sequence[Mapping[str, Any]], rows: tuple[int, int]
) -> bytes:
    """One of the base's files, with tokens added and the number of rows that go with them; other files as they are.

    Args:
        name: of the file, such as tokenizer.json.
        content: what the base has there.
        entries: those of added_tokens, with their new ids.
        rows: of the embeddings, before and after.
    """
    if name not in ("config.json", TOKENIZER, "tokenizer_config.json", "added_tokens.json"):
        return content
    document = parse_json(content, name, finite=False)
    if name == "config.json":
        for config in (document, *(part for part in document.values() if isinstance(part, dict))):
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
