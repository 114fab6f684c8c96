"""What a launcher has started: how many processes share each step, and what that needs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from training.errors import TrainingError

_MPI = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
"""Variables in which mpirun and srun tell each process how many there are."""


def process_count(environment: Mapping[str, str] = os.environ) -> int:
    """Returns the number of processes that share each step.

    Raises:
        TrainingError: a launcher was asked for several processes, and what they need to find each
            other is missing: each of them, or the only one, would train by itself. Or it was asked
            for DeepSpeed.
    """
    if environment.get("ACCELERATE_USE_DEEPSPEED", "false") == "true":
        raise TrainingError(
            "accelerate launch was asked for DeepSpeed, whose states this training cannot save and "
            "continue. Configure FSDP instead, which splits the model over the devices too "
            "(accelerate config; the README has the configuration)."
        )
    if "WORLD_SIZE" in environment:
        return int(environment["WORLD_SIZE"])
    how = (
        "Start them with torchrun: torchrun --standalone --nproc_per_node N --no_python dem train "
        "PLAN OUT."
    )
    for name in _MPI:
        count = environment.get(name, "1")
        if count.isdecimal() and int(count) > 1:
            raise TrainingError(
                f"a launcher has started {count} processes ({name}) and not told them how to find "
                f"each other (WORLD_SIZE). {how}"
            )
    # Of `accelerate launch --cpu --num_processes 2` only the address is left: it starts one process
    # and expects it to be under mpirun (accelerate 1.15, prepare_simple_launcher_cmd_env).
    if environment.get("ACCELERATE_USE_CPU") == "True" and "MASTER_ADDR" in environment:
        raise TrainingError(
            "accelerate launch was asked for several processes on CPUs and has started only this "
            f"one. {how}"
        )
    return 1


def is_main(environment: Mapping[str, str] = os.environ) -> bool:
    """Returns whether this process is the one that writes and reports."""
    return environment.get("RANK", "0") == "0"


def is_sharded(environment: Mapping[str, str] = os.environ) -> bool:
    """Returns whether the processes share one copy of the model (FSDP)."""
    return environment.get("ACCELERATE_USE_FSDP", "false") == "true"


def leaves_unused(model: Any, ids: Sequence[int]) -> bool:
    """Returns whether a step may leave a trained parameter without a gradient.

    Processes that share a step then have to look for such parameters after each forward pass, which
    takes time, and without which they would wait for each other for ever. One pass over a few
    tokens tells it, except for experts, of which each batch chooses others.

    Args:
        model: a model with parameters to train; it is as before afterwards.
        ids: token ids of an example.
    """
    import torch

    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    if any("expert" in name for name in trained):
        return True
    # Without dropout the pass draws no random numbers, so the run that follows is the same.
    mode = model.training
    model.eval()
    few = torch.tensor([list(ids[:8])], device=next(model.parameters()).device)
    with torch.enable_grad():
        loss = model(input_ids=few, labels=few, use_cache=False).loss
    model.train(mode)
    # The graph is followed and not carried out: gradients would take the memory of the weights.
    reached, seen, ahead = set(), set(), [loss.grad_fn]
    while ahead:
        step = ahead.pop()
        if step is None or step in seen:
            continue
        seen.add(step)
        reached.add(id(getattr(step, "variable", None)))
        ahead += [before for before, _ in step.next_functions]
    return any(id(each) not in reached for each in trained.values())
