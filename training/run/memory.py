"""Does a stage fit in memory? Asked before the first step, and answered with the numbers.

Weights, gradients and AdamW's two averages are float32 and counted exactly. Activations are measured on the model itself:
what autograd keeps of one row is a polynomial of second degree in the row's length (attention may keep a square), which
three short rows determine; a batch keeps that times its rows.

Measured on a CPU, a Llama of 1.9 million parameters and 64 rows of 250 tokens: estimated / taken 1.01, in bfloat16 0.99, with
checkpointing 1.10 and 1.23. That is what a step needs; see HEAP for what the process may grow to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from plumbing.units import size
from training.errors import TrainingError

PROBES = (8, 16, 32)
"""Lengths of the rows that are measured: they cost little beside one step."""

FLOAT = 4
"""Bytes of a float32."""

HEAP = 1.7
"""So many times what it needs a process on a CPU may grow to: glibc does not give freed pieces back at once (measured)."""


class Need(NamedTuple):
    """Bytes that training takes on one device."""

    weights: int
    gradients: int
    optimiser: int
    activations: int

    @property
    def total(self) -> int:
        """All of them: they are there at once when the backward pass begins."""
        return sum(self)

    def in_words(self) -> str:
        """For a message: "weights 7.9 MB, gradients 7.9 MB, optimiser 15.8 MB, activations 3.1 GB"."""
        return ", ".join(f"{name} {size(nbytes)}" for name, nbytes in self._asdict().items())


def estimate(
    model: Any, rows: int, length: int, *, bf16: bool, checkpointing: bool = False, shards: int = 1
) -> Need:
    """Bytes that a step takes at its peak.

    Args:
        model: a causal language model of transformers, in float32, with what is frozen frozen.
        rows: examples of a batch on one device.
        length: tokens of the longest row.
        bf16: whether the forward pass runs in bfloat16.
        checkpointing: whether activations are computed again in the backward pass.
        shards: over how many devices weights, gradients and averages are spread (FSDP); 1 keeps them whole.
    """
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    weights = sum(one.numel() * one.element_size() for one in model.parameters())
    kept = [activations(model, probe, bf16=bf16) for probe in PROBES]
    always, per_row = at(0, kept), at(length, kept) - at(0, kept)
    config = model.config.get_text_config()
    logits = FLOAT * length * config.vocab_size
    if checkpointing:  # the inputs of all layers, what one layer keeps, and the logits with what the loss keeps of them
        layers = config.num_hidden_layers
        per_row = (
            FLOAT * layers * length * config.hidden_size
            + per_row // layers
            + min(per_row, 3 * logits)
        )
    # In the backward pass the gradient of the logits stands beside them, in float32 and as the head's input takes it.
    return Need(
        -(-weights // shards),
        -(-FLOAT * trained // shards),
        -(-2 * FLOAT * trained // shards),
        always + rows * (per_row + 2 * logits),
    )


def at(length: int, bytes_at_probes: Sequence[int]) -> int:
    """The polynomial through the three probes, at a length (Lagrange's form). At 0: what does not grow with the row.

    >>> at(64, (8 + 64, 16 + 256, 32 + 1024))    # L + L²
    4160
    """
    total = 0.0
    for here, value in zip(PROBES, bytes_at_probes, strict=True):
        factor = 1.0
        for other in PROBES:
            factor *= (length - other) / (here - other) if other != here else 1.0
        total += value * factor
    return max(0, round(total))


def activations(model: Any, length: int, *, bf16: bool) -> int:
    """Bytes that autograd keeps of a forward pass of one row of `length` tokens.

    Weights are not counted. Random numbers that the pass draws are given back: a training gives the same bits with it.
    """
    import torch

    seen = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    sizes: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
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
        kept = model(
            input_ids=ids, labels=ids, use_cache=False
        )  # a pointer is one storage only while that is alive
    del kept
    return sum(sizes)


@contextmanager
def _training(model: Any) -> Iterator[None]:
    before = model.training
    model.train()
    try:
        yield
    finally:
        model.train(before)


def check(need: int, room: int, what: str, advice: str) -> None:
    """Refuses what cannot fit.

    Raises:
        TrainingError: names the bytes that are needed and those that are free.
    """
    if need > room:
        raise TrainingError(f"{what} takes about {size(need)}, and {size(room)} are free. {advice}")


def free(device: str) -> int:
    """Bytes that this process may still take on a device, with regard to a container's limit."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    import psutil

    return min([int(psutil.virtual_memory().available), *_left_in_group(Path("/sys/fs/cgroup"))])


def _left_in_group(folder: Path) -> list[int]:
    """What a control group of Linux (version 2) leaves; nothing where there is none, or no limit."""
    try:
        limit, used = (
            (folder / name).read_text().strip() for name in ("memory.max", "memory.current")
        )
        statistics = (folder / "memory.stat").read_text().splitlines()
    except OSError:
        return []
    if limit == "max":
        return []
    # Files that were read once are counted as used, and are given up when memory is short
    cached = sum(int(line.split()[1]) for line in statistics if line.startswith("inactive_file "))
    return [max(0, int(limit) - int(used) + cached)]


def weights_on_disk(folder: Path) -> int:
    """Bytes of a checkpoint's weights as float32, from the headers of its safetensors files; 0 where it has none."""
    import math

    from safetensors import safe_open

    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            total += sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118
    return FLOAT * total
