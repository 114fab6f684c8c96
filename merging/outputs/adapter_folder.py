"""Writes a PEFT LoRA folder that appears complete and verified, or not at all, like an export.

The scale is 1 (lora_alpha = r for each module), so that ΔW = B·A as stored. Factors are written as
they are computed, so that no two need be in memory. They go to a file of their own first: the
header of the weights file precedes them and holds ranks that are only known at the end.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from merging.dtypes import DTYPES, check_dtype, working_dtype
from merging.engine.finite import all_finite
from merging.engine.identities import without_identities
from merging.engine.low_rank import Product
from merging.errors import ExportError, RecipeError
from merging.inputs.checkpoint import Checkpoint, dtype_of
from merging.inputs.header import header_bytes
from merging.inputs.lora_vector import LoraVector
from merging.inputs.manifest import Manifest, Progress, verify
from merging.outputs.adapter_card import About, card
from merging.outputs.adapter_fit import Fit, TensorFit
from merging.outputs.export import CARD, RECIPE
from merging.outputs.staging import staging_folder, write_file, write_manifest
from merging.outputs.writer import Writer
from merging.paths import ADAPTER, WEIGHTS, exists
from merging.recipe import recipe_yaml

_FACTORS = ".factors"


class Module(NamedTuple):
    """The module to which PEFT adds two factors."""

    path: str
    """The module's name in the model."""
    transposed: bool
    """Whether the base's tensor gets (B·A)ᵀ: for GPT-2's Conv1D and for every embedding."""
    embedding: bool = False


class AdapterPart(NamedTuple):
    """One tensor of an adapter, ready to be written."""

    module: Module
    product: Product
    """In the orientation of the base's tensor and the file's dtype; not written if of rank 0."""
    row: TensorFit


def write_adapter(
    out: str | Path,
    base: Checkpoint,
    parts: Iterable[AdapterPart],
    about: About,
    *,
    nbytes: int = 0,
    progress: Progress = lambda stage, done, total: None,
) -> Fit:
    """Writes an adapter of a base; PEFT's documentation of LoraConfig explains the keys.

    Args:
        out: the folder to make; it must not exist.
        base: Θ.
        parts: the tensors; taken one by one, so that no two need be in memory.
        about: describes the adapter for its configuration and its card.
        nbytes: an upper bound of the factors' bytes, for the check of free space; 0 if unknown.
        progress: called with 'verify' while the folder is read back. It may raise to cancel.

    Returns:
        the errors of what was written.

    Raises:
        RecipeError: if there is nothing to write, because nothing moves the base.
        ExportError: if there is no room, `out` exists, a value is not finite, or what is read back
            differs. No folder `out` is left then, nor if the process is killed.
    """
    out = Path(out)
    # Twice: the factors' own file and the weights file exist together for a moment.
    with staging_folder(out, 2 * nbytes) as staging:
        fit, written = _fill(staging, base, parts, about)
        # The weights were compared as they were written. PEFT's keys say where factors are added,
        # and a wrong one would load without an error: so the folder is opened as an adapter too.
        verify(staging, progress, {WEIGHTS})
        _read_back(staging, base, written)
    return fit


def config_of(
    modules: dict[Module, int], base: Checkpoint, name: str, *, generates: bool = True
) -> dict[str, Any]:
    """Returns PEFT's configuration of an adapter whose scale is 1 in all modules.

    Args:
        modules: module -> its rank.
        base: Θ.
        name: the base's name in the configuration; `org/name@revision` becomes two keys.
        generates: whether the base's class writes text. PEFT's classes for text want its methods.
    """
    rank = max(modules.values())
    # PEFT also tries a pattern after any prefix, so a whole name must begin with ^.
    others = {f"^{module.path}": other for module, other in modules.items() if other != rank}
    task = "SEQ_2_SEQ_LM" if base.config.get("is_encoder_decoder") else "CAUSAL_LM"
    location, _, revision = (name, "", "") if exists(Path(name)) else name.partition("@")
    return {
        "peft_type": "LORA",
        "task_type": task if generates else None,
        "base_model_name_or_path": location,
        "revision": revision or None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "fan_in_fan_out": any(module.transposed and not module.embedding for module in modules),
        "init_lora_weights": True,
        "target_modules": [module.path for module in modules],
        "rank_pattern": others,
        # Equal to rank_pattern, so that alpha / r is 1 in every module.
        "alpha_pattern": others,
    }


def _fill(
    staging: Path, base: Checkpoint, parts: Iterable[AdapterPart], about: About
) -> tuple[Fit, dict[str, Module]]:
    """Writes every file of the folder.

    Returns:
        the errors, and tensor -> module for the tensors that were written.
    """
    stored: list[tuple[str, torch.dtype, tuple[int, ...]]] = []
    rows: list[TensorFit] = []
    written: dict[str, Module] = {}
    # Ranks, and so offsets, are known only when all factors have been computed.
    with (staging / _FACTORS).open("xb") as spool:
        for part in parts:
            rows.append(part.row)
            if part.product.rank == 0:
                continue
            written[part.row.name] = part.module
            for key, value in _sides(part):
                stored.append((key, value.dtype, tuple(value.shape)))
                spool.write(value.contiguous().flatten().view(torch.uint8).numpy().data)
    if not written:
        raise RecipeError(
            f"{about.title}: nothing moves the base's matrices, and an adapter of rank 0 cannot be "
            "written. Set an ω that is not 0, or give a checkpoint that differs from the base."
        )
    fit = Fit(tuple(rows), about.left_out)
    ranks = {written[row.name]: row.rank for row in rows if row.name in written}
    settings = config_of(ranks, base, about.base, generates=about.generates)
    config = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
    # Folder names may hold bytes that are not UTF-8; the card replaces them.
    files = {
        WEIGHTS: _assemble(staging, base, stored, about),
        ADAPTER: write_file(staging / ADAPTER, config.encode()),
        CARD: write_file(staging / CARD, card(fit, base, about).encode(errors="replace")),
    }
    if about.recipe is not None:
        files[RECIPE] = write_file(staging / RECIPE, recipe_yaml(about.recipe).encode())
    manifest = Manifest(about.recipe.digest if about.recipe else "", dict(sorted(files.items())))
    write_manifest(staging, manifest)
    return fit, written


def _sides(part: AdapterPart) -> Iterator[tuple[str, Tensor]]:
    """Yields PEFT's names of the two factors with their values: A (rank, in) and B (out, rank)."""
    module, (left, right) = part.module, part.product
    a, b = (left.T, right.T) if module.transposed else (right, left)
    for side, value in (("A", a), ("B", b)):
        # Tested in the file's dtype: float16 overflows only when the factors are rounded to it.
        refuse_not_finite(part.row.name, value)
        end = f"lora_embedding_{side}" if module.embedding else f"lora_{side}.weight"
        yield f"base_model.model.{module.path}.{end}", value


def _assemble(
    staging: Path,
    base: Checkpoint,
    stored: list[tuple[str, torch.dtype, tuple[int, ...]]],
    about: About,
) -> tuple[int, str]:
    """Writes the weights file, header and then factors; returns its size in bytes and SHA-256."""
    metadata = {"format": "pt"}
    if about.recipe is not None:
        # Without the digests of the inputs, as in the headers of full models.
        bare = without_identities(about.recipe, base)
        metadata |= {"dem_recipe": recipe_yaml(bare), "dem_digest": bare.digest}
    piece, factors = header_bytes(stored, metadata), staging / _FACTORS
    with (
        Writer(staging / WEIGHTS, len(piece) + factors.stat().st_size) as file,
        factors.open("rb") as spool,
    ):
        while piece:
            file.write(memoryview(piece))
            piece = spool.read(2**20)
    factors.unlink()
    return file.nbytes, file.sha256


def _read_back(staging: Path, base: Checkpoint, written: dict[str, Module]) -> None:
    """Opens the written folder like any adapter, and compares modules, orientations and scales."""
    targets = LoraVector(staging, base).targets
    read = {name: (target.a, target.transposed, target.scale) for name, target in targets.items()}
    wanted = {}
    for name, module in written.items():
        end = "embedding_A" if module.embedding else "A.weight"
        key = f"base_model.model.{module.path}.lora_{end}"
        wanted[name] = (key, module.transposed, 1.0)
    if read != wanted:
        raise ExportError(
            f"what was written to {staging} is not the adapter that was wanted. Please report this."
        )


def refuse_not_finite(name: str, value: Tensor) -> None:
    """Raises an ExportError if a delta, or a factor of it, has values that are not finite."""
    if not all_finite(value):
        advice = (
            "float16 ends at 65,504: choose float32 or bfloat16."
            if value.dtype == torch.float16
            else "Look for NaN or infinity in the inputs with `dem inspect`."
        )
        raise ExportError(
            f"{name}: values of its displacement are not finite. {advice} Nothing was exported."
        )


def file_dtype(named: str | None, base: Checkpoint, names: Sequence[str]) -> torch.dtype:
    """Returns the dtype of an adapter's file.

    Args:
        named: the wanted dtype's name; None for the widest working dtype of the tensors.
        base: Θ.
        names: the tensors of the adapter.

    Raises:
        RecipeError: for an unknown dtype.
    """
    if named is None:
        wide = any(working_dtype(dtype_of(base, name)) == torch.float64 for name in names)
        return torch.float64 if wide else torch.float32
    return DTYPES[check_dtype(named, "dtype")]
