"""Prepares a Stage for its first step, and refuses a stage that cannot run."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from typing import Any, NamedTuple

from plumbing.units import size
from training.batching.order import Order, order
from training.errors import TrainingError
from training.run import memory
from training.run.base import open_base
from training.run.cost import StageMeter
from training.run.encode import Data, encode_stage
from training.run.lora import add_adapter, check_start, set_adapter
from training.stage import Stage

log = logging.getLogger(__name__)


class StageSetup(NamedTuple):
    """Everything that the first step of a stage needs."""

    model: Any
    tokenizer: Any
    data: Data
    order: Order
    device: str
    processes: int
    meter: StageMeter
    """Measures the cost since the preparation began."""


def set_up(stage: Stage) -> StageSetup:
    """Loads the data and the model of a stage, and checks that they fit.

    The cheapest checks come first.

    Raises:
        TrainingError: the stage cannot be run on this base, on this device or in this memory.
        CorpusError: the base's tokenizer cannot write a chat.
    """
    import torch

    base = open_base(stage.base)
    if stage.adapter is not None:
        check_start(stage.adapter, stage)
    device, processes = _choose_device(stage), int(os.environ.get("WORLD_SIZE", 1))
    meter = StageMeter("training", device, processes)
    data = encode_stage(stage, base.tokenizer, base.config)
    # Before the base is loaded: the system would end the process without a message.
    memory.check(
        memory.FLOAT * base.weights.numel,
        memory.free_bytes("cpu"),
        f"the base in float32, {stage.base},",
        "Close other programs, or train a smaller base.",
    )
    model = base.load()
    # Seeded after the loader, which may draw numbers, and before the random weights of an adapter.
    torch.manual_seed(stage.seed)
    # Before the adapter is added: patterns are written for the base's own parameter names.
    _freeze(model, stage.frozen)
    if stage.lora is not None:
        add_adapter(model, stage.lora)
    if stage.adapter is not None:
        set_adapter(model, stage.adapter)
    _check_memory(stage, model, data, device, processes)
    # After the check of memory: for a batch that is far too large, this list alone would not fit.
    own, rehearsed = ([len(row.ids) for row in rows] for rows in (data.own, data.rehearsed))
    batches = order(stage, own, rehearsed, data.groups, processes)
    return StageSetup(model, base.tokenizer, data, batches, device, processes, meter)


def _choose_device(stage: Stage) -> str:
    """Returns "cpu" or the accelerator of this process, such as "cuda:0"."""
    import torch

    has_cuda = torch.cuda.is_available()
    if stage.device == "cuda" and not has_cuda:
        raise TrainingError(
            'device is "cuda", and torch finds no such device here. Set device="auto" or "cpu".'
        )
    if stage.device == "cpu" or not has_cuda:
        return "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}"


def _freeze(model: Any, patterns: tuple[str, ...]) -> None:
    """Freezes the parameters whose names match a pattern; each pattern must match one."""
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in names):
            raise TrainingError(
                f'frozen pattern "{pattern}" matches no parameter. Names look like {names[0]}.'
            )
    for name, parameter in model.named_parameters():
        if any(fnmatch(name, pattern) for pattern in patterns):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise TrainingError(
            f"the frozen patterns {', '.join(patterns)} leave nothing to train. Freeze less."
        )


def _check_memory(stage: Stage, model: Any, data: Data, device: str, processes: int) -> None:
    """Refuses a stage whose step does not fit in memory, and warns if it hardly fits."""
    longest = max(len(row.ids) for row in data.all)
    sharded = os.environ.get("ACCELERATE_USE_FSDP", "false") == "true"
    need = memory.estimate(
        model,
        stage.batch,
        longest,
        bf16=stage.precision == "bf16",
        checkpointing=stage.checkpointing,
        shards=processes if sharded else 1,
    )
    # On a CPU the weights are already loaded, and the processes of one machine share its memory.
    total = need.total
    if device == "cpu":
        total = (need.total - need.weights) * int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    room = memory.free_bytes(device)
    what = (
        f"a step of {stage.batch} examples of up to {longest} tokens ({need.in_words()}) "
        f"on {device}"
    )
    advice = (
        "Give a smaller batch with a larger accumulation, a smaller max_length, "
        "checkpointing=True, or a LoRA adapter."
    )
    memory.check(total, room, what, advice)
    if device == "cpu" and memory.HEAP * total > room:
        log.warning(
            "%s takes about %s, and %s are free: it fits, but the system gets freed memory back "
            "late, and the process may grow to %s. If the system ends the process: %s",
            *(what, size(total), size(room), size(round(memory.HEAP * total)), advice),
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Hides the progress bars that transformers draws for each file; `progress` reports instead."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()
