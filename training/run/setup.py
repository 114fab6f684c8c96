"""Prepares a Stage for its first step, and refuses a stage that cannot run."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from plumbing.units import size
from training.batching.order import Order, order
from training.errors import TrainingError
from training.packages import check_packages
from training.run import memory
from training.run.base import Base, Held, open_base
from training.run.cost import StageMeter
from training.run.encode import Data, encode_stage
from training.run.launch import is_sharded, process_count
from training.run.lora import add_adapter, check_start, set_adapter
from training.run.packing_check import check_packing
from training.run.shared import Shared
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


def set_up(stage: Stage, shared: Shared | None = None, *, trains: bool = True) -> StageSetup:
    """Loads the data and the model of a stage, and checks that they fit.

    The cheapest checks come first.

    Args:
        stage: the stage.
        shared: what it shares with other stages; nothing if None.
        trains: whether the model will be trained. Otherwise its weights remain as they are.

    Raises:
        TrainingError: the stage cannot be run on this base, on this device or in this memory.
        CorpusError: the base's tokenizer cannot write a chat.
    """
    import torch

    shared = Shared() if shared is None else shared
    base = open_base(stage.base)
    device, processes = choose_device(stage), process_count()
    check_packages(stage, device, sharded=is_sharded())
    _check_schedule(stage)
    if stage.adapter is not None:
        check_start(stage.adapter, stage)
    meter = StageMeter("training", device, processes)
    data = encode_stage(stage, base.tokenizer, base.config, shared)
    unchanged = stage.lora is not None or not trains
    model = shared.load(base, _held(stage, base, device), unchanged=unchanged)
    _set_attention(model, stage.attention)
    # Seeded after the loader, which may draw numbers, and before the random weights of an adapter.
    torch.manual_seed(stage.seed)
    # Before the adapter is added: patterns are written for the base's own parameter names.
    _freeze(model, stage.frozen)
    if stage.lora is not None:
        add_adapter(model, stage.lora)
    if stage.adapter is not None:
        set_adapter(model, stage.adapter)
    if stage.packing:
        check_packing(model, data.own)
    _check_memory(stage, model, data, device, processes)
    # After the check of memory: for a batch that is far too large, this list alone would not fit.
    own, rehearsed = ([len(row.ids) for row in rows] for rows in (data.own, data.rehearsed))
    batches = order(stage, own, rehearsed, data.groups, processes)
    return StageSetup(model, base.tokenizer, data, batches, device, processes, meter)


def choose_device(stage: Stage) -> str:
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


def _check_schedule(stage: Stage) -> None:
    """Refuses options that the schedule does not take, or lacks."""
    import torch
    from transformers import get_scheduler

    try:
        get_scheduler(
            stage.schedule if stage.schedule != "constant" else "constant_with_warmup",
            torch.optim.SGD([torch.zeros(1)], 1.0),
            num_warmup_steps=0,
            num_training_steps=stage.steps or 1000,
            scheduler_specific_kwargs=dict(stage.schedule_options),
        )
    except (TypeError, ValueError) as error:
        given = ", ".join(stage.schedule_options) or "none"
        raise TrainingError(
            f'schedule is "{stage.schedule}" with schedule_options {given}, which transformers '
            f"refuses: {error}. Give the options that it names, or another schedule."
        ) from None


def _held(stage: Stage, base: Base, device: str) -> Held:
    """Returns how the base's weights are held while the stage trains."""
    low = stage.lora is not None and memory.in_bfloat16(stage, device)
    if stage.base_dtype == "nf4":
        # Read onto the device that trains: 4-bit weights are not moved to another one.
        return Held("bfloat16" if low else "float32", four_bit=True, device=device)
    if stage.base_dtype != "auto":
        return Held(stage.base_dtype)
    return Held("bfloat16" if low and base.dtype == "bfloat16" else "float32")


def _set_attention(model: Any, name: str) -> None:
    """Chooses the implementation of attention."""
    if name == "auto":
        return
    try:
        model.set_attn_implementation(name)
    # ImportError for a package that is not installed, ValueError for a model that cannot use it.
    except (ImportError, ValueError) as error:
        raise TrainingError(
            f'attention is "{name}", which cannot be used here: {error} '
            'Give "sdpa", "eager" or "auto".'
        ) from None


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
    lengths = [len(row.ids) for row in data.all]
    need = memory.estimate(
        model,
        *memory.batch_shape(stage, lengths),
        bf16=memory.in_bfloat16(stage, device),
        checkpointing=stage.checkpointing,
        shards=processes if is_sharded() else 1,
        averages=memory.averages(stage.optimiser),
    )
    # On a CPU the weights are already loaded, and the processes of one machine share its memory.
    total = need.total
    if device == "cpu":
        total = (need.total - need.weights) * int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    room = memory.free_bytes(device)
    what = (
        f"a step of {stage.batch} examples of up to {max(lengths)} tokens ({need.in_words()}) "
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


def training_arguments(stage: Stage, batches: Order, folder: Path, device: str) -> Any:
    """Returns the TrainingArguments of a stage.

    Args:
        stage: the stage.
        batches: its batches.
        folder: where the trainer writes.
        device: "cpu", or an accelerator such as "cuda:0".
    """
    from transformers import TrainingArguments

    settings = TrainingArguments(
        output_dir=str(folder),
        max_steps=batches.steps,
        per_device_train_batch_size=stage.batch,
        gradient_accumulation_steps=stage.accumulation,
        learning_rate=stage.rate,
        # transformers' "constant" ignores the warm-up.
        lr_scheduler_type=stage.schedule
        if stage.schedule != "constant"
        else "constant_with_warmup",
        lr_scheduler_kwargs=dict(stage.schedule_options),
        # In steps: a share of 1 would be taken for one step.
        warmup_steps=round(stage.warmup * batches.steps),
        optim=stage.optimiser,
        weight_decay=stage.decay,
        adam_beta1=stage.beta1,
        adam_beta2=stage.beta2,
        max_grad_norm=stage.clip or 0.0,
        neftune_noise_alpha=stage.noise or None,
        seed=stage.seed,
        bf16=memory.in_bfloat16(stage, device),
        # Otherwise the Trainer logs an average in the place of a NaN loss, and a diverged run goes
        # on.
        logging_nan_inf_filter=False,
        # training.run.callback decides when to log, measure and save.
        logging_strategy="no",
        eval_strategy="no",
        save_strategy="no",
        report_to=[name for name in stage.report_to if name != "tensorboard"],
        run_name=folder.name.removesuffix(".training"),
        use_liger_kernel=stage.liger,
        disable_tqdm=True,
        dataloader_num_workers=0,
        # torch warns about pinned memory on a machine without an accelerator.
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        use_cpu=device == "cpu",
    )
    # With more, the Trainer would wrap the model in DataParallel, and one process would split each
    # batch over all devices that it sees.
    settings._n_gpu = min(settings.n_gpu, 1)
    return settings


def optimiser_and_schedule(
    stage: Stage, model: Any, batches: Order, device: str
) -> tuple[Any, Any]:
    """Returns what `finetune.run` would train a model with, for a loop that trains it itself.

    The model is moved to the device.

    Args:
        stage: the stage.
        model: its model, as `set_up` prepared it.
        batches: its batches; of these only the number of steps counts.
        device: "cpu", or an accelerator such as "cuda:0".

    Returns:
        The optimiser, whose decay spares biases and norms as that of transformers, and the
        schedule of its learning rate, to be stepped after each of its steps.
    """
    from transformers import Trainer

    with TemporaryDirectory() as folder:  # a Trainer makes its folder
        settings = training_arguments(stage, batches, Path(folder), device)
        trainer = Trainer(model=model, args=settings)
        trainer.create_optimizer_and_scheduler(batches.steps)
    return trainer.optimizer, trainer.lr_scheduler


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
