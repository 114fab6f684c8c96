"""Finds merged values that are not finite, before they are written to a file or a module."""

import torch
from torch import Tensor

from merging.engine import kernel
from merging.engine.task import Task
from merging.inputs.checkpoint import Weights, dtype_of, read_block


def all_finite(values: Tensor) -> bool:
    """Reports whether all values are finite."""
    if kernel.reads(values.dtype) and values.device.type == "cpu" and values.is_contiguous():
        return kernel.all_finite(values)
    # A finite sum proves it in a twentieth of the time of a test of each value. A sum that is not
    # finite may have overflowed, so each value is tested then.
    return bool(torch.isfinite(values.sum(dtype=torch.float32))) or bool(
        torch.isfinite(values).all()
    )


def explain_not_finite(task: Task, base: Weights, values: Tensor, start: int = 0) -> str | None:
    """Says why values of the merged model are refused; None if they are finite.

    A tensor that is copied may hold infinities of the base's own, for example in a mask.

    Args:
        task: the tensor.
        base: Θ.
        values: a span of the result, (n,), after rounding.
        start: the span's first element in the flattened tensor.

    Returns:
        the tensor's name, how many values are not finite, and what to change.
    """
    # Only a merge or a narrower dtype can make a value that is not finite.
    if not task.vectors and task.out_dtype == dtype_of(base, task.name):
        return None
    if all_finite(values) or _are_the_bases(task, base, values, start):
        return None
    count = int((~torch.isfinite(values)).sum())
    if values.dtype == torch.float16:
        advice = "float16 ends at 65,504: choose bfloat16 or float32 as out_dtype, or smaller ω."
    else:
        advice = "Look for NaN or infinity in the inputs with `dem inspect`, or choose smaller ω."
    return f"{task.name}: {count:,} merged values are not finite. {advice}"


def _are_the_bases(task: Task, base: Weights, values: Tensor, start: int) -> bool:
    """Reports whether a copy is not finite only where the base is not."""
    if task.vectors:
        return False
    stored = read_block(base, task.name, start, start + values.numel())
    held = values.reshape(-1).to(stored.device)
    return not (torch.isfinite(stored) & ~torch.isfinite(held)).any()
