"""A Stage -> all that its first step needs; what cannot be run is refused here, with the numbers."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from plumbing.units import size
from training.batching.order import Order, order
from training.errors import TrainingError
from training.run import memory
from training.run.cost import StageMeter
from training.run.encode import Data, encoded
from training.run.lora import add_adapter, check_start, set_adapter
from training.stage import Stage

log = logging.getLogger(__name__)


class StageSetup(NamedTuple):
    """A stage that can begin."""

    model: Any
    tokenizer: Any
    data: Data
    order: Order
    device: str
    processes: int
    meter: StageMeter
    """Runs since the preparation began."""


def make_ready(stage: Stage) -> StageSetup:
    """Makes a stage ready; everything that can be refused is, in the order of what it costs to find out.

    Raises:
        TrainingError: the stage cannot be run on this base, on this device or in this memory.
        CorpusError: a chat that the base's tokenizer cannot write.
    """
    import torch
    from transformers import AutoConfig, AutoTokenizer

    _check_base(stage.base)
    if stage.adapter is not None:
        check_start(stage.adapter, stage)
    device, processes = _device(stage), int(os.environ.get("WORLD_SIZE", 1))
    meter = StageMeter("training", device, processes)
    tokenizer = AutoTokenizer.from_pretrained(stage.base, trust_remote_code=False)
    config = AutoConfig.from_pretrained(stage.base, trust_remote_code=False)
    data = encoded(stage, tokenizer, config)
    memory.check(
        memory.weights_on_disk(stage.base),
        memory.free("cpu"),
        f"the base in float32, {stage.base},",
        "Close other programs, or train a smaller base.",
    )
    torch.manual_seed(stage.seed)
    model = _load(stage.base)
    _freeze(model, stage.frozen)
    if stage.lora is not None:
        add_adapter(model, stage.lora)
    if stage.adapter is not None:
        set_adapter(model, stage.adapter)
    _check_memory(stage, model, data, device, processes)
    # After the memory: of a batch that is far too large, the list alone would not fit
    own, rehearsed = ([len(row.ids) for row in rows] for rows in (data.own, data.rehearsed))
    batches = order(stage, own, rehearsed, data.groups, processes)
    return StageSetup(model, tokenizer, data, batches, device, processes, meter)


def _check_base(base: Path) -> None:
    if not (base / "config.json").is_file():
        what = (
            "is a LoRA adapter"
            if (base / "adapter_config.json").is_file()
            else "is no folder with a config.json"
        )
        raise TrainingError(
            f"{base}: {what}; expected a whole checkpoint with its tokenizer. To go on training an adapter, "
            "give its base, and the adapter as adapter. Or merge it into its base first, with `dem merge`."
        )


def _device(stage: Stage) -> str:
    import torch

    there = torch.cuda.is_available()
    if stage.device == "cuda" and not there:
        raise TrainingError(
            'device is "cuda", and torch finds no such device here. Set device="auto" or "cpu".'
        )
    if stage.device == "cpu" or not there:
        return "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}"


def _load(base: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    model, found = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
    )
    if missing := sorted(found["missing_keys"]):
        raise TrainingError(
            f"{base}: {len(missing)} weights of the model are in no file, for example {missing[0]}; they would begin "
            "as random numbers. Give the whole checkpoint."
        )
    return model


def _freeze(model: Any, patterns: tuple[str, ...]) -> None:
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
    # On a CPU the weights are there already, and the processes of one machine share its memory
    total = need.total
    if device == "cpu":
        total = (need.total - need.weights) * int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    room = memory.free(device)
    what = f"a step of {stage.batch} examples of up to {longest} tokens ({need.in_words()}) on {device}"
    advice = "Give a smaller batch with a larger accumulation, a smaller max_length, checkpointing=True, or a LoRA adapter."
    memory.check(total, room, what, advice)
    if device == "cpu" and memory.HEAP * total > room:
        log.warning(
            "%s takes about %s, and %s are free: it fits, but freed memory is given back late, and the process may grow "
            "to %s. If the system ends it: %s",
            *(what, size(total), size(room), size(round(memory.HEAP * total)), advice),
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Without the bars that transformers draws for each file: `progress` is the report."""
    from transformers.utils import logging

    drawn = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if drawn:
            logging.enable_progress_bar()
