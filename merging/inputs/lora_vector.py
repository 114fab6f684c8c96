"""A PEFT LoRA folder as a distribution vector: ΔW = s·B·A per tensor, exact, and never materialised whole.

s is alpha/r, or alpha/√r with rsLoRA (Hu et al. 2021, arXiv 2106.09685; Kalajdzievski 2023, arXiv 2312.03732).
Whatever is not this formula is refused by name: guessing would give a model that looks right and is not.
"""

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from merging.dtypes import QUANTISED, working_dtype
from merging.errors import CheckpointError, MismatchError
from merging.inputs.checkpoint import Checkpoint, Weights, dtype_of, in_memory, read_block, shape_of
from merging.inputs.header import read_json
from merging.inputs.vector import Vector
from merging.paths import ADAPTER, WEIGHTS
from plumbing.suggest import listed, nearest

# A product of rows is computed in chunks of this many elements that always begin at the same rows, so that a delta has
# the same bits whichever block of it is asked for: a matrix product of other rows may round differently.
CHUNK = 2**18


_KEY = re.compile(
    r"base_model\.model\.(?P<module>.+)\.lora_(?P<kind>embedding_)?(?P<side>[AB])(\.weight)?"
)


# Module names, or simple expressions such as layers\.\d+\.q_proj. PEFT takes any expression, but one from a stranger's
# file can be made to run for years; it takes groups or many repetitions to do so.
_PATTERN = re.compile(r"(?=.{1,200}\Z)(?!(.*[*+]){3})\^?((\w|\\[.d]|[.-])[*+]?)+")


# What each of these adds to s·B·A, for the message.
_REFUSED: dict[str, str] = {
    "use_dora": "DoRA rescales each column of the weights",
    "lora_bias": "a trained bias on B is not part of s·B·A",
    "modules_to_save": "whole modules were trained beside the adapter",
    "trainable_token_indices": "single token rows were trained beside the adapter",
    "layer_replication": "layers were copied before training",
    "target_parameters": "parameters were adapted outside linear layers",
    "alora_invocation_tokens": "the adapter switches on inside a sequence",
    "use_qalora": "QALoRA pools its input",
    "use_bdlora": "block-diagonal LoRA stores blocks",
    "arrow_config": "Arrow routes between adapters",
    "kasa_config": "KaSA truncates the base's weights",
    "megatron_config": "its layers were Megatron's, which split their weights over devices",
}


_PLAIN_STARTS = (None, True, False, "gaussian", "orthogonal", "eva", "mica")


class Factors(NamedTuple):
    """ΔW = scale · left @ right, in the orientation of the base's tensor."""

    left: Tensor
    """(rows, rank), float32."""
    right: Tensor
    """(rank, columns), float32."""
    scale: float


class Target(NamedTuple):
    """Where an adapter's file holds the change of one tensor of the base."""

    a: str
    """The file's name of A, (rank, in)."""
    b: str
    """The file's name of B, (out, rank)."""
    scale: float
    transposed: bool
    """Whether the base's tensor is (in, out), as GPT-2's Conv1D and every embedding are: it gets (B·A)ᵀ."""


class LoraVector(Vector):
    """One adapter on one base.

    Args:
        path: the folder with adapter_config.json and adapter_model.safetensors.
        base: the weights that it was trained on.
        name: how sliders, recipes and tables call it; the folder's name if not given.

    Raises:
        CheckpointError: for a folder that is no LoRA adapter, or one of a kind that is not s·B·A.
        MismatchError: when its tensors do not fit the base.
    """

    def __init__(self, path: str | Path, base: Weights, name: str | None = None) -> None:
        self.path = Path(path)
        self.name = name or self.path.resolve().name
        self.base = base
        config, stored = read_adapter(self.path)
        scaling = {
            key: config.get(key)
            for key in ("r", "lora_alpha", "use_rslora", "alpha_pattern", "fan_in_fan_out")
        }
        self.digest = hashlib.sha256(f"{stored.digest} {scaling}".encode()).hexdigest()
        self.identity = stored.identity
        self.stored: Weights = stored
        self.targets: Mapping[str, Target] = _resolve(
            f"{self.name} ({self.path})", config, stored, base
        )
        """Each tensor of the base that it changes, in the base's order."""
        self.rank = max(shape_of(stored, target.a)[0] for target in self.targets.values())
        self._latest: tuple[str, Factors] | None = None
        self._chunk: tuple[str, int, Tensor] | None = None

    def hold_in_memory(self) -> None:
        """Read the factors once and keep them in RAM."""
        self.stored = in_memory(self.stored)

    def __getitem__(self, name: str) -> Tensor:
        shape = shape_of(self.base, name)
        return self.block(name, 0, math.prod(shape)).view(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.targets)

    def __contains__(self, name: object) -> bool:
        return name in self.targets  # the mapping's own would read the tensor to find out

    def __len__(self) -> int:
        return len(self.targets)

    def factors(self, name: str) -> Factors:
        """The two factors of one delta, in the orientation of the base's tensor."""
        latest = self._latest  # read once: another thread may put its own there
        if latest is None or latest[0] != name:
            target = self.targets[name]
            dtype = working_dtype(dtype_of(self.base, name))
            a, b = self.stored[target.a].to(dtype), self.stored[target.b].to(dtype)
            left, right = (a.T.contiguous(), b.T.contiguous()) if target.transposed else (b, a)
            latest = self._latest = (name, Factors(left, right, target.scale))
        return latest[1]

    def block(self, name: str, start: int, stop: int) -> Tensor:
        """Elements of (B·A)·s, as PEFT's get_delta_weight orders the two products."""
        factors = self.factors(name)
        columns = factors.right.shape[1]
        rows = max(1, CHUNK // columns)
        size = rows * columns
        out = torch.empty(stop - start, dtype=factors.left.dtype)
        for number in range(start // size, -(-stop // size)):
            chunk = self._product(name, factors, number, rows)
            low, high = max(start, number * size), min(stop, (number + 1) * size)
            out[low - start : high - start] = chunk[low - number * size : high - number * size]
        return out

    def _product(self, name: str, factors: Factors, number: int, rows: int) -> Tensor:
        latest = self._chunk
        if latest is None or latest[:2] != (name, number):
            product = factors.left[number * rows : (number + 1) * rows] @ factors.right
            latest = self._chunk = (name, number, product.mul_(factors.scale).reshape(-1))
        return latest[2]

    def weights_block(self, name: str, start: int, stop: int) -> Tensor:
        """Elements of Θ + ΔW in the working dtype."""
        base = read_block(self.base, name, start, stop).to(
            working_dtype(dtype_of(self.base, name)), copy=True
        )
        return base.add_(self.block(name, start, stop)) if name in self.targets else base


def read_adapter(path: Path) -> tuple[dict[str, Any], Checkpoint]:
    """An adapter's configuration and factors, whatever its base.

    Raises:
        CheckpointError: for a folder that is no LoRA adapter, or one of a kind that is not s·B·A.
    """
    config = _config(path)
    if not (path / WEIGHTS).exists() and (path / "adapter_model.bin").exists():
        raise CheckpointError(
            f"{path} holds adapter_model.bin, a pickle that can run code when opened; only {WEIGHTS} is read. "
            "Load the adapter with peft where you trust it and save it again."
        )
    return config, Checkpoint(path, file=WEIGHTS)


def _config(path: Path) -> dict[str, Any]:
    config = read_json(path / ADAPTER)
    if not isinstance(config, dict):
        raise CheckpointError(f"{path / ADAPTER} holds no JSON object.")
    if config.get("peft_type") != "LORA":
        raise CheckpointError(
            f"{path} is a {config.get('peft_type')} adapter; only LORA adapters are sums of low-rank products. "
            "Merge it into its base with peft and add the result as a full checkpoint."
        )
    for key, reason in _REFUSED.items():
        if config.get(key):
            raise CheckpointError(
                f"{path / ADAPTER}: {key} is set: {reason}. Only plain LoRA and rsLoRA are read; merge it into its "
                "base with peft's merge_and_unload and add the result as a full checkpoint."
            )
    if config.get("bias", "none") != "none":
        raise CheckpointError(
            f"{path / ADAPTER}: bias is {config['bias']!r}: biases were trained beside the adapter. Merge it into its "
            "base with peft's merge_and_unload and add the result as a full checkpoint."
        )
    start = config.get("init_lora_weights")
    if start not in _PLAIN_STARTS:
        raise CheckpointError(
            f"{path / ADAPTER}: init_lora_weights is {start!r}, which changes the base's weights before training, so "
            "that s·B·A is not the difference from the base. Convert it with peft's save_pretrained("
            "path_initial_model_for_weight_conversion=...) first."
        )
    return config


def _resolve(
    where: str, config: dict[str, Any], stored: Checkpoint, base: Weights
) -> dict[str, Target]:
    """For each tensor of the base that the adapter changes, its factors and scale."""
    pairs: dict[tuple[str, bool], dict[str, str]] = {}
    strange = []
    for key in stored:
        match = _KEY.fullmatch(key)
        if match is None:
            strange.append(key)
        else:
            pairs.setdefault((match["module"], bool(match["kind"])), {})[match["side"]] = key
    if strange or not pairs:
        raise CheckpointError(
            f"{where}: {listed(strange) if strange else 'no tensor'} is not a factor A or B of a LoRA product. "
            "Merge the adapter into its base with peft's merge_and_unload and add the result as a full checkpoint."
        )
    targets: dict[str, Target] = {}
    linear = []
    for (module, embedding), sides in pairs.items():
        if set(sides) != {"A", "B"}:
            raise CheckpointError(
                f"{where}: {module} has only {' '.join(sides.values())}; its other factor is missing."
            )
        name = _base_name(where, module, base)
        if name in targets:
            raise CheckpointError(f"{where}: two adapted modules stand for the base's {name!r}.")
        stored_as = dtype_of(base, name)
        if not stored_as.is_floating_point or stored_as in QUANTISED:
            raise MismatchError(
                f"{where}: the base holds {name!r} as {str(stored_as).removeprefix('torch.')}: quantised weights cannot "
                "be merged. Give the full-precision model as the base."
            )
        targets[name] = _target(
            where, config, (module, embedding), sides, (name, shape_of(base, name)), stored
        )
        linear += [] if embedding else [name]
    _same_orientation(
        where, {name: (shape_of(base, name), targets[name].transposed) for name in linear}
    )
    return {name: targets[name] for name in base if name in targets}


def _same_orientation(where: str, linear: Mapping[str, tuple[tuple[int, ...], bool]]) -> None:
    """Refuse square matrices that the flag turns otherwise than the others stand: their orientation cannot be known."""
    square = [name for name, (shape, _) in linear.items() if shape[0] == shape[1]]
    ways = {transposed for _, transposed in linear.values()}
    if square and len(ways) > 1:
        raise MismatchError(
            f"{where}: its matrices stand both ways ({ADAPTER}: fan_in_fan_out fits some only), so that of "
            f"{listed(square, 3)}, which are square, it cannot be known. Merge the adapter into its base with peft's "
            "merge_and_unload and add the result as a full checkpoint."
        )


def _base_name(where: str, module: str, base: Weights) -> str:
    """The base's name of a module's weight: the same, or the same but for a prefix that one of the two lacks."""
    wanted = f"{module}.weight"
    if wanted in base:
        return wanted
    near = [name for name in base if wanted.endswith(f".{name}") or name.endswith(f".{wanted}")]
    if len(near) == 1:
        return near[0]
    raise MismatchError(
        f"{where}: it adapts {module!r}, and the base has no tensor {wanted!r}; {nearest(wanted, list(base))} "
        "It was trained on another base, or on weights that the base stores otherwise (tied or fused)."
    )


def _target(
    where: str,
    config: dict[str, Any],
    module: tuple[str, bool],
    sides: dict[str, str],
    base: tuple[str, tuple[int, ...]],
    stored: Checkpoint,
) -> Target:
    (path, embedding), (name, shape) = module, base
    a, b = stored.info(sides["A"]), stored.info(sides["B"])
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
        raise CheckpointError(
            f"{where}: {path}: A is {list(a.shape)} and B is {list(b.shape)}; B·A has no product."
        )
    if not (a.dtype.is_floating_point and b.dtype.is_floating_point) or {a.dtype, b.dtype} & set(
        QUANTISED
    ):
        raise CheckpointError(
            f"{where}: {sides['A']} is stored as {a.dtype}, {sides['B']} as {b.dtype}; quantised adapters cannot be merged."
        )
    product = (b.shape[0], a.shape[1])
    if shape not in (product, product[::-1]):
        raise MismatchError(
            f"{where}: B·A of {path} has shape {list(product)}, and the base's {name!r} has {list(shape)}. "
            "The adapter was trained on another base."
        )
    # GPT-2's Conv1D stores (in, out), and an embedding stores (tokens, width): the product stands transposed there.
    square = product == product[::-1]
    transposed = (embedding or bool(config.get("fan_in_fan_out"))) if square else product != shape
    return Target(sides["A"], sides["B"], _scale(where, config, path, a.shape[0]), transposed)


def _scale(where: str, config: dict[str, Any], module: str, rank: int) -> float:
    """Alpha over r (or √r), with alpha from the first pattern that ends the module's path, as PEFT chooses it."""
    alpha = config.get("lora_alpha")
    patterns = config.get("alpha_pattern") or {}
    if not (
        isinstance(patterns, dict) and all(_PATTERN.fullmatch(pattern) for pattern in patterns)
    ):
        raise CheckpointError(
            f"{where}: {ADAPTER}: alpha_pattern is {str(patterns)[:200]}, expected module names."
        )
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = value
            break
    if not (isinstance(alpha, int | float) and abs(alpha) < 1e30 and rank > 0):
        raise CheckpointError(
            f"{where}: {ADAPTER}: lora_alpha is {str(alpha)[:80]}, expected a finite number."
        )
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)
