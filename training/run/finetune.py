"""One Stage of fine-tuning -> one checkpoint folder: the only door to the trainer."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from corpus.counts import Counts
from training.batching.order import Order
from training.errors import TrainingError, TrainingStopped
from training.run import record
from training.run.cost import Spent
from training.run.lora import tidy_adapter
from training.run.record import CurvePoint
from training.run.saved_state import State, write_json
from training.run.setup import StageSetup, make_ready, quiet
from training.stage import Lora, Stage

if TYPE_CHECKING:
    from training.run.trainer import StageTrainer

__all__ = [
    "CurvePoint",
    "Lora",
    "Progress",
    "Stage",
    "Trained",
    "TrainingError",
    "TrainingStopped",
    "quiet",
    "run",
]


Progress = Callable[[int, int, float], None]
"""Called with steps done, steps in all, and the last training loss."""


class Trained(NamedTuple):
    """A checkpoint that was made."""

    folder: Path
    spent: Spent
    """The cost of the whole run, breaks not counted."""
    curve: tuple[CurvePoint, ...]
    counts: dict[str, Counts]
    """By "examples", "replay" and "validation/<name>": what was used and what was left out."""


def run(
    stage: Stage,
    out: Path,
    progress: Progress | None = None,
    *,
    resume: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    on_log: Callable[[CurvePoint], None] | None = None,
) -> Trained:
    """Trains the stage and writes its checkpoint, or its adapter, to the folder `out`, which must not exist yet.

    Full fine-tuning writes what save_pretrained writes; LoRA writes a PEFT folder whose base path is stage.base as given.
    Beside the weights, training.json says what is needed to repeat the run. The folder appears whole or not at all.

    The state of a run that is not finished is in <out>.training. A run that was stopped or killed and goes on from there
    gives the same weights, bit for bit on a CPU, as one without a break. Started by `accelerate launch`, every process
    calls this with the same stage; the main one writes and reports.

    Args:
        stage: what to train.
        out: the folder to make.
        progress: see Progress.
        resume: go on with an unfinished run of the same stage; where there is none, begin.
        should_stop: asked after every step; True saves the state and ends the run.
        on_log: called with each point of the curve, as it is known.

    Raises:
        TrainingError: `out` exists, the stage cannot be run on this base or in this memory, or the unfinished run is
            another one; all before the first step. Later only when the loss is not a number any more.
        Stopped: should_stop said so.
        CorpusError: a chat that the base's tokenizer cannot write.
    """
    if out.exists():
        raise TrainingError(f"{out}: exists already. Give a new folder; nothing is overwritten.")
    with quiet():
        ready = make_ready(stage)
        before = State(out).open(_run_facts(stage, ready.processes), resume=resume)

        def on_point(point: CurvePoint, steps: int) -> None:
            if progress is not None and point.loss is not None:
                progress(point.step, steps, point.loss)
            if on_log is not None:
                on_log(point)

        return _train(stage, out, ready, before, on_point, should_stop)


def _run_facts(stage: Stage, processes: int) -> dict[str, Any]:
    """What must be the same for an unfinished run to go on."""
    settings = record.settings(stage)
    del settings["save_every"]
    start = {"base": record.identity(stage.base)}
    if stage.adapter is not None:
        start["adapter"] = record.identity(stage.adapter)
    return settings | record.digests(stage) | start | {"processes": processes}


def _train(
    stage: Stage,
    out: Path,
    ready: StageSetup,
    before: Path | None,
    on_point: Callable[[CurvePoint, int], None],
    should_stop: Callable[[], bool],
) -> Trained:
    from training.run.context import Hooks, RunContext
    from training.run.trainer import StageTrainer

    model, state = ready.model, State(out)
    cached = model.config.use_cache
    pad = ready.tokenizer.pad_token_id
    parts = RunContext(
        stage,
        ready.data,
        ready.order,
        0 if pad is None else pad,
        state,
        ready.meter,
        state.spent(before, "training"),
    )
    if stage.checkpointing:
        # transformers before 5.20 knows the older name only, and later ones warn of it
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    settings = _arguments(stage, ready.order, state.folder, ready.device)
    trainer = StageTrainer(parts, Hooks(on_point, should_stop), model, settings)
    trainer.train(resume_from_checkpoint=str(before) if before else None)
    if trainer.stopped:
        raise TrainingStopped(
            f"stopped after step {trainer.state.global_step} of {ready.order.steps}; the state is saved in "
            f"{state.folder}. resume=True goes on from there."
        )
    model.config.use_cache = (
        cached  # the trainer turned it off, and the saved model would generate without its cache
    )
    return _write(trainer, ready, out)


def _arguments(stage: Stage, batches: Order, folder: Path, device: str) -> Any:
    from transformers import TrainingArguments

    settings = TrainingArguments(
        output_dir=str(folder),
        max_steps=batches.steps,
        per_device_train_batch_size=stage.batch,
        gradient_accumulation_steps=stage.accumulation,
        learning_rate=stage.rate,
        lr_scheduler_type=stage.schedule
        if stage.schedule != "constant"
        else "constant_with_warmup",
        warmup_steps=round(stage.warmup * batches.steps),
        weight_decay=stage.decay,
        adam_beta2=stage.beta2,
        seed=stage.seed,
        bf16=stage.precision == "bf16",
        logging_nan_inf_filter=False,
        # When to log, measure and save is training.run.callback's to say
        logging_strategy="no",
        eval_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        use_cpu=device == "cpu",
    )
    settings._n_gpu = min(
        settings.n_gpu, 1
    )  # else one process would deal each batch to all devices that it sees
    return settings


def _write(trainer: StageTrainer, ready: StageSetup, out: Path) -> Trained:
    """The checkpoint, by the main process; the others wait."""
    import torch

    run, model = trainer.run, trainer.accelerator.unwrap_model(trainer.model)
    stage, best = run.stage, trainer.state.best_global_step if run.stage.keep == "best" else None
    weights = trainer.final(best)
    if stage.save_dtype == "bfloat16":
        model.to(torch.bfloat16)
    curve, spent = record.curve(trainer.state.log_history), trainer.spent()
    if trainer.args.should_save:
        staged = out.with_name(out.name + ".partial")
        shutil.rmtree(staged, ignore_errors=True)
        model.save_pretrained(staged, state_dict=weights)
        ready.tokenizer.save_pretrained(staged)
        if stage.lora is not None:
            tidy_adapter(staged, stage.base_name or stage.base.as_posix())
        document = record.document(
            stage, ready.data.counts, spent, curve, best or ready.order.steps
        )
        write_json(staged / record.NAME, document)
        staged.rename(out)
        run.state.remove()
    trainer.accelerator.wait_for_everyone()
    return Trained(out, spent, curve, ready.data.counts)
