"""A full fine-tune's displacement as a PEFT adapter: of a given rank, or of the least rank that keeps an energy."""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from merging.engine import low_rank
from merging.engine.loop import BLOCK
from merging.errors import MismatchError, RecipeError
from merging.inputs.checkpoint import Checkpoint, shape_of
from merging.inputs.lora_vector import LoraVector
from merging.inputs.manifest import Progress
from merging.inputs.vector import Vector
from merging.inputs.vocabulary.tokens import token_tables
from merging.outputs.adapter_card import About
from merging.outputs.adapter_fit import Fit, LeftOut, TensorFit
from merging.outputs.adapter_folder import (
    AdapterPart,
    Module,
    file_dtype,
    refuse_not_finite,
    write_adapter,
)
from merging.tensor_names import place

# Matrices that no linear module holds: transformers 5 fuses the experts of a layer into one parameter, routers are
# modules of their own kind, T5's relative biases are an embedding.
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
    """Write a full fine-tune's displacement as an adapter: the best of a rank, or the least rank that keeps an energy.

    Only matrices of linear modules are in it, and the token embeddings and the head if asked for. Norms, biases and what else
    there is are not, and the Fit says what share of the displacement that is.

    Args:
        vector: of a full checkpoint.
        base: Θ.
        out: the folder to make; it must not exist.
        rank: the most for any tensor.
        energy: instead of a rank: the share of each matrix's squared singular values to keep, above 0, at most 1.
        embeddings: also the token embeddings and the head, of a model that keeps them apart. Programs that serve adapters
            often do not take these.
        dtype: of the file; float32 if not given, float64 where the base is.
        base_name: what the adapter calls its base; the base's folder if not given.
        progress: called with 'factor' and tensors done, then with 'verify' and bytes. May raise to cancel.
        command: the command line that repeats the export, for the card.

    Raises:
        RecipeError: for a rank, energy or dtype that cannot be, an adapter, or a checkpoint equal to its base.
        MismatchError: when modules cannot be told from the base's names, or embeddings are asked for that are tied.
        ExportError: when the folder could not be written.
    """
    _check(vector, rank, energy)
    linear = _linear(vector, base)
    turned = low_rank.transposed(base, linear)
    modules = {name: Module(name.removesuffix(".weight"), turned[name]) for name in linear}
    modules |= _token_modules(vector, base) if embeddings else {}
    chosen = file_dtype(dtype, base, list(modules))
    most = [
        min(rank, *shape_of(base, name)) * sum(shape_of(base, name)) if rank else 0
        for name in modules
    ]

    def parts() -> Iterator[AdapterPart]:
        for number, (name, module) in enumerate(modules.items(), 1):
            yield _factored(name, vector[name], module, (rank, energy), chosen)
            progress("factor", number, len(modules))

    limit = f"rank {rank}" if rank else f"the least rank that keeps {energy} of ‖Δ‖² of each matrix"
    about = About(
        f"An adapter extracted from {vector.name}",
        f"Δ{vector.name}, {limit}",
        base_name or str(base.path),
        command,
        left_out=_left_out(vector, base, modules),
    )
    return write_adapter(
        out, base, parts(), about, nbytes=sum(most) * chosen.itemsize, progress=progress
    )


def _check(vector: Vector, rank: int | None, energy: float | None) -> None:
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
            f"{vector.name} ({vector.path}) is an adapter already. To lower its rank, name it in a recipe with weight 1: "
            "dem merge RECIPE OUT --as-adapter --rank N."
        )


def _factored(
    name: str,
    delta: Tensor,
    module: Module,
    wanted: tuple[int | None, float | None],
    dtype: torch.dtype,
) -> AdapterPart:
    """One matrix; its error is measured on the factors as they are stored."""
    refuse_not_finite(name, delta)
    rank, energy = wanted
    product = low_rank.factored(delta, rank=rank, energy=energy).to(dtype)
    row = TensorFit(
        name, product.rank, float(delta.double().norm()), low_rank.residual(delta, product)
    )
    return AdapterPart(module, product, row)


def _kind(base: Checkpoint, name: str) -> str:
    """'linear', or why a tensor cannot be in an adapter."""
    part = place(name).part
    if part == "norms":
        return "norms"
    if name.endswith("bias"):
        return "biases"
    if part in ("embeddings", "head"):
        return part
    shape = shape_of(base, name)
    linear = len(shape) == 2 and 0 not in shape and name.endswith(".weight")
    return (
        "linear" if linear and not _NOT_LINEAR.fullmatch(name.removesuffix(".weight")) else "other"
    )


def _linear(vector: Vector, base: Checkpoint) -> list[str]:
    """The matrices that an adapter can hold, where the base's names are those of its modules."""
    linear = [name for name in vector if _kind(base, name) == "linear"]
    if not linear:
        raise MismatchError(
            f"{base.path} has no matrix of a linear module, and an adapter holds nothing else."
        )
    bare = [name for name in linear if place(name).stack and "." not in place(name).stack]
    if bare and base.config.get("model_type"):
        raise MismatchError(
            f"{base.path} names its layers without the model's prefix ({bare[0]!r}): PEFT would not find the modules. Save "
            "base and checkpoint once with AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW)."
        )
    return linear


def _token_modules(vector: Vector, base: Checkpoint) -> dict[str, Module]:
    """The token embeddings and the head.

    PEFT puts an adapter on one of two modules that share a matrix: merged it moves both, unmerged one. Positions are left
    out, for some models look them up with an offset that PEFT's embedding does not know; so is a head by another name than
    lm_head, which transformers 5 may load under that one.
    """
    tables = [
        name
        for name in token_tables(base)[1]
        if len(shape_of(base, name)) == 2 and name.endswith(".weight")
    ]
    heads = [name for name in tables if place(name).part == "head"]
    if base.config.get("tie_word_embeddings", not heads):
        raise MismatchError(
            f"{base.path} ties its output head to its embeddings, and an adapter moves one of the two until it is merged. "
            "Leave --embeddings out, or merge checkpoints in full instead of making adapters of them."
        )
    found = {}
    for name in tables:
        part, module = place(name).part, name.removesuffix(".weight")
        if name in vector and (part == "embeddings" or module.rpartition(".")[2] == "lm_head"):
            found[name] = Module(module, part == "embeddings", part == "embeddings")
    return found


def _left_out(
    vector: Vector, base: Checkpoint, modules: Mapping[str, Module]
) -> tuple[LeftOut, ...]:
    """What the vector moves and the adapter does not hold, by kind."""
    norms: dict[str, list[float]] = {}
    for name in vector:
        if name not in modules:
            kind = _kind(base, name)
            size = base.info(name).numel
            starts = range(0, size, BLOCK)
            norms.setdefault(kind, [])
            norms[kind].append(
                math.hypot(
                    *(
                        float(vector.block(name, at, min(at + BLOCK, size)).double().norm())
                        for at in starts
                    )
                )
            )
    return tuple(LeftOut(kind, len(found), math.hypot(*found)) for kind, found in norms.items())
