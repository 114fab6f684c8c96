"""A PEFT LoRA folder, written so that it appears whole, or not at all, as export() has it.

The scale is 1 (lora_alpha = r, for each module), so that ΔW = B·A as stored. Factors are written as they are computed:
first to a file of their own, since the header, which stands before them, holds ranks that are not known before.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from merging.dtypes import DTYPES, working_dtype
from merging.engine.low_rank import Product
from merging.errors import ExportError, RecipeError
from merging.inputs.checkpoint import Checkpoint, dtype_of
from merging.inputs.header import written_header
from merging.inputs.lora_vector import LoraVector
from merging.inputs.manifest import Manifest, Progress, verify
from merging.outputs.adapter_card import About, card
from merging.outputs.adapter_fit import Fit, TensorFit
from merging.outputs.export import CARD, RECIPE, all_finite
from merging.outputs.staging import staged, write_file, write_manifest
from merging.outputs.writer import Writer
from merging.paths import ADAPTER, WEIGHTS, exists
from merging.recipe import recipe_yaml

_FACTORS = ".factors"


class Module(NamedTuple):
    """Where PEFT puts two factors."""

    path: str
    """The module's name in the model."""
    transposed: bool
    """Whether the base's tensor holds (B·A)ᵀ: GPT-2's Conv1D, and every embedding."""
    embedding: bool = False


class AdapterPart(NamedTuple):
    """One tensor of an adapter, ready to be written."""

    module: Module
    product: Product
    """In the orientation of the base's tensor, in the dtype of the file; rank 0 is not written."""
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
    """Write an adapter of a base; see PEFT's documentation of LoraConfig for the keys.

    Args:
        out: the folder to make; it must not exist.
        base: Θ.
        parts: what to write; taken one by one, so that no two need be in memory.
        about: for the configuration and the card.
        nbytes: the most bytes of factors there can be, for the check of free space; 0 where it is not known.
        progress: called with 'verify' while the folder is read back. May raise to cancel.

    Returns:
        what it holds.

    Raises:
        RecipeError: when there is nothing to write, since nothing moves the base.
        ExportError: when there is no room, the target exists, a value is not finite, or what is read back differs.
            No folder named `out` is left, then or when the process is ended.
    """
    out = Path(out)
    with staged(out, 2 * nbytes) as staging:
        fit, written = _fill(staging, base, parts, about)
        verify(staging, progress, {WEIGHTS})
        _read_back(staging, base, written)
    return fit


def config_of(modules: dict[Module, int], base: Checkpoint, name: str) -> dict[str, Any]:
    """PEFT's configuration of an adapter whose scale is 1 everywhere.

    Args:
        modules: each with its rank.
        base: Θ.
        name: how the configuration names it; `org/name@revision` becomes two keys.
    """
    rank = max(modules.values())
    # A pattern is also tried behind any prefix, so that a whole name begins with ^.
    others = {f"^{module.path}": found for module, found in modules.items() if found != rank}
    place, _, revision = (name, "", "") if exists(Path(name)) else name.partition("@")
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_2_SEQ_LM" if base.config.get("is_encoder_decoder") else "CAUSAL_LM",
        "base_model_name_or_path": place,
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
        "alpha_pattern": others,
    }


def _fill(
    staging: Path, base: Checkpoint, parts: Iterable[AdapterPart], about: About
) -> tuple[Fit, dict[str, Module]]:
    """Every file of the folder; returns what was written: the base's name of each tensor -> its module."""
    stored: list[tuple[str, torch.dtype, tuple[int, ...]]] = []
    rows: list[TensorFit] = []
    written: dict[str, Module] = {}
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
            f"{about.title}: nothing moves the base's matrices, and an adapter of rank 0 cannot be written. "
            "Set an ω that is not 0, or give a checkpoint that differs from the base."
        )
    fit = Fit(tuple(rows), about.left_out)
    ranks = {written[row.name]: row.rank for row in rows if row.name in written}
    config = json.dumps(config_of(ranks, base, about.base), indent=2, ensure_ascii=False) + "\n"
    files = {
        WEIGHTS: _assemble(staging, stored, about),
        ADAPTER: write_file(staging / ADAPTER, config.encode()),
        CARD: write_file(staging / CARD, card(fit, base, about).encode(errors="replace")),
    }
    if about.recipe is not None:
        files[RECIPE] = write_file(staging / RECIPE, recipe_yaml(about.recipe).encode())
    manifest = Manifest(about.recipe.digest if about.recipe else "", dict(sorted(files.items())))
    write_manifest(staging, manifest)
    return fit, written


def _sides(part: AdapterPart) -> Iterator[tuple[str, Tensor]]:
    """PEFT's names of the two factors, and the factors as PEFT wants them: A (rank, in), B (out, rank)."""
    module, (left, right) = part.module, part.product
    a, b = (left.T, right.T) if module.transposed else (right, left)
    for side, value in (("A", a), ("B", b)):
        refuse_not_finite(part.row.name, value)
        end = f"lora_embedding_{side}" if module.embedding else f"lora_{side}.weight"
        yield f"base_model.model.{module.path}.{end}", value


def _assemble(
    staging: Path, stored: list[tuple[str, torch.dtype, tuple[int, ...]]], about: About
) -> tuple[int, str]:
    """The weights file: the header, then the factors that were written before; returns size and SHA-256."""
    metadata = {"format": "pt"}
    if about.recipe is not None:
        metadata |= {"dem_recipe": recipe_yaml(about.recipe), "dem_digest": about.recipe.digest}
    piece, factors = written_header(stored, metadata), staging / _FACTORS
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
    """Open what was written as any adapter is opened, and compare: modules, orientation, scale."""
    targets = LoraVector(staging, base).targets
    found = {name: (target.a, target.transposed, target.scale) for name, target in targets.items()}
    wanted = {
        name: (
            f"base_model.model.{module.path}.lora_{'embedding_A' if module.embedding else 'A.weight'}",
            module.transposed,
            1.0,
        )
        for name, module in written.items()
    }
    if found != wanted:
        raise ExportError(
            f"what was written to {staging} is not the adapter that was wanted. Please report this."
        )


def refuse_not_finite(name: str, value: Tensor) -> None:
    """Raise an ExportError for a delta, or a factor of it, with values that are not finite."""
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
    """The dtype of an adapter's file: the one named, else the working dtype of the widest of the base's tensors.

    Raises:
        RecipeError: for a dtype that there is not.
    """
    if named is None:
        wide = any(working_dtype(dtype_of(base, name)) == torch.float64 for name in names)
        return torch.float64 if wide else torch.float32
    if named not in DTYPES:
        raise RecipeError(f"dtype is {named!r}, expected one of {', '.join(DTYPES)}.")
    return DTYPES[named]
