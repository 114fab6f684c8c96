"""Compares one opened vector with its base: configurations, tokenizers, heads, dtypes, descent.

Only headers, small files and a few blocks of weights are read.
"""

from pathlib import Path

from merging.errors import CheckpointError
from merging.inputs.checkpoint import Checkpoint, Weights, dtype_of, read_block, shape_of
from merging.inputs.lora_vector import LoraVector
from merging.inputs.saved_vector import SavedVector
from merging.inputs.strict_json import read_json
from merging.inputs.vector import DistributionVector, Vector
from merging.inputs.vocabulary.align import refusal
from merging.inputs.vocabulary.aligned import Arranged
from merging.inputs.vocabulary.tokens import Difference, difference, token_tables
from merging.preflight.configs import configurations
from merging.preflight.problem import Problem
from merging.preflight.storage import dtypes, kept_tensors, untied_tensors
from merging.preflight.trained_base import trained_elsewhere

SAMPLE = 2**16
"""Elements that are read of each sampled matrix."""
MATRICES = 8
"""About how many matrices are sampled."""
UNRELATED = 0.2
"""A median cosine between tuned and base weights below this means another base.

Fine-tunes measure above 0.9, other initialisations about 1/√SAMPLE = 0.004.
"""

_TEMPLATE_BYTES = 10_000_000


def compare(base: Checkpoint, vector: Vector, *, related: bool = True) -> list[Problem]:
    """Returns the differences between the base and one vector that could be opened.

    Args:
        base: Θ.
        vector: the vector, opened on this base, so that names and shapes already agree.
        related: also sample weights, to check that the checkpoint descends from this base.

    Raises:
        CheckpointError: if a tokenizer or a chat template cannot be read.
    """
    vector = getattr(vector, "inner", vector)
    if isinstance(vector, SavedVector):
        return _saved_elsewhere(base, vector) if vector.foreign_base else []
    if isinstance(vector, LoraVector):
        return trained_elsewhere(base, vector)
    if vector.path is None:
        return []
    own, tuned = _on_disk(base, vector)
    arranged = getattr(vector, "tuned", None)
    diff = difference(own, tuned)
    problems = _quantised(vector.name, tuned) + configurations(own, vector.name, tuned)
    problems += _heads(own, vector.name, tuned) + dtypes(own, vector.name, tuned)
    problems += kept_tensors(own, vector.name, tuned) + untied_tensors(own, vector, tuned)
    if isinstance(arranged, Arranged):
        problems += (
            [Problem("warning", vector.name, f"{vector.name}: {arranged.note}")]
            if arranged.note
            else []
        )
    elif token_tables(tuned)[1]:  # slices of a model without its embeddings have no token rows
        problems += vocabulary(own, vector.name, tuned, diff)
    problems += _tokenizers(vector.name, diff) + _templates(own.path, vector.name, tuned.path)
    if related and isinstance(vector, DistributionVector):
        problems += _descent(base, vector)
    return problems + trained_elsewhere(own, vector, related=related)


def _on_disk(base: Checkpoint, vector: Vector) -> tuple[Checkpoint, Checkpoint]:
    """Returns a vector's base and checkpoint as they are on disk, without views of rows."""
    under = vector.base if isinstance(vector.base, Checkpoint) else base
    tuned = getattr(vector, "tuned", None)
    tuned = tuned if isinstance(tuned, Checkpoint) else Checkpoint(vector.path or "")
    own = under.own if isinstance(under, Arranged) else under
    return own, tuned.own if isinstance(tuned, Arranged) else tuned


def vocabulary(base: Checkpoint, name: str, tuned: Checkpoint, diff: Difference) -> list[Problem]:
    """Returns the problems of a vocabulary that differs, for a recipe without dem.vocabulary."""
    if diff.matters:
        return [Problem("error", name, *refusal(base, name, tuned, diff))]
    if diff.lost:
        message = (
            f"{name}: its tokenizer lacks {len(diff.lost):,} tokens of the base; their rows are "
            "merged all the same."
        )
        return [Problem("warning", name, message, "The export has the base's tokenizer.")]
    return []


def _descent(base: Checkpoint, vector: DistributionVector) -> list[Problem]:
    """Returns an error if the checkpoint's weights are not similar to the base's."""
    cosine, name = relationship(base, vector.tuned)
    if cosine is None or cosine >= UNRELATED:
        return []
    return [
        Problem(
            "error",
            vector.name,
            f"{vector.name} ({vector.path}) is a checkpoint of another base: its weights have "
            f"cosine {cosine:.3f} with those of {base.path} (median of sampled matrices, {name!r} "
            "among them), and a fine-tune has more than 0.9.",
            "Choose the base that it was trained from, or set dem.allow_unrelated: true in the "
            "recipe to merge it all the same.",
        )
    ]


def relationship(base: Weights, tuned: Weights) -> tuple[float | None, str]:
    """Returns the median cosine between tuned and base weights, and the name of one matrix.

    It is the median over about MATRICES matrices; None if the base has no matrix that is not zero.
    Norms and biases are left out, because they are near one and near zero in every model.
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


def _saved_elsewhere(base: Checkpoint, vector: SavedVector) -> list[Problem]:
    """Returns a warning for a saved vector that was made on another base."""
    message = (
        f"{vector.name} ({vector.path}) was saved from a base with digest "
        f"{vector.facts.base[:12]}…; {base.path} has {vector.base_digest[:12]}…. Names and "
        "shapes agree, so it is added all the same: measure the result."
    )
    return [Problem("warning", vector.name, message)]


def _quantised(name: str, tuned: Checkpoint) -> list[Problem]:
    if "quantization_config" not in tuned.config:
        return []
    message = f"{name}: config.json has a quantization_config: {tuned.path} is quantised."
    return [Problem("error", name, message, "Give the full-precision checkpoint.")]


def _heads(base: Checkpoint, name: str, tuned: Checkpoint) -> list[Problem]:
    """Returns the differences in tied output heads.

    The values of the heads agree: otherwise the vector could not be opened.
    """
    key = "tie_word_embeddings"
    value, expected = tuned.config.get(key), base.config.get(key)
    if key in tuned.config and key in base.config and value != expected:
        tied, kept = (
            ("ties", "the base keeps it apart") if value else ("does not tie", "the base does")
        )
        message = (
            f"{name} {tied} its output head to its embeddings ({key} = {value!r}), and {kept}."
        )
        return [
            Problem(
                "warning",
                name,
                message,
                "The export follows the base, in config.json and in its tensors.",
            )
        ]
    extra = [tensor for tensor in tuned if tensor not in base and "head" in tensor]
    lacking = [tensor for tensor in base if tensor not in tuned and "head" in tensor]
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
            f"{which}, the base {other}; it equals the embeddings and is merged once with them.",
        )
    ]


def _tokenizers(name: str, diff: Difference) -> list[Problem]:
    """Returns differences of tokenizers that are no difference of vocabularies."""
    ours, theirs = diff.tokens
    if diff.missing not in ("", "both"):
        message = (
            f"{name}: {diff.missing} has no tokenizer.json, so that its token ids cannot be "
            "compared."
        )
        return [Problem("warning", name, message, "Copy its tokenizer.json into the folder.")]
    if ours.merges != theirs.merges and not (diff.added or diff.moved):
        message = (
            f"{name}: its tokenizer has other merges, so that it splits the same text into other "
            "tokens."
        )
        return [Problem("warning", name, message, "The export has the base's tokenizer.")]
    return []


def _templates(base: Path, name: str, tuned: Path) -> list[Problem]:
    """Returns a warning if a checkpoint has another chat template than the base."""
    ours, theirs = _template(base), _template(tuned)
    if theirs is None or ours == theirs:
        return []
    which = "and the base has none" if ours is None else "and the base another"
    return [
        Problem(
            "warning",
            name,
            f"{name} was trained with a chat template of its own, {which}: the export has the "
            "base's.",
            f"To talk to the export as to {name}, copy its chat_template into the export.",
        )
    ]


def _template(folder: Path) -> str | None:
    """Returns a folder's chat template, as transformers chooses it; None if it has none.

    That is chat_template.jinja, else the template in tokenizer_config.json.
    """
    own, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    for file in (own, config):
        if file.is_file() and file.stat().st_size > _TEMPLATE_BYTES:
            raise CheckpointError(
                f"{file} has {file.stat().st_size:,} bytes; at most {_TEMPLATE_BYTES:,} are read."
            )
    if own.is_file():
        return own.read_text(encoding="utf-8", errors="replace").strip()
    document = read_json(config, _TEMPLATE_BYTES, finite=False) if config.is_file() else {}
    raw = document.get("chat_template") if isinstance(document, dict) else None
    # Several named templates are a list; its text is enough to compare two of them.
    return raw.strip() if isinstance(raw, str) else None if raw is None else repr(raw)
