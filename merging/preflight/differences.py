"""What differs between a base and one checkpoint that was opened on it: from headers, configurations and a few blocks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from merging.errors import CheckpointError
from merging.inputs.checkpoint import Checkpoint, Weights, dtype_of, read_block, shape_of
from merging.inputs.header import read_json
from merging.inputs.lora_vector import LoraVector
from merging.inputs.saved_vector import SavedVector
from merging.inputs.vector import DistributionVector, Vector
from merging.inputs.vocabulary.align import refusal
from merging.inputs.vocabulary.aligned import Arranged
from merging.inputs.vocabulary.tokens import Difference, difference, token_tables
from merging.preflight.problem import Problem

SAMPLE = 2**16
"""Elements read of each sampled matrix."""
MATRICES = 8
UNRELATED = 0.2
"""A cosine between tuned and base weights below this means another base: fine-tunes measure above 0.9, other
initialisations about 1/√SAMPLE = 0.004."""

_SAME = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
)
_TELL = ("rope_parameters", "rope_theta", "max_position_embeddings", "rms_norm_eps")
_TEMPLATE_BYTES = 10_000_000


def compare(base: Checkpoint, vector: Vector, *, related: bool = True) -> list[Problem]:
    """What differs between the base and one vector that could be opened.

    Args:
        base: Θ.
        vector: opened on it, so that names and shapes agree already.
        related: also sample weights, to see whether the checkpoint descends from this base.

    Raises:
        CheckpointError: when a tokenizer or a template cannot be read.
    """
    vector = getattr(vector, "inner", vector)
    if isinstance(vector, SavedVector):
        return _of_another_base(base, vector) if vector.foreign_base else []
    if isinstance(vector, LoraVector) or vector.path is None:
        return []
    own, tuned = _on_disk(base, vector)
    arranged = getattr(vector, "tuned", None)
    found = difference(own, tuned)
    problems = _of_quantised(vector.name, tuned) + _configs(own, vector.name, tuned.config)
    problems += _heads(own, vector.name, tuned) + _dtypes(own, vector.name, tuned)
    if isinstance(arranged, Arranged):
        problems += (
            [Problem("warning", vector.name, f"{vector.name}: {arranged.note}")]
            if arranged.note
            else []
        )
    elif token_tables(tuned)[1]:  # layers alone, of a recipe with slices, have no row for a token
        problems += vocabulary(own, vector.name, tuned, found)
    problems += _tokenizers(vector.name, found) + _templates(own.path, vector.name, tuned.path)
    if related and isinstance(vector, DistributionVector):
        problems += _descent(base, vector)
    return problems


def _on_disk(base: Checkpoint, vector: Vector) -> tuple[Checkpoint, Checkpoint]:
    """A vector's base and checkpoint, with their vocabularies as they are."""
    under = vector.base if isinstance(vector.base, Checkpoint) else base
    tuned = getattr(vector, "tuned", None)
    tuned = tuned if isinstance(tuned, Checkpoint) else Checkpoint(vector.path or "")
    return under.own if isinstance(under, Arranged) else under, tuned.own if isinstance(
        tuned, Arranged
    ) else tuned


def vocabulary(base: Checkpoint, name: str, tuned: Checkpoint, found: Difference) -> list[Problem]:
    """What a vocabulary that differs needs, where the recipe does not choose."""
    if found.matters:
        return [Problem("error", name, *refusal(base, name, tuned, found))]
    if found.lost:
        message = f"{name}: its tokenizer lacks {len(found.lost):,} tokens of the base's; their rows are merged all the same."
        return [Problem("warning", name, message, "The export has the base's tokenizer.")]
    return []


def _descent(base: Checkpoint, vector: DistributionVector) -> list[Problem]:
    cosine, name = relationship(base, vector.tuned)
    if cosine is None or cosine >= UNRELATED:
        return []
    return [
        Problem(
            "error",
            vector.name,
            f"{vector.name} ({vector.path}) is a checkpoint of another base: its weights have cosine {cosine:.3f} "
            f"with those of {base.path} (median of sampled matrices, {name!r} among them), where a fine-tune has "
            "more than 0.9.",
            "Choose the base that it was trained from, or set dem.allow_unrelated: true in the recipe to merge it all "
            "the same.",
        )
    ]


def relationship(base: Weights, tuned: Weights) -> tuple[float | None, str]:
    """The median cosine between tuned and base weights over a few large matrices, and the name of one of them.

    None where the base has no matrix that is not zero. Norms and biases are left out: in any two models they are near
    one and near zero.
    """
    matrices = [
        name
        for name in base
        if name in tuned
        and len(shape_of(base, name)) >= 2
        and dtype_of(base, name).is_floating_point
    ]
    step = max(1, len(matrices) // MATRICES)
    cosines = []
    for name in matrices[::step]:
        size = 1
        for length in shape_of(base, name):
            size *= length
        ours = read_block(base, name, 0, min(size, SAMPLE)).double()
        theirs = read_block(tuned, name, 0, min(size, SAMPLE)).double()
        scale = float(ours.norm() * theirs.norm())
        if scale > 0:
            cosines.append((float(ours @ theirs) / scale, name))
    return sorted(cosines)[len(cosines) // 2] if cosines else (None, "")


def _of_another_base(base: Checkpoint, vector: SavedVector) -> list[Problem]:
    message = (
        f"{vector.name} ({vector.path}) was saved from a base with digest {vector.facts.base[:12]}…; {base.path} has "
        f"{base.digest[:12]}…. Names and shapes agree, so it is added all the same: measure what it does there."
    )
    return [Problem("warning", vector.name, message)]


def _of_quantised(name: str, tuned: Checkpoint) -> list[Problem]:
    if "quantization_config" not in tuned.config:
        return []
    message = f"{name}: config.json has a quantization_config: {tuned.path} is quantised."
    return [Problem("error", name, message, "Give the full-precision checkpoint.")]


def _configs(base: Checkpoint, name: str, config: Mapping[str, Any]) -> list[Problem]:
    problems = []
    for keys in (_SAME, _TELL):
        for key in keys:
            given, expected = config.get(key), base.config.get(key)
            if key in config and key in base.config and given != expected:
                message = f"{name}: config.json says {key} = {given!r}, the base says {expected!r}."
                advice = (
                    "The export follows the base; what was trained for the other value may suffer."
                )
                problems.append(
                    Problem("error", name, message, "Choose the base that it was trained from.")
                    if keys is _SAME
                    else Problem("warning", name, message, advice)
                )
    return problems


def _heads(base: Checkpoint, name: str, tuned: Checkpoint) -> list[Problem]:
    """Output heads that one of the two ties to its embeddings and the other does not; their values agree, or it is no vector."""
    key = "tie_word_embeddings"
    given, expected = tuned.config.get(key), base.config.get(key)
    if key in tuned.config and key in base.config and given != expected:
        tied, kept = (
            ("ties", "the base keeps it apart") if given else ("does not tie", "the base does")
        )
        message = (
            f"{name} {tied} its output head to its embeddings ({key} = {given!r}), and {kept}."
        )
        return [
            Problem(
                "warning",
                name,
                message,
                "The export follows the base, in config.json and in its tensors.",
            )
        ]
    extra = [one for one in tuned if one not in base and "head" in one]
    lacking = [one for one in base if one not in tuned and "head" in one]
    if not (extra or lacking):
        return []
    which = (
        f"{name} stores its tied head ({extra[0]})"
        if extra
        else f"{name} does not store its tied head ({lacking[0]})"
    )
    other = "does not" if extra else "does"
    return [
        Problem(
            "info",
            name,
            f"{which}, the base {other}; the values are those of its embeddings, and merged once.",
        )
    ]


def _dtypes(base: Checkpoint, name: str, tuned: Checkpoint) -> list[Problem]:
    ours, theirs = _floats(base), _floats(tuned)
    if ours == theirs:
        return []
    wide = "float64" if "float64" in ours else "float32"
    message = (
        f"{name} is stored as {' and '.join(theirs) or 'no floats'}, the base as {' and '.join(ours) or 'no floats'}: "
        f"merged in {wide} and stored as the base, unless the recipe's dtype says otherwise."
    )
    return [Problem("info", name, message)]


def _floats(weights: Checkpoint) -> list[str]:
    found: set[torch.dtype] = {weights.info(name).dtype for name in weights}
    return sorted(str(dtype).removeprefix("torch.") for dtype in found if dtype.is_floating_point)


def _tokenizers(name: str, found: Difference) -> list[Problem]:
    ours, theirs = found.tokens
    if found.missing not in ("", "both"):
        message = f"{name}: {found.missing} has no tokenizer.json, so that its token ids cannot be compared."
        return [
            Problem("warning", name, message, "Copy the tokenizer there that it was trained with.")
        ]
    if ours.merges != theirs.merges and not (found.added or found.moved):
        message = f"{name}: its tokenizer joins other pairs (merges), so that it cuts the same text into other tokens."
        return [Problem("warning", name, message, "The export has the base's tokenizer.")]
    return []


def _templates(base: Path, name: str, tuned: Path) -> list[Problem]:
    ours, theirs = _template(base), _template(tuned)
    if theirs is None or ours == theirs:
        return []
    which = "and the base has none" if ours is None else "and the base another"
    return [
        Problem(
            "warning",
            name,
            f"{name} was trained with a chat template of its own, {which}: the export has the base's.",
            f"To talk to the export as to {name}, copy its chat_template there.",
        )
    ]


def _template(folder: Path) -> str | None:
    """The chat template of a folder: chat_template.jinja, else what tokenizer_config.json has."""
    own, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    for file in (own, config):
        if file.is_file() and file.stat().st_size > _TEMPLATE_BYTES:
            raise CheckpointError(
                f"{file} has {file.stat().st_size:,} bytes; at most {_TEMPLATE_BYTES:,} are read."
            )
    if own.is_file():
        return own.read_text(encoding="utf-8", errors="replace").strip()
    document = read_json(config, _TEMPLATE_BYTES, finite=False) if config.is_file() else {}
    given = document.get("chat_template") if isinstance(document, dict) else None
    return given.strip() if isinstance(given, str) else None if given is None else repr(given)
