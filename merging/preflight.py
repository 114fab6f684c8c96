"""What stands in the way of a merge, found from headers, configurations and a few sampled blocks, all at once.

A report with every problem and its fix, before gigabytes are read, instead of the first one after twenty minutes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from merging.adapter import LoraVector
from merging.checkpoint import Checkpoint, Weights, dtype_of, read_block, shape_of
from merging.errors import CheckpointError, MergingError, MismatchError, listed
from merging.opening import open_vector
from merging.recipe import Recipe, unique
from merging.safetensors_header import read_json
from merging.vector import DistributionVector, Vector

SAMPLE = 2**16
"""Elements read of each sampled matrix."""
MATRICES = 8
UNRELATED = 0.2
"""A cosine between tuned and base weights below this means another base: fine-tunes measure above 0.9, other
initialisations about 1/√SAMPLE = 0.004."""

_SAME = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")
_TELL = ("rope_parameters", "rope_theta", "tie_word_embeddings", "max_position_embeddings", "rms_norm_eps")
_TOKENIZER_BYTES = 256_000_000


class Problem(NamedTuple):
    """One thing that stands in the way, or that the user should know."""

    severity: Literal["error", "warning"]
    subject: str
    """The vector, or 'base'."""
    message: str


class Opened(NamedTuple):
    """What preflight could open, and all that it found."""

    base: Checkpoint
    vectors: dict[str, Vector]
    problems: list[Problem]


def preflight(base_path: str | Path, paths: Sequence[str | Path], names: Sequence[str] | None = None) -> Opened:
    """Open a base and checkpoints and report every problem, not only the first.

    Raises:
        CheckpointError: when the base itself cannot be read; there is nothing to compare with then.
    """
    base = Checkpoint(base_path)
    problems = _of_base(base)
    vectors: dict[str, Vector] = {}
    failed: list[str] = []
    for number, path in enumerate(paths):
        name = names[number] if names else unique(Path(path).resolve().name, [*vectors, *failed])
        try:
            vector = open_vector(path, base, name)
            problems += compare(base, vector)
            vectors[name] = vector
        except MergingError as error:
            failed.append(name)
            problems.append(Problem("error", name, str(error)))
    return Opened(base, vectors, problems)


def check(recipe: Recipe, base: Checkpoint, vectors: Mapping[str, Vector]) -> list[Problem]:
    """Compare each vector of a recipe with the base; the warnings, for the user to read.

    Raises:
        MismatchError: with all errors in one message.
    """
    problems = _of_base(base)
    for source in recipe.models:
        problems += compare(
            base, vectors[source.name], related=not recipe.allow_unrelated and recipe.method != "linear"
        )
    if errors := [problem.message for problem in problems if problem.severity == "error"]:
        raise MismatchError("\n".join(errors))
    return problems


def compare(base: Checkpoint, vector: Vector, *, related: bool = True) -> list[Problem]:
    """What differs between the base and one vector that could be opened.

    Args:
        base: Θ.
        vector: opened on it, so that names and shapes agree already.
        related: also sample weights, to see whether the checkpoint descends from this base.
    """
    if isinstance(vector, LoraVector) or vector.path is None:
        return []
    problems = _configs(base, vector.name, Checkpoint(vector.path).config)
    problems += _tokenizers(base.path, vector.name, vector.path)
    if related and isinstance(vector, DistributionVector):
        cosine, name = relationship(base, vector.tuned)
        if cosine is not None and cosine < UNRELATED:
            problems.append(
                Problem(
                    "error",
                    vector.name,
                    f"{vector.name} ({vector.path}) is a checkpoint of another base: its weights have cosine {cosine:.3f} "
                    f"with those of {base.path} (median of sampled matrices, {name!r} among them), where a fine-tune has "
                    "more than 0.9. Choose the base that it was trained from, or set dem.allow_unrelated: true in the "
                    "recipe to merge it all the same.",
                )
            )
    return problems


def relationship(base: Weights, tuned: Weights) -> tuple[float | None, str]:
    """The median cosine between tuned and base weights over a few large matrices, and the name of one of them.

    None where the base has no matrix that is not zero. Norms and biases are left out: in any two models they are near
    one and near zero.
    """
    matrices = [
        name
        for name in base
        if name in tuned and len(shape_of(base, name)) >= 2 and dtype_of(base, name).is_floating_point
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


def _of_base(base: Checkpoint) -> list[Problem]:
    problems = []
    if keys := code_keys(base.config):
        problems.append(
            Problem(
                "warning",
                "base",
                f"{base.path / 'config.json'} asks for code from the folder ({listed(keys)}). It is never run here, so the "
                "model can be merged and exported but not evaluated live.",
            )
        )
    if "quantization_config" in base.config:
        problems.append(
            Problem(
                "error",
                "base",
                f"{base.path} is quantised (quantization_config). Give the full-precision model as the base.",
            )
        )
    return problems


def code_keys(config: Any) -> list[str]:
    """The keys of a configuration, at any depth, that make a loader run code from the folder."""
    found, rest = [], [config]
    while rest:  # no recursion: a stranger's file may be nested as deep as its reader allows
        node = rest.pop()
        if isinstance(node, dict):
            found += [key for key in node if key in ("auto_map", "trust_remote_code", "custom_pipelines") and node[key]]
            rest += node.values()
        elif isinstance(node, list):
            rest += node
    return found


def _configs(base: Checkpoint, name: str, config: Mapping[str, Any]) -> list[Problem]:
    problems = []
    for severity, keys in (("error", _SAME), ("warning", _TELL)):
        for key in keys:
            given, expected = config.get(key), base.config.get(key)
            if key in config and key in base.config and given != expected:
                advice = (
                    "Choose the base that it was trained from."
                    if severity == "error"
                    else "The export follows the base; what was trained for the other value may suffer."
                )
                message = f"{name}: config.json says {key} = {given!r}, the base says {expected!r}. {advice}"
                problems.append(Problem(severity, name, message))  # type: ignore[arg-type]
    return problems


def _tokenizers(base: Path, name: str, tuned: Path) -> list[Problem]:
    ours, theirs = _vocabulary(base), _vocabulary(tuned)
    if not ours or not theirs or ours == theirs:
        return []
    moved = [token for token in ours if token in theirs and ours[token] != theirs[token]]
    if moved:
        token = moved[0]
        return [
            Problem(
                "error",
                name,
                f"{name}: {len(moved):,} tokens have other ids than in the base: {token!r} is {theirs[token]}, in the base "
                f"{ours[token]}. Rows of the embeddings would be added to those of other tokens. Merge only checkpoints with "
                "the base's tokenizer.",
            )
        ]
    added, lost = sorted(set(theirs) - set(ours)), sorted(set(ours) - set(theirs))
    return [
        Problem(
            "warning",
            name,
            f"{name}: its tokenizer adds {len(added)} tokens ({listed(added, 3) or 'none'}) and lacks {len(lost)}. "
            "The export has the base's tokenizer, without them.",
        )
    ]


def _vocabulary(folder: Path) -> dict[str, int]:
    """Token -> id from tokenizer.json, added tokens included; empty where there is none."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        return {}
    document = read_json(file, _TOKENIZER_BYTES, finite=False)
    try:
        vocabulary = document["model"]["vocab"]
        if isinstance(vocabulary, list):  # Unigram: pairs of token and score, the id is the position
            vocabulary = {entry[0]: number for number, entry in enumerate(vocabulary)}
        added = {entry["content"]: entry["id"] for entry in document.get("added_tokens", [])}
        return {**vocabulary, **added}
    except (KeyError, IndexError, TypeError, AttributeError):
        raise CheckpointError(f"{file} is not a tokenizer of the tokenizers library. Copy the folder again.") from None
