"""Estimates the memory of a training step before the first step, and refuses what does not fit.

Weights, gradients and AdamW's two averages are float32 and counted exactly. Activations are
measured on the model itself. The bytes that autograd keeps for one row are a polynomial of second
degree in the row's length, because attention may keep a square. Three short rows determine it. A
batch keeps that many bytes for each of its rows.

Accuracy, measured on a CPU with a Llama of 1.9 million parameters and 64 rows of 250 tokens:
estimated / used is 1.01 in float32 and 0.99 in bfloat16, and with checkpointing 1.10 and 1.23. This
is the need of a step; HEAP says how much larger the process may grow.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from plumbing.units import size
from training.errors import TrainingError
from training.stage import Stage

PROBES = (8, 16, 32)
"""Lengths in tokens of the rows that are measured; their cost is small compared with one step."""

FLOAT = 4
"""Bytes of a float32."""

HEAP = 1.7
"""A process on a CPU may grow to this many times its need (measured).

The reason is that glibc does not return freed memory to the system at once.
"""


class Need(NamedTuple):
    """The memory that a training step needs on one device, in bytes."""

    weights: int
    gradients: int
    optimiser: int
    activations: int

    @property
    def total(self) -> int:
        """The sum; all parts are in memory at once when the backward pass begins."""
        return sum(self)

    def in_words(self) -> str:
        """Returns the parts for a message: "weights 7.9 MB, gradients 7.9 MB, ..."."""
        return ", ".join(f"{name} {size(nbytes)}" for name, nbytes in self._asdict().items())


def estimate(
    model: Any,
    rows: int,
    length: int,
    *,
    bf16: bool,
    checkpointing: bool = False,
    shards: int = 1,
    averages: float = 8,
) -> Need:
    """Estimates the bytes that a step needs at its peak.

    Args:
        model: a causal language model of transformers, with everything frozen that is not trained.
        rows: number of examples of a batch on one device.
        length: number of tokens of the longest row.
        bf16: whether the forward pass runs in bfloat16.
        checkpointing: whether activations are computed again in the backward pass.
        shards: number of devices over which FSDP splits weights, gradients and averages; 1 if
            every device holds all of them.
        averages: bytes that the optimiser keeps for each trained weight; see `averages`.
    """
    trained = sum(tensor.numel() for tensor in model.parameters() if tensor.requires_grad)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
    kept = [activations(model, probe, bf16=bf16) for probe in PROBES]
    # What does not depend on the length is counted once: autocast keeps a bfloat16 copy of every
    # weight, whatever the number of rows.
    always, per_row = interpolate(0, kept), interpolate(length, kept) - interpolate(0, kept)
    config = model.config.get_text_config()
    logits = FLOAT * length * config.vocab_size
    if checkpointing:
        # Kept: the inputs of all layers, the activations of the one layer that is computed again,
        # and the logits with what the loss keeps of them.
        layers = config.num_hidden_layers
        per_row = (
            FLOAT * layers * length * config.hidden_size
            + per_row // layers
            + min(per_row, 3 * logits)
        )
    # The backward pass adds the gradient of the logits twice: in float32, and in the dtype that the
    # output layer takes.
    return Need(
        -(-weights // shards),
        -(-FLOAT * trained // shards),
        -(-round(averages * trained) // shards),
        always + rows * (per_row + 2 * logits),
    )


def batch_shape(stage: Stage, lengths: Sequence[int]) -> tuple[int, int]:
    """Returns the number of rows of the largest batch, and the number of tokens of its longest row.

    Args:
        stage: the stage.
        lengths: numbers of tokens of its examples.
    """
    if stage.packing and stage.attention == "flash_attention_2":
        # One row of a batch: at most its longest examples together.
        return 1, sum(heapq.nlargest(stage.batch, lengths))
    return stage.batch, max(lengths)


def averages(optimiser: str) -> float:
    """Returns the bytes that an optimiser keeps for each trained weight.

    Those of bitsandbytes that are paged move to the CPU when a device is full, and are counted.
    """
    kept = {"sgd": 0, "adafactor": 0, "adagrad": 1, "rmsprop": 1, "ademamix": 3}
    base = optimiser.removeprefix("paged_").removesuffix("_8bit").removesuffix("_32bit")
    number = 1 if base == "lion" else kept.get(base, 2)
    return number * (1 if optimiser.endswith("8bit") else FLOAT)


def interpolate(length: int, bytes_at_probes: Sequence[int]) -> int:
    """Evaluates the polynomial through the three probes at a length, in Lagrange's form.

    Args:
        length: number of tokens. 0 gives the bytes that do not depend on the length.
        bytes_at_probes: the bytes at each length of PROBES.

    Returns:
        Bytes, 0 or more.

    >>> interpolate(64, (8 + 64, 16 + 256, 32 + 1024))    # L + L²
    4160
    """
    total = 0.0
    for probe, value in zip(PROBES, bytes_at_probes, strict=True):
        factor = 1.0
        for other in PROBES:
            factor *= (length - other) / (probe - other) if other != probe else 1.0
        total += value * factor
    return max(0, round(total))


def activations(model: Any, length: int, *, bf16: bool) -> int:
    """Measures the bytes that autograd keeps for a forward pass of one row of `length` tokens.

    Weights are not counted. The state of the random number generator is restored, so a training
    gives the same bits with and without this measurement.
    """
    import torch

    # Many kept tensors are views of one storage, which takes its memory only once.
    counted = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    sizes: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in counted:
            counted.add(storage.data_ptr())
            sizes.append(storage.nbytes())
        return tensor

    device = next(model.parameters()).device
    ids = torch.zeros((1, length), dtype=torch.long, device=device)
    with (
        torch.random.fork_rng(),
        _training(model),
        torch.autocast(device.type, torch.bfloat16, enabled=bf16),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        # The output keeps every storage alive; a pointer could otherwise be used a second time.
        output = model(input_ids=ids, labels=ids, use_cache=False)
    del output
    return sum(sizes)


@contextmanager
def _training(model: Any) -> Iterator[None]:
    """Sets a model to training mode, and back at the end."""
    before = model.training
    model.train()
    try:
        yield
    finally:
        model.train(before)


def check(need: int, room: int, what: str, advice: str) -> None:
    """Refuses what does not fit in memory.

    Args:
        need: bytes that are needed.
        room: bytes that are free.
        what: what needs them, for the message.
        advice: the next step, for the message.

    Raises:
        TrainingError: `need` is larger than `room`; the message gives both.
    """
    if need > room:
        raise TrainingError(f"{what} takes about {size(need)}, and {size(room)} are free. {advice}")


def free_bytes(device: str) -> int:
    """Returns the bytes that this process can still allocate on a device.

    A container's limit is taken into account.

    Args:
        device: "cpu", or an accelerator such as "cuda:0".
    """
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    import psutil

    return min([int(psutil.virtual_memory().available), *_left_in_group(Path("/sys/fs/cgroup"))])


def _left_in_group(folder: Path) -> list[int]:
    """Returns the bytes that a Linux control group (version 2) leaves.

    The list is empty if there is no control group, or if it has no limit.
    """
    try:
        limit, used = (
            (folder / name).read_text().strip() for name in ("memory.max", "memory.current")
        )
        statistics = (folder / "memory.stat").read_text().splitlines()
    except OSError:
        return []
    if limit == "max":
        return []
    # The page cache of files counts as used, but the system frees it when memory is short.
    cached = sum(int(line.split()[1]) for line in statistics if line.startswith("inactive_file "))
    return [max(0, int(limit) - int(used) + cached)]


def computes_slowly(device: str) -> bool:
    """Returns whether products in bfloat16 run in a plain loop, for want of instructions.

    `python -m benchmarks.half_training` measures what that costs: 5 to 20 times the time.

    Args:
        device: the device of a stage, "auto", "cpu" or "cuda".
    """
    import torch

    on_cpu = device == "cpu" or (device == "auto" and not torch.cuda.is_available())
    return on_cpu and not torch.ops.mkldnn._is_mkldnn_bf16_supported()


def in_bfloat16(stage: Stage, device: str) -> bool:
    """Returns whether a stage computes in bfloat16 on a device; it computes in float32 otherwise.

    Where products in bfloat16 would be slow, only a base that was asked to be held in it makes a
    stage compute in it.

    Args:
        stage: the stage.
        device: where it trains; see `computes_slowly`.
    """
    if stage.precision == "fp32":
        return False
    return stage.base_dtype == "bfloat16" or not computes_slowly(device)


def weights_on_disk(folder: Path) -> int:
    """Returns the bytes of a checkpoint's weights as float32; 0 if the folder holds no checkpoint.

    Only the headers of the files are read.
    """
    from merging.errors import CheckpointError
    from merging.inputs.checkpoint import Checkpoint

    try:
        return FLOAT * Checkpoint(folder).numel
    # Asked of the folder of an earlier training, which may be gone or hold something else now.
    except CheckpointError:
        return 0
