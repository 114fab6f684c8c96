"""Compares a fine-tune's configuration with the base's, as transformers loads the two.

Old and new spellings are one, and a key that is left at its default equals one that says it. Where
transformers does not know the model, the documents themselves are compared. The export has the
base's configuration, so every difference that can change what a model computes is told.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from merging.inputs.checkpoint import Checkpoint
from merging.inputs.strict_json import read_json
from merging.loaded_config import essential, loaded_config
from merging.preflight.problem import Problem

# A difference in one of these means another architecture: an error.
_SAME = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
)
# Words in keys that training uses, or a program around the model: a note. All else is a warning.
_BESIDE = (
    "dropout",
    "pdrop",
    "drop_rate",
    "initializer",
    "init_std",
    "aux_loss",
    "output_router_logits",
    "gradient_checkpointing",
    "pad_token_id",
    "bos_token_id",
    "problem_type",
    "id2label",
    "label2id",
    "num_labels",
    "max_position_embeddings",
    "pretraining_tp",
)
# Told elsewhere, with what is done about it.
_ELSEWHERE = ("vocab_size",)
_EOS = "eos_token_id"
_GENERATION = "generation_config.json"
_MOST = 10_000_000
"""Bytes of a generation_config.json that are read at most."""
_WIDE = 120
"""Letters of a value that are shown at most."""


class _Absent:
    """Stands for the value of a key that a document does not have."""


_ABSENT = _Absent()


class _Difference(NamedTuple):
    """A key with different values."""

    path: tuple[str, ...]
    theirs: Any
    """The value in the fine-tune's configuration."""
    ours: Any
    """The value in the base's."""

    @property
    def key(self) -> str:
        """The path as it is written in messages, such as `text_config.layer_types[3]`."""
        return ".".join(self.path).replace(".[", "[")


class _Side(NamedTuple):
    """The configuration of one model."""

    document: Mapping[str, Any]
    """Its config.json."""
    defaults: Mapping[str, Any]
    """What transformers takes for missing keys; empty if it does not know the model."""

    def lacks(self, path: tuple[str, ...]) -> bool:
        """Returns whether transformers' class has no such key: an old spelling, or a stranger's."""
        above = _at(self.defaults, path[:-1])
        # Of a dictionary within a configuration, such as rope_parameters, not all keys are known.
        return isinstance(above, Mapping) and "model_type" in above and path[-1] not in above

    def value(self, difference: _Difference, value: Any) -> str:
        """Returns a value for a message, and whether the file says it: `= 7`."""
        name = next(part for part in reversed(difference.path) if not part.startswith("["))
        if value is _ABSENT or (
            not _occurs(name, self.document) and value == _at(self.defaults, difference.path)
        ):
            default = _at(self.defaults, difference.path)
            return "" if default is _ABSENT else f"default {_short(default)}"
        return f"= {_short(value)}"


def configurations(base: Checkpoint, name: str, tuned: Checkpoint) -> list[Problem]:
    """Returns a problem for each key that differs between two configurations.

    Args:
        base: Θ, whose configuration the export has.
        name: the name of the vector.
        tuned: its checkpoint.

    Raises:
        CheckpointError: if a generation_config.json cannot be read.
    """
    return _of_config(base.config, name, tuned.config) + _of_ends(base, name, tuned)


def _of_config(base: Mapping[str, Any], name: str, tuned: Mapping[str, Any]) -> list[Problem]:
    """Returns a problem for each difference between two config.json."""
    ours, theirs = essential(base), essential(tuned)
    # Equal documents, as most are, need no transformers. A folder without a config.json says
    # nothing.
    if ours == theirs or not ours or not theirs:
        return []
    default: Mapping[str, Any] = {}
    kinds = {document.get("model_type") for document in (ours, theirs)}
    if len(kinds) == 1:
        loaded = [loaded_config(document) for document in (base, tuned)]
        if loaded[0] is not None and loaded[1] is not None:
            ours, theirs = (essential(config.to_dict()) for config in loaded if config)
            default = essential(_defaults(type(loaded[0])))
    sides = _Side(tuned, default), _Side(base, default)
    found = [
        difference
        for difference in _differences(theirs, ours)
        if difference.path[-1] not in _ELSEWHERE
        # Both say it, so it is told with what is done about the heads.
        and not (difference.path == ("tie_word_embeddings",) and _both(difference, base, tuned))
        # Another architecture has other keys; that is one problem, and not one for each key.
        and (len(kinds) == 1 or difference.path[-1] in _SAME)
    ]
    return [_problem(difference, name, *sides) for difference in found]


def _problem(difference: _Difference, name: str, tuned: _Side, base: _Side) -> Problem:
    """Returns the problem for one difference."""
    theirs = tuned.value(difference, difference.theirs)
    ours = base.value(difference, difference.ours)
    if theirs.startswith("="):
        said = f"{name}: config.json says {difference.key} {theirs}"
    else:
        said = f"{name}: config.json does not have {difference.key}"
        said += f" ({theirs})" if theirs else ""
    if ours.startswith("="):
        said += f", the base says {ours.removeprefix('= ')}."
    else:
        said += ", the base does not have it" + (f" ({ours})." if ours else ".")
    last = difference.path[-1]
    if last in _SAME and _ABSENT not in (difference.theirs, difference.ours):
        return Problem("error", name, said, "Choose the base that it was trained from.")
    if any(word in part for part in difference.path for word in _BESIDE):
        return Problem("info", name, said, "The export has the base's value.")
    if base.lacks(difference.path):
        advice = (
            "transformers has no such key; the values that it derives from it are compared too."
        )
        return Problem("info", name, said, advice)
    if last == _EOS:
        advice = f"The export has the base's value, and may not stop where {name} stops."
    else:
        advice = (
            "The export has the base's value; a model that was trained with another value "
            "may get worse."
        )
    return Problem("warning", name, said, advice)


def _of_ends(base: Checkpoint, name: str, tuned: Checkpoint) -> list[Problem]:
    """Returns a warning if the models stop generating at other tokens.

    generation_config.json decides it where there is one, and config.json where there is none.
    """
    files = [weights.path / _GENERATION for weights in (tuned, base)]
    if not any(file.is_file() for file in files):
        return []  # config.json decides in both, and is compared as a whole
    documents = [read_json(file, _MOST, finite=False) if file.is_file() else None for file in files]
    theirs, ours = (
        _ends(document if document is not None else weights.config)
        for document, weights in zip(documents, (tuned, base), strict=True)
    )
    if theirs == ours:
        return []
    where, other = (
        _GENERATION if document is not None else "config.json" for document in documents
    )
    said = f"{name}: {where} says {_EOS} = {_listed(theirs)}, the base "
    said += f"says {_listed(ours)}" if where == other else f"({other}) says {_listed(ours)}"
    return [
        Problem(
            "warning",
            name,
            f"{said}.",
            f"The export ends its answers as the base does; to end them as {name} does, copy its "
            f"{_GENERATION} into the export.",
        )
    ]


def _ends(document: Any) -> list[Any]:
    """Returns the tokens at which generation stops, sorted; none if the document names none."""
    if not isinstance(document, Mapping):
        return []
    value = document.get(_EOS)
    if value is None and isinstance(document.get("text_config"), Mapping):
        value = document["text_config"].get(_EOS)
    values = value if isinstance(value, list) else [] if value is None else [value]
    return sorted(values, key=repr)


def _listed(values: list[Any]) -> str:
    return repr(values[0]) if len(values) == 1 else _short(values) if values else "nothing"


def _differences(theirs: Any, ours: Any, path: tuple[str, ...] = ()) -> Iterator[_Difference]:
    """Yields the keys, at any depth, that have different values."""
    if isinstance(theirs, Mapping) and isinstance(ours, Mapping):
        keys = [*ours, *(key for key in theirs if key not in ours)]
        for key in keys:
            # Private attributes of a class, and the old name beside the new one, say nothing new.
            if str(key).startswith("_") or (key == "type" and "rope_type" in keys):
                continue
            yield from _differences(
                theirs.get(key, _ABSENT), ours.get(key, _ABSENT), (*path, str(key))
            )
    # Of two lists with one entry per layer, the first entry that differs says most.
    elif isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours) > 4:
        for number, pair in enumerate(zip(theirs, ours, strict=True)):
            if found := list(_differences(*pair, (*path, f"[{number}]"))):
                yield found[0]
                return
    # null and no key at all mean the same.
    elif theirs != ours and not {type(theirs), type(ours)} <= {_Absent, type(None)}:
        yield _Difference(path, theirs, ours)


def _both(difference: _Difference, *documents: Mapping[str, Any]) -> bool:
    return all(difference.path[0] in document for document in documents)


def _defaults(kind: type[Any]) -> Mapping[str, Any]:
    """Returns what a class of configurations takes for missing keys."""
    try:
        defaults: Mapping[str, Any] = kind().to_dict()
    # A class may need values that only a real model has; then no default is named in messages.
    except Exception:
        return {}
    return defaults


def _at(document: Any, path: tuple[str, ...]) -> Any:
    """Returns the value at a path in a document; _ABSENT if it has none."""
    for part in path:
        if part.startswith("["):
            return _ABSENT
        if not isinstance(document, Mapping) or part not in document:
            return _ABSENT
        document = document[part]
    return document


def _occurs(name: str, node: Any) -> bool:
    """Returns whether a key occurs in a document, at any depth."""
    rest = [node]
    while rest:  # no recursion: a stranger's file may be nested as deep as its reader allows
        node = rest.pop()
        if isinstance(node, Mapping):
            if name in node:
                return True
            rest += node.values()
        elif isinstance(node, list):
            rest += node
    return False


def _short(value: Any) -> str:
    """Returns a value for a message, cut after some letters."""
    text = repr(value)
    return text if len(text) <= _WIDE else f"{text[:_WIDE]}…"
