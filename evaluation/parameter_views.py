"""Finds which region of which parameter each file tensor fills, by loading marked tensors.

Loading may rename, stack, concatenate and transpose: transformers 5 turns Mixtral's 24 expert
matrices of a layer into two parameters. No table of architectures can keep up with that, so the
loader itself is observed. Every file tensor is replaced by a constant, its number, and goes through
the same loader. The region where the number comes out is the one that the tensor fills. A constant
takes no memory (stride 0) unless the loader stacks it.

Worked example: file tensors 1 and 2 (each 2×3) are stacked, and 3 is alone:

    experts = [[[1,1,1],[1,1,1]], [[2,2,2],[2,2,2]]]  →  1: View("experts", (0,), False)
                                                         2: View("experts", (1,), False)
    norm    = [3,3,3]                                 →  3: View("norm", (), False)
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
"""Loads file tensors into a module, in exactly the way the real weights are loaded."""

MOST_CELLS = 1_000_000
"""A parameter with more cells than this is a permutation, not a stack; it gets no views."""


class ParameterViews(NamedTuple):
    """The view of each file tensor, and the tensors that have none."""

    views: dict[str, View]
    """Name of a file tensor -> the region that it fills; `prove` keeps the proved ones only."""
    unplaced: list[str]
    """Tensors that the module uses, but that no region of one parameter holds as in the file."""
    ignored: list[str]
    """Tensors that have no influence on the module."""


class _Grid(NamedTuple):
    """A tensor that is constant on the cells of a grid.

    Attributes:
        shape: of the tensor.
        starts: per axis, the first index of each cell.
        values: one value per cell, with as many axes as the tensor.
    """

    shape: tuple[int, ...]
    starts: tuple[Tensor, ...]
    values: Tensor


def find(assemble: Assemble, checkpoint: Checkpoint, dtype: torch.dtype) -> ParameterViews:
    """Finds the view of every file tensor.

    The views are candidates: run `prove` on the result once the real weights are loaded.

    Args:
        assemble: the loader. It is called once, or several times if `dtype` cannot hold the numbers
            of all tensors.
        checkpoint: the files. Only names, shapes and dtypes are read.
        dtype: of the loaded module. The marked tensors have it too, so that the search needs no
            more memory than the load.
    """
    names = list(checkpoint)
    grids = _marked_grids(assemble, checkpoint, names, dtype)
    boxes: dict[int, list[tuple[str, list[tuple[int, int]]]]] = {}
    # Whether every value in every parameter is the number of one tensor on one box. If not, a
    # tensor whose number is nowhere may still have been used, so it must not be called ignored.
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
        regions = boxes.get(number, [])
        # A view speaks for the whole tensor only if the tensor fills no second region.
        view = _view(*regions[0], grids, checkpoint.info(name).shape) if regions else None
        if view is not None and len(regions) == 1:
            views[name] = view
        elif not regions and explained:
            ignored.append(name)
        else:
            unplaced.append(name)
    return ParameterViews(views, unplaced, ignored)


def prove(candidates: ParameterViews, module: nn.Module, checkpoint: Checkpoint) -> ParameterViews:
    """Keeps the views in `candidates` whose region in the loaded module equals the file tensor.

    Equal means bit for bit. A square region may hold the tensor as it is or transposed; both are
    tried. One tensor is in memory at a time. A tensor whose view fails is added to `unplaced`.
    """
    views: dict[str, View] = {}
    unplaced = list(candidates.unplaced)
    for name, view in candidates.views.items():
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
    return ParameterViews(views, unplaced, candidates.ignored)


def notes(proved: ParameterViews) -> list[str]:
    """Returns a sentence on tensors without views and one on ignored tensors; [] if none."""
    sentences = []
    if proved.unplaced:
        sentences.append(
            f"loading is not a plain copy: {listed(proved.unplaced)} cannot be written in place, "
            "so each composition is loaded anew"
        )
    if proved.ignored:
        sentences.append(
            f"transformers does not use {listed(proved.ignored)}; "
            "merged files keep them, the live model has none"
        )
    return sentences


def shared(proved: ParameterViews, module: nn.Module) -> list[str]:
    """Returns a sentence for each parameter that several file tensors fill.

    This happens if an embedding and its tied head are both stored.
    """
    owners: dict[tuple[int, tuple[int, ...]], list[str]] = {}
    for name, view in proved.views.items():
        region = resolve(module, view)
        owners.setdefault((region.data_ptr(), tuple(region.shape)), []).append(name)
    return [
        f"{' and '.join(names)} are one parameter in the live model; "
        "a merge treats them as one tensor"
        for names in owners.values()
        if len(names) > 1
    ]


def _marked_grids(
    assemble: Assemble, checkpoint: Checkpoint, names: list[str], dtype: torch.dtype
) -> dict[str, _Grid | None]:
    """Loads the marked tensors and returns the grid of each persistent parameter or buffer.

    A grid is None if it has too many cells. If `dtype` cannot hold the largest tensor number, the
    numbers are loaded digit by digit.
    """
    # All integers up to it are exact: 2^24 in float32, 2^11 in float16, 2^8 in bfloat16.
    base = int(2 / torch.finfo(dtype).eps)
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
    """Yields every parameter and buffer that loading fills, tied ones under their first name."""
    seen = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor.detach()


def _grid(tensor: Tensor) -> _Grid | None:
    """Cuts a tensor wherever neighbouring slices differ; None if that gives too many cells."""
    values = tensor
    starts: list[Tensor] = []
    # The last axis comes first, because stacks are constant along it: after one pass over the whole
    # tensor only a sliver is left.
    for axis in reversed(range(tensor.dim())):
        size = values.shape[axis]
        keep = torch.zeros(min(size, 1), dtype=torch.long)
        if tensor.stride(axis) != 0 and size > 1:
            differs = values.narrow(axis, 1, size - 1) != values.narrow(axis, 0, size - 1)
            if differs.any():
                cut = differs.movedim(axis, 0).reshape(size - 1, -1).any(1)
                keep = torch.cat([keep, cut.nonzero().flatten().cpu() + 1])
        # Equal neighbours hold nothing new, so the other axes see one slice of each run.
        values = values.index_select(axis, keep.to(values.device))
        starts.insert(0, keep)
    if values.numel() > MOST_CELLS:
        return None
    # float64 holds every sum of digits exactly; the loaded dtype does not (see `_marked_grids`).
    return _Grid(tuple(tensor.shape), tuple(starts), values.double().cpu())


def _plus(low: _Grid | None, high: _Grid | None, factor: float) -> _Grid | None:
    """Returns low + factor · high on the common refinement of both grids; None if too fine."""
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
    """Yields each number of a grid with the box that it fills, as (start, stop) per axis.

    The box is None if the number's cells do not fill one.
    """
    for value in torch.unique(grid.values).tolist():
        cells = (
            (grid.values == value).nonzero()
            if grid.values.dim()
            else torch.zeros(1, 0, dtype=torch.long)
        )
        box, count = [], 1
        for axis, (cuts, size) in enumerate(zip(grid.starts, grid.shape, strict=True)):
            first, last = int(cells[:, axis].min()), int(cells[:, axis].max())
            # Cells of one value fill a box exactly if there are as many of them as the box has.
            count *= last - first + 1
            box.append((int(cuts[first]), int(cuts[last + 1]) if last + 1 < len(cuts) else size))
        yield value, box if count == len(cells) else None


def _view(
    parameter: str,
    box: list[tuple[int, int]],
    grids: Mapping[str, _Grid | None],
    shape: tuple[int, ...],
) -> View | None:
    """Returns the view of a box in a parameter; None if a tensor of `shape` does not fit the box.

    Args:
        parameter: name of the parameter.
        box: (start, stop) per axis of the parameter.
        grids: of all parameters.
        shape: of the file tensor.
    """
    grid = grids[parameter]
    # Axes that the parameter has more than the tensor are those along which tensors are stacked.
    stacked = len(box) - len(shape)
    if grid is None or stacked < 0 or any(stop - start != 1 for start, stop in box[:stacked]):
        return None
    sizes = tuple(stop - start for start, stop in box[stacked:])
    swapped = (*sizes[:-2], *sizes[:-3:-1])
    if shape not in (sizes, swapped):
        return None
    index: list[int | tuple[int, int]] = [start for start, _ in box[:stacked]]
    whole = 0  # trailing axes that are taken whole need no index
    for (start, stop), size in zip(box[::-1], grid.shape[::-1], strict=True):
        if len(box) - whole == stacked or (start, stop) != (0, size):
            break
        whole += 1
    index += box[stacked : len(box) - whole]
    return View(parameter, tuple(index), shape != sizes)


def _same_bits(region: Tensor, tensor: Tensor) -> bool:
    """Whether two tensors have the same bit patterns: a NaN equals itself, and −0 is not 0."""
    return torch.equal(
        region.contiguous().flatten().view(torch.uint8),
        tensor.contiguous().flatten().view(torch.uint8),
    )
