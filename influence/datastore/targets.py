"""The vectors that stored rows are multiplied with, from the gradients of validation examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from influence.datastore.store_settings import StoreSettings
from influence.errors import InfluenceError
from plumbing.suggest import listed

Reading = Literal["mean_of_cos", "cos_of_mean"]


def example_targets(settings: StoreSettings, validation: Sequence[Tensor]) -> list[Tensor]:
    """Returns the validation gradients of each checkpoint, scaled to length 1 (V, d).

    Args:
        settings: those of the datastore that is scored.
        validation: projected gradients of the validation examples (V, d) at each checkpoint.

    Raises:
        InfluenceError: a gradient is zero or not finite, or they do not fit the datastore.
    """
    _check_validation(settings, validation)
    return [
        _unit(
            rows,
            [
                f"The gradient of validation example {number} at {checkpoint.name!r}"
                for number in range(1, len(rows) + 1)
            ],
        )
        for checkpoint, rows in zip(settings.checkpoints, validation, strict=True)
    ]


def subtask_targets(
    settings: StoreSettings,
    validation: Sequence[Tensor],
    subtask_ids: Sequence[str],
    subtasks: Sequence[str],
    reading: Reading,
) -> list[Tensor]:
    """Returns one vector for each subtask at each checkpoint (subtasks, d).

    Its product with a row of length 1 is the score of the row for the subtask.

    Args:
        settings: those of the datastore that is scored.
        validation: projected gradients of the validation examples (V, d) at each checkpoint.
        subtask_ids: the subtask of each validation example.
        subtasks: the subtasks, in the order of the result.
        reading: as in `subtask_scores`.

    Raises:
        InfluenceError: as `example_targets`, or a subtask has no examples or a zero mean.
    """
    units = example_targets(settings, validation)
    members = _members(subtasks, subtask_ids, len(units[0]))
    if reading == "mean_of_cos":
        # The mean of the cosines with some unit vectors is the product with their mean.
        return [_means(unit, members, len(subtasks)) for unit in units]
    of = [f"The mean gradient of the validation subtask {name!r}" for name in subtasks]
    return [_unit(_means(rows, members, len(subtasks)), of) for rows in validation]


def _unit(rows: Tensor, of: Sequence[str]) -> Tensor:
    """Returns rows scaled to length 1.

    Args:
        rows: vectors (n, d).
        of: what each one is, as the beginning of a message.

    Raises:
        InfluenceError: some have no direction, because they are zero or not finite.
    """
    # In float64, because the squares of small gradients are too small for float32.
    lengths: Tensor = rows.double().norm(dim=1, keepdim=True)
    bad = [of[int(n)] for n in ((lengths == 0) | ~lengths.isfinite()).nonzero()[:, 0]]
    if bad:
        raise InfluenceError(
            f"{bad[0]} is zero or not finite, so its cosine is undefined ({len(bad):,} such). "
            "Leave it out; usually no supervised token is within the length limit."
        )
    units: Tensor = rows / lengths
    return units.to(rows.dtype)


def _means(rows: Tensor, members: Tensor, groups: int) -> Tensor:
    """Returns the mean of the rows of each group (groups, d)."""
    # As a product, because it sums in the same order on every device.
    share = torch.nn.functional.one_hot(members.to(rows.device), groups).to(rows.dtype)
    return (share / share.sum(0)).T @ rows


def _members(names: Sequence[str], subtask_ids: Sequence[str], examples: int) -> Tensor:
    """Returns the number of each validation example's subtask (V,).

    Raises:
        InfluenceError: a subtask has no examples, or an example has no subtask of `names`.
    """
    if len(subtask_ids) != examples:
        raise InfluenceError(
            f"{len(subtask_ids)} subtasks were given for {examples} validation examples; each "
            "example needs one."
        )
    empty = [repr(name) for name in names if name not in set(subtask_ids)]
    if empty:
        raise InfluenceError(
            f"No validation example belongs to {listed(empty)}, so there is nothing to score for "
            "it. Add examples of it, or leave the subtask out."
        )
    unknown = sorted({repr(name) for name in subtask_ids} - {repr(name) for name in names})
    if unknown:
        raise InfluenceError(
            f"Validation examples belong to {listed(unknown)}, which is not among the subtasks "
            f"{listed([repr(name) for name in names])}. Add it to them."
        )
    return torch.tensor([list(names).index(name) for name in subtask_ids])


def _check_validation(settings: StoreSettings, validation: Sequence[Tensor]) -> None:
    """Checks that validation gradients fit the checkpoints and the projection of a datastore.

    Raises:
        InfluenceError: they do not, or there are none.
    """
    checkpoints, dimension = settings.checkpoints, settings.projection.dimension
    shapes = [tuple(rows.shape) for rows in validation]
    if not shapes or not shapes[0] or shapes[0][0] < 1:
        raise InfluenceError("There are no validation gradients. Give at least one example.")
    if shapes != [(shapes[0][0], dimension)] * len(checkpoints):
        raise InfluenceError(
            f"Validation gradients of the shapes {', '.join(map(str, shapes))} do not fit the "
            f"datastore: it needs one of {dimension} numbers for each of the same examples at each "
            f"of {len(checkpoints)} checkpoints ({listed([each.name for each in checkpoints])}). "
            "Compute them at the same checkpoints with the same projection."
        )
