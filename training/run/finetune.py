"""Runs one Stage of fine-tuning and writes its checkpoint; the only entry to the trainer."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from corpus.counts import Counts
from training.adapter import Lora
from training.batching.order import pass_ends
from training.errors import TrainingError, TrainingStopped
from training.run import record
from training.run.cost import Spent
from training.run.launch import is_sharded, leaves_unused
from training.run.record import CurvePoint
from training.run.rights import give_usual_rights
from training.run.saved_state import State, write_json
from training.run.setup import StageSetup, quiet, set_up, training_arguments
from training.run.shared import Shared
from training.stage import Stage

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
"""A function called with the steps done, the steps in all, and the last training loss."""


class Trained(NamedTuple):
    """The checkpoint that a run has written."""

    folder: Path
    spent: Spent
    """The cost of the whole run, without interruptions."""
    curve: tuple[CurvePoint, ...]
    counts: dict[str, Counts]
    """Used and left-out records of "examples", "replay" and "validation/<name>"."""


def run(
    stage: Stage,
    out: Path,
    progress: Progress | None = None,
    *,
    resume: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    on_log: Callable[[CurvePoint], None] | None = None,
    shared: Shared | None = None,
) -> Trained:
    """Trains a stage and writes its checkpoint or adapter to the new folder `out`.

    Full fine-tuning writes what save_pretrained writes. LoRA writes a PEFT folder whose base is
    stage.base_name, or the path stage.base. training.json beside the weights holds everything that
    is needed to repeat the run. The folder appears complete or not at all.

    The state of an unfinished run is in <out>.training. A run that was stopped or killed and is
    resumed from there gives the same weights as an uninterrupted one, bit for bit on a CPU. Under
    `accelerate launch`, every process calls this function with the same stage, and the main one
    writes and reports.

    Args:
        stage: the stage.
        out: the folder to make; must not exist.
        progress: see Progress.
        resume: whether to continue an unfinished run of the same stage. If there is none, a new
            run begins.
        should_stop: called after every step; True saves the state and ends the run.
        on_log: called with each new point of the curve.
        shared: what the stage shares with other stages of a plan; nothing if None.

    Raises:
        TrainingError: `out` exists, the stage cannot be run on this base or in this memory, or the
            unfinished run is a different one; all before the first step. During the training, the
            loss is infinite or not a number.
        TrainingStopped: should_stop returned True.
        CorpusError: the base's tokenizer cannot write a chat.
    """
    if out.exists():
        raise TrainingError(f"{out}: exists already. Give a new folder; nothing is overwritten.")
    with quiet():
        ready = set_up(stage, shared)
        state = State(out)
        before = state.open(_run_facts(stage, ready.processes, state.run), resume=resume)

        def on_point(point: CurvePoint, steps: int) -> None:
            if progress is not None and point.loss is not None:
                progress(point.step, steps, point.loss)
            if on_log is not None:
                on_log(point)

        return _train(stage, out, ready, before, on_point, should_stop)


def _run_facts(stage: Stage, processes: int, begun: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what must be the same for an unfinished run to continue.

    Args:
        stage: the stage.
        processes: the number of processes.
        begun: these facts of an unfinished run; its identities may be of an earlier version.
    """
    settings = record.settings(stage)
    # Saving more or less often, or telling more programs, does not change the weights.
    del settings["save_every"], settings["report_to"]
    folders = {"base": stage.base, "adapter": stage.adapter}
    start = {
        name: record.identity_like(folder, begun.get(name, ""))
        for name, folder in folders.items()
        if folder is not None
    }
    return settings | record.digests(stage) | start | {"processes": processes}


def _train(
    stage: Stage,
    out: Path,
    ready: StageSetup,
    before: Path | None,
    on_point: Callable[[CurvePoint, int], None],
    should_stop: Callable[[], bool],
) -> Trained:
    """Trains a prepared stage from the state `before`, or from the first step if it is None."""
    from training.run.context import Hooks, RunContext
    from training.run.epochs import EpochCallback
    from training.run.trainer import StageTrainer

    model, state = ready.model, State(out)
    use_cache = model.config.use_cache
    pad = ready.tokenizer.pad_token_id
    context = RunContext(
        stage,
        ready.data,
        ready.order,
        0 if pad is None else pad,
        state,
        ready.meter,
        state.spent(before, "training"),
    )
    if stage.checkpointing:
        # transformers before 5.20 has only the older name, and later versions warn about it.
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    settings = training_arguments(stage, ready.order, state.folder, ready.device)
    if ready.processes > 1 and not is_sharded():
        # Looking for unused parameters breaks checkpointing, as transformers' own default says.
        settings.ddp_find_unused_parameters = not stage.checkpointing and leaves_unused(
            model, ready.data.own[0].ids.tolist()
        )
    trainer = StageTrainer(context, Hooks(on_point, should_stop), model, settings)
    if "tensorboard" in stage.report_to and trainer.args.should_save:
        trainer.add_callback(_tensorboard(out, state.step(before)))
    if stage.keep_epochs:
        own, steps = len(ready.data.own), ready.order.steps
        ends = pass_ends(stage, own, ready.data.groups, ready.processes, steps)
        trainer.add_callback(EpochCallback(trainer, ready.tokenizer, ends, use_cache))
    try:
        trainer.train(resume_from_checkpoint=str(before) if before else None)
    except Exception as error:
        # They begin with the first step, and want to be logged in, or reached.
        tracker = type(error).__module__.partition(".")[0]
        if tracker not in stage.report_to:
            raise
        raise TrainingError(
            f"report_to names {tracker}, which refuses: {error} Set it up as its own documentation "
            f"says (wandb login, or WANDB_MODE=offline), or leave {tracker} out."
        ) from None
    if trainer.stopped:
        raise TrainingStopped(
            f"stopped after step {trainer.state.global_step} of {ready.order.steps}; "
            f"the state is saved in {state.folder}. resume=True continues from there."
        )
    return _write(trainer, ready, out, use_cache)


def _tensorboard(out: Path, done: int) -> Any:
    """Returns transformers' callback for TensorBoard, whose files outlast the run's states.

    Args:
        out: the run's folder.
        done: number of steps that the run has done before. Points of later steps, of a run that was
            killed after its last saved state, are hidden.
    """
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    folder = out.with_name(out.name + ".tensorboard")
    return TensorBoardCallback(SummaryWriter(str(folder), purge_step=done + 1 if done else None))


def _write(trainer: StageTrainer, ready: StageSetup, out: Path, use_cache: Any) -> Trained:
    """Writes the checkpoint in the main process, while the others wait."""
    import torch

    from training.run.epochs import move_epochs, write_model

    run, model = trainer.run, trainer.accelerator.unwrap_model(trainer.model)
    stage, best = run.stage, trainer.state.best_global_step if run.stage.keep == "best" else None
    weights = trainer.final_weights(best)
    if stage.save_dtype == "bfloat16":
        model.to(torch.bfloat16)
    # Outside the block below, because all processes exchange their numbers in `spent`.
    curve, spent = record.curve(trainer.state.log_history), trainer.spent()
    if trainer.args.should_save:
        # Renamed when it is complete, so that nobody finds half a checkpoint in `out`.
        staged = out.with_name(out.name + ".partial")
        shutil.rmtree(staged, ignore_errors=True)
        write_model(trainer, ready.tokenizer, staged, weights, use_cache)
        document = record.document(
            stage,
            ready.data.counts,
            spent,
            curve,
            best or ready.order.steps,
            "bfloat16" if trainer.args.bf16 else "float32",
        )
        write_json(staged / record.NAME, document)
        give_usual_rights(staged)
        move_epochs(run.state, staged)
        staged.rename(out)
        # Only after the renaming: until then the state is all that is left if the process is
        # killed.
        run.state.remove()
    # Otherwise another process might look for the folder, as the base of its next step, too early.
    trainer.accelerator.wait_for_everyone()
    return Trained(out, spent, curve, ready.data.counts)
