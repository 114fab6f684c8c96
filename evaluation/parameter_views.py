"""Which part of which parameter each tensor of the files fills, found by loading marked tensors instead of the weights.

Loading may rename, stack, concatenate and transpose: transformers 5 turns Mixtral's 24 expert matrices of a layer into
two parameters. No table of architectures can keep up with that, so the loader itself is asked. Every file tensor is
replaced by a constant, its number, and goes through the same loader; where the number comes out is where the tensor goes.
A constant costs no memory (stride 0) unless the loader stacks it.

Worked example: file tensors 1, 2 (each 2×3) stacked, and 3 alone:

    experts = [[[1,1,1],[1,1,1]], [[2,2,2],[2,2,2]]]   →   1: View("experts", (0,), False), 2: View("experts", (1,), False)
    norm    = [3,3,3]                                  →   3: View("norm", (), False)
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from merging.inputs.checkpoint import Checkpoint
from merging.live.live_model import View, resolve
from plumbing.suggest import listed

Marked = Mapping[str, Tensor]
Assemble = Callable[[Marked], nn.Module]
"""Turns file tensors into a loaded module, exactly as the real weights are turned into one."""

MOST_CELLS = 1_000_000
"""A parameter cut into more pieces than this is a permutation, not a stack; such a tensor has no view."""


class ParameterViews(NamedTuple):
    """The views, and what could not be placed: `views` holds proved ones only."""

    views: dict[str, View]
    unplaced: list[str]
    """The tensor is used, but no view of one parameter holds it as it is in the file."""
    ignored: list[str]
    """The tensor has no influence on the module."""


class _Grid(NamedTuple):
    """A tensor that is constant on the cells of a grid: the cells' first index per axis, and one value per cell."""

    shape: tuple[int, ...]
    starts: tuple[Tensor, ...]
    values: Tensor


def find(assemble: Assemble, checkpoint: Checkpoint, dtype: torch.dtype) -> ParameterViews:
    """Find the view of every file tensor. `prove` must be run on the result once the real weights are loaded.

    Args:
        assemble: the loader; called once, or more often where `dtype` cannot hold the numbers of all tensors.
        checkpoint: the files; only names, shapes and dtypes are looked at.
        dtype: what the module is loaded in, so that the search needs no more memory than the load.
    """
    names = list(checkpoint)
    grids = _marked_grids(assemble, checkpoint, names, dtype)
    boxes: dict[int, list[tuple[str, list[tuple[int, int]]]]] = {}
    explained = True
    for parameter, grid in grids.items():
        if grid is None:
            explained = False
            continue
        for number, box in _boxes(grid):
            if not 1 <= number <= len(names) or number != int(number) or box is None:
                explained = False
            else:
                boxes.setdefault(int(number), []).append((parameter, box))
    views: dict[str, View] = {}
    unplaced, ignored = [], []
    for number, name in enumerate(names, start=1):
        places = boxes.get(number, [])
        same = [place for place in places if place[0] == name] or places
        view = _view(*same[0], grids, checkpoint.info(name).shape) if same else None
        if view is not None and len(places) == 1:
            views[name] = view
        elif not places and explained:
            ignored.append(name)
        else:
            unplaced.append(name)
    return ParameterViews(views, unplaced, ignored)


def prove(found: ParameterViews, module: nn.Module, checkpoint: Checkpoint) -> ParameterViews:
    """Keep the views whose region of the really loaded module holds the file's tensor, bit for bit.

    A square region may hold the tensor either way round; both are tried. One tensor is in memory at a time.
    """
    views: dict[str, View] = {}
    unplaced = list(found.unplaced)
    for name, view in found.views.items():
        tensor = checkpoint[name]
        turned = View(view.parameter, view.index, not view.transposed)
        for candidate in (view, turned) if tensor.dim() >= 2 else (view,):
            region = resolve(module, candidate)
            if region.shape == tensor.shape and _same_bits(
                region, tensor.to(region.device, region.dtype)
            ):
                views[name] = candidate
                break
        else:
            unplaced.append(name)
    return ParameterViews(views, unplaced, found.ignored)


def notes(found: ParameterViews) -> list[str]:
    """What a reader should know of a load: one sentence per kind of exception, none where loading is a plain copy."""
    said = []
    if found.unplaced:
        said.append(
            f"loading is not a plain copy: {listed(found.unplaced)} cannot be written in place, "
            "so each composition is loaded anew"
        )
    if found.ignored:
        said.append(
            f"transformers does not use {listed(found.ignored)}; merged files keep them, the live model has none"
        )
    return said


def shared(found: ParameterViews, module: nn.Module) -> list[str]:
    """One sentence per parameter that several file tensors fill: an embedding and its tied head, stored twice."""
    owners: dict[tuple[int, tuple[int, ...]], list[str]] = {}
    for name, view in found.views.items():
        region = resolve(module, view)
        owners.setdefault((region.data_ptr(), tuple(region.shape)), []).append(name)
    return [
        f"{' and '.join(names)} are one parameter in the live model; compositions must give them equal values"
        for names in owners.values()
        if len(names) > 1
    ]


def _marked_grids(
    assemble: Assemble, checkpoint: Checkpoint, names: list[str], dtype: torch.dtype
) -> dict[str, _Grid | None]:
    """Per persistent parameter or buffer the numbers that it holds, assembled from as many digits as `dtype` needs."""
    base = int(
        2 / torch.finfo(dtype).eps
    )  # float32 2^24, float16 2^11, bfloat16 2^8: the integers held exactly
    grids: dict[str, _Grid | None] = {}
    for digit in range(math.ceil(math.log(len(names) + 1, base))):
        marks = {
            name: torch.full((), float(number // base**digit % base), dtype=dtype).expand(
                checkpoint.info(name).shape
            )
            for number, name in enumerate(names, start=1)
        }
        for parameter, tensor in _unshared(assemble(marks)):
            grid = _grid(tensor)
            if digit:
                grid = _plus(grids[parameter], grid, float(base**digit))
            grids[parameter] = grid
    return grids


def _unshared(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Everything that loading fills, each storage once: a tied head is listed under its first name only."""
    seen = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor.detach()


def _grid(tensor: Tensor) -> _Grid | None:
    """Cut a tensor where neighbouring slices differ anywhere; None where that leaves too many cells to be a stack."""
    values = tensor
    starts: list[Tensor] = []
    # From the last axis, along which stacks are constant: after one look at everything only a sliver is left.
    for axis in reversed(range(tensor.dim())):
        size = values.shape[axis]
        keep = torch.zeros(min(size, 1), dtype=torch.long)
        if tensor.stride(axis) != 0 and size > 1:
            differs = values.narrow(axis, 1, size - 1) != values.narrow(axis, 0, size - 1)
            if differs.any():
                cut = differs.movedim(axis, 0).reshape(size - 1, -1).any(1)
                keep = torch.cat([keep, cut.nonzero().flatten().cpu() + 1])
        # Once cut along an axis, equal neighbours hold nothing new: the other axes look at one slice of each run.
        values = values.index_select(axis, keep.to(values.device))
        starts.insert(0, keep)
    if values.numel() > MOST_CELLS:
        return None
    return _Grid(tuple(tensor.shape), tuple(starts), values.double().cpu())


def _plus(low: _Grid | None, high: _Grid | None, factor: float) -> _Grid | None:
    """low + factor · high, on the common refinement of both grids."""
    if low is None or high is None:
        return None
    starts = tuple(
        torch.unique(torch.cat(pair)) for pair in zip(low.starts, high.starts, strict=True)
    )
    if math.prod(len(cuts) for cuts in starts) > MOST_CELLS:
        return None

    def refined(grid: _Grid) -> Tensor:
        values = grid.values
        for axis, cuts in enumerate(starts):
            values = values.index_select(
                axis, torch.searchsorted(grid.starts[axis], cuts, right=True) - 1
            )
        return values

    return _Grid(low.shape, starts, refined(low) + factor * refined(high))


def _boxes(grid: _Grid) -> Iterator[tuple[float, list[tuple[int, int]] | None]]:
    """Each number of a grid with the box that it fills as (start, stop) per axis; None where it fills no box."""
    for value in torch.unique(grid.values).tolist():
        cells = (
            (grid.values == value).nonzero()
            if grid.values.dim()
            else torch.zeros(1, 0, dtype=torch.long)
        )
        box, count = [], 1
        for axis, (cuts, size) in enumerate(zip(grid.starts, grid.shape, strict=True)):
            first, last = int(cells[:, axis].min()), int(cells[:, axis].max())
            count *= last - first + 1
            box.append((int(cuts[first]), int(cuts[last + 1]) if last + 1 < len(cuts) else size))
        yield value, box if count == len(cells) else None


def _view(
    parameter: str,
    box: list[tuple[int, int]],
    grids: Mapping[str, _Grid | None],
    shape: tuple[int, ...],
) -> View | None:
    """The view of a box in a parameter that holds a tensor of this shape, or None where shapes do not agree."""
    grid = grids[parameter]
    stacked = len(box) - len(shape)
    if grid is None or stacked < 0 or any(stop - start != 1 for start, stop in box[:stacked]):
        return None
    found = tuple(stop - start for start, stop in box[stacked:])
    swapped = (*found[:-2], *found[:-3:-1])
    if shape not in (found, swapped):
        return None
    index: list[int | tuple[int, int]] = [start for start, _ in box[:stacked]]
    whole = 0  # trailing dimensions that are taken whole need no index
    for (start, stop), size in zip(box[::-1], grid.shape[::-1], strict=True):
        if len(box) - whole == stacked or (start, stop) != (0, size):
            break
        whole += 1
    index += box[stacked : len(box) - whole]
    return View(parameter, tuple(index), shape != found)


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """Equality of bit patterns: a NaN equals itself, and −0 is not 0."""
    return torch.equal(
        one.contiguous().flatten().view(torch.uint8), other.contiguous().flatten().view(torch.uint8)
    )
