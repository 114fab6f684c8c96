"""Writes a full fine-tune's displacement as a PEFT adapter of limited rank."""

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from merging.engine import low_rank
from merging.engine.identities import gather
from merging.engine.loop import BLOCK
from merging.engine.shared_tensors import Names, shared_tensors
from merging.errors import MismatchError, RecipeError
from merging.inputs.checkpoint import Checkpoint, shape_of
from merging.inputs.lora_vector import LoraVector
from merging.inputs.manifest import Progress
from merging.inputs.vector import Vector
from merging.inputs.vocabulary.aligned import Arranged
from merging.inputs.vocabulary.tokens import token_tables
from merging.inputs.weight_files import folder_of
from merging.outputs.adapter_card import About
from merging.outputs.adapter_fit import Fit, LeftOut, TensorFit
from merging.outputs.adapter_folder import (
    AdapterPart,
    Module,
    file_dtype,
    refuse_not_finite,
    write_adapter,
)
from merging.outputs.loaded_modules import LoadedModules, loaded_modules
from merging.tensor_names import place
from plumbing.suggest import listed

# In a model without a model_type, which transformers cannot make, names tell the modules. These
# matrices belong to no linear one: experts of a layer that are fused into one parameter, routers,
# which are modules of a special kind, and T5's relative biases, which are an embedding.
_NOT_LINEAR = re.compile(r"(.*\.)?(experts|router|gate|\w*_bias)(\..*)?")


def extract(
    vector: Vector,
    base: Checkpoint,
    out: str | Path,
    *,
    rank: int | None = None,
    energy: float | None = None,
    embeddings: bool = False,
    dtype: str | None = None,
    base_name: str = "",
    progress: Progress = lambda stage, done, total: None,
    command: str = "",
) -> Fit:
    """Writes a full fine-tune's displacement as an adapter.

    It is the best one of a given rank, or the one of smallest rank that keeps a given energy.
    The adapter holds the matrices of linear modules, and on request the token embeddings and the
    head. It holds no norms, biases or other tensors; the Fit tells their share of the displacement.

    Args:
        vector: the displacement of a full checkpoint.
        base: Θ.
        out: the folder to make; it must not exist.
        rank: the largest rank of any tensor.
        energy: instead of a rank, the share of each matrix's squared singular values to keep, above
            0 and at most 1.
        embeddings: whether to include the token embeddings and the head of a model that does not
            tie them. Programs that serve adapters often do not accept these.
        dtype: the dtype of the file; by default float32, or float64 for a float64 base.
        base_name: the base's name in the adapter; the base's folder by default.
        progress: called with 'factor' and the tensors done, then with 'verify' and bytes. It may
            raise to cancel.
        command: the command line that repeats the export, for the model card.

    Returns:
        rank and error of each tensor, and what was left out.

    Raises:
        RecipeError: for an impossible rank, energy or dtype, for a vector that is an adapter
            already, and for a checkpoint that equals its base.
        MismatchError: if the base has no linear module, or if tied embeddings, or those of another
            vocabulary, are to be included.
        LoadError: if transformers cannot make the model that the base's config.json describes.
        ExportError: if the folder cannot be written.
    """
    _check(vector, rank, energy)
    gather([base, vector])  # the card names both by their digests
    shared = shared_tensors(base, [vector])
    wanted = [name for name in vector if _kind(base, name) == "linear" and name not in shared]
    found = _modules(base, wanted, _token_tables(vector, base, shared) if embeddings else [])
    modules = found.modules
    written_dtype = file_dtype(dtype, base, list(modules))
    # The ranks that an energy needs are not known before, so nothing is reserved for them.
    elements = [
        min(rank, *shape_of(base, name)) * sum(shape_of(base, name)) if rank else 0
        for name in modules
    ]

    def parts() -> Iterator[AdapterPart]:
        """Yields the tensors of the adapter one by one, reporting progress."""
        for number, (name, module) in enumerate(modules.items(), 1):
            yield _factorise(name, vector[name], module, (rank, energy), written_dtype)
            progress("factor", number, len(modules))

    limit = f"rank {rank}" if rank else f"the least rank that keeps {energy} of ‖Δ‖² of each matrix"
    nbytes = sum(elements) * written_dtype.itemsize
    about = About(
        f"An adapter extracted from {vector.name}",
        f"Δ{vector.name}, {limit}",
        base_name or str(base.path),
        command,
        left_out=_left_out(vector, base, found, shared),
        generates=found.generates,
    )
    return write_adapter(out, base, parts(), about, nbytes=nbytes, progress=progress)


def _check(vector: Vector, rank: int | None, energy: float | None) -> None:
    """Raises a RecipeError for impossible limits, and for a vector that is an adapter already."""
    if (rank is None) == (energy is None):
        raise RecipeError(
            "give either a rank (--rank 16) or an energy (--energy 0.9), the share to keep."
        )
    low_rank.check_rank(rank)
    if energy is not None and not 0 < energy <= 1:
        raise RecipeError(
            f"energy is {energy}, expected a share above 0 and at most 1, such as 0.9."
        )
    if isinstance(vector, LoraVector):
        raise RecipeError(
            f"{vector.name} ({vector.path}) is an adapter already. To lower its rank, name it in a "
            "recipe with weight 1: dem merge RECIPE OUT --as-adapter --rank N."
        )


def _factorise(
    name: str,
    delta: Tensor,
    module: Module,
    limits: tuple[int | None, float | None],
    dtype: torch.dtype,
) -> AdapterPart:
    """Computes one matrix's part; its error is that of the factors as they are stored.

    `limits` are the rank and the energy, one of which is None.
    """
    # Before the decomposition, whose own error would not name the tensor.
    refuse_not_finite(name, delta)
    rank, energy = limits
    product = low_rank.factorise(delta, rank=rank, energy=energy).to(dtype)
    row = TensorFit(
        name, product.rank, float(delta.double().norm()), low_rank.residual(delta, product)
    )
    return AdapterPart(module, product, row)


def _kind(base: Checkpoint, name: str) -> str:
    """Returns 'linear', or the kind of tensor for which an adapter has no place."""
    # A module in a sub-folder is beside the network in which PEFT looks for modules.
    if folder_of(name, base.folders):
        return "sub-folders"
    part = place(name).part
    if part == "norms":
        return "norms"
    if name.endswith("bias"):
        return "biases"
    if part in ("embeddings", "head"):
        return part
    shape = shape_of(base, name)
    # An empty matrix has no singular vectors.
    return "linear" if len(shape) == 2 and 0 not in shape and name.endswith(".weight") else "other"


def _modules(base: Checkpoint, names: Sequence[str], tables: Sequence[str]) -> LoadedModules:
    """Returns the modules of matrices: those of the loaded model, or else what names say.

    Args:
        base: Θ.
        names: matrices of linear modules, as their names say.
        tables: token embeddings and heads, if they are wanted.

    Raises:
        MismatchError: if there is no linear module.
    """
    if base.config.get("model_type"):
        found = loaded_modules(base, [*names, *tables])
        # Such as T5's relative biases and positions, which some models look up with an offset that
        # PEFT's embedding does not know.
        other = [name for name in names if name in found.modules and found.modules[name].embedding]
        for name in other:
            del found.modules[name]
            found.reasons[name] = "they are embeddings"
    else:
        paths = {name: name.removesuffix(".weight") for name in (*names, *tables)}
        # PEFT adds (B·A)ᵀ to the matrix of an embedding.
        embeddings = [name for name in tables if place(name).part == "embeddings"]
        # transformers 5 loads heads of other names as lm_head.
        heads = [name for name in tables if paths[name].rpartition(".")[2] == "lm_head"]
        linear = heads + [name for name in names if not _NOT_LINEAR.fullmatch(paths[name])]
        turned = low_rank.stored_transposed(base, linear)
        modules = {name: Module(paths[name], turned[name]) for name in linear}
        modules |= {name: Module(paths[name], True, True) for name in embeddings}
        found = LoadedModules(modules, {}, True)
    if all(module.embedding for module in found.modules.values()):
        reasons = "; ".join(sorted(set(found.reasons.values())))
        raise MismatchError(
            f"{base.path} has no matrix of a linear module, and an adapter holds nothing else"
            f"{f' ({reasons})' if reasons else ''}."
        )
    return found


def _token_tables(vector: Vector, base: Checkpoint, shared: Mapping[str, Names]) -> list[str]:
    """Returns the names of the token embeddings and the head that an adapter can hold.

    Tied matrices are refused: PEFT puts an adapter on one of two modules that share a matrix, so it
    moves both modules when it is merged, but only one before. Position embeddings are left out,
    because some models look them up with an offset that PEFT's embedding does not know.
    """
    tables = [
        name
        for name in token_tables(base)[1]
        if len(shape_of(base, name)) == 2 and name.endswith(".weight")
    ]
    if together := [listed(list(shared[name])) for name in tables if name in shared]:
        raise MismatchError(
            f"{base.path} stores one matrix as {together[0]}, but an adapter moves only one of "
            "its modules until it is merged. Leave --embeddings out, or merge checkpoints in full "
            "instead of making adapters of them."
        )
    heads = [name for name in tables if place(name).part == "head"]
    # A configuration without the key says nothing, so a model that stores no head counts as tied.
    if base.config.get("tie_word_embeddings", not heads):
        raise MismatchError(
            f"{base.path} ties its output head to its embeddings, but an adapter moves only one of "
            "the two until it is merged. Leave --embeddings out, or merge checkpoints in full "
            "instead of making adapters of them."
        )
    if other := _of_another_vocabulary(vector):
        raise MismatchError(
            f"{vector.name} ({vector.path}) has another vocabulary than {base.path}, so that no "
            f"adapter of this base can hold its {listed(list(other), 3)}. Leave --embeddings out."
        )
    return [
        name for name in tables if name in vector and place(name).part in ("embeddings", "head")
    ]


def _of_another_vocabulary(vector: Vector) -> Collection[str]:
    """Returns the tensors with a row per token if the checkpoint has another vocabulary."""
    tuned = getattr(vector, "tuned", None)
    return tuned.tables if isinstance(tuned, Arranged) else ()


def _left_out(
    vector: Vector, base: Checkpoint, found: LoadedModules, shared: Mapping[str, Names]
) -> tuple[LeftOut, ...]:
    """Returns the tensors that the vector moves and the adapter lacks, by kind and reason.

    A tensor that the base stores under several names counts once.
    """
    norms: dict[tuple[str, str], list[float]] = {}
    grown = _of_another_vocabulary(vector)
    for name in vector:
        names = [each for each in shared.get(name, (name,)) if each in vector]
        if name not in found.modules and name == names[0]:
            size = base.info(name).numel
            blocks = (vector.block(name, at, min(at + BLOCK, size)) for at in range(0, size, BLOCK))
            # In blocks: embeddings are among these tensors, and float64 takes four times their
            # bfloat16.
            norm = math.hypot(*(float(block.double().norm()) for block in blocks))
            kinds = [_kind(base, each) for each in names]
            kind = "embeddings" if "embeddings" in kinds else kinds[0]
            why = found.reasons.get(name, _SHARED if kind == "linear" and len(names) > 1 else "")
            why = _OTHER_TOKENS if name in grown else why
            # A matrix that belongs to no linear module.
            norms.setdefault(("other" if kind == "linear" else kind, why), []).append(norm)
    return tuple(
        LeftOut(kind, len(each), math.hypot(*each), why) for (kind, why), each in norms.items()
    )


_SHARED = "several modules use one matrix, and an adapter moves only one of them"
_OTHER_TOKENS = (
    "the checkpoint has another vocabulary, and an adapter cannot add rows; how far they moved is "
    "not counted"
)
