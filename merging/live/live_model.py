"""LiveModel: a module in memory that always equals its recipe.

Each tensor is computed from the base, never by adding to what is there, so that the weights are the same bits after
any history of sliders, and the same bits that an export of the recipe writes.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from merging.engine.loop import Processor, spans, tensor
from merging.engine.tasks import Task, tasks
from merging.engine.threads import in_order, workers
from merging.errors import MergingError, RecipeError
from merging.inputs.checkpoint import Weights
from merging.inputs.vector import Vector
from merging.recipe import Recipe

if TYPE_CHECKING:
    from merging.engine.accelerator import Accelerator

Index = tuple[int | tuple[int, int], ...]


@dataclass(frozen=True)
class View:
    """Where a tensor of the files lives in a loaded module.

    Some families store names and shapes in their files that their module does not have: experts one by one that the
    module fuses, a head under another name, matrices transposed.
    """

    parameter: str
    """Name of a parameter or persistent buffer of the module."""
    index: Index = ()
    """For each leading dimension a position or a (start, stop); () is the whole parameter."""
    transposed: bool = False
    """Whether the last two dimensions are swapped relative to the file."""


def resolve(module: nn.Module, view: View) -> Tensor:
    """The module's own storage that a view names, in the orientation of the file."""
    path, _, leaf = view.parameter.rpartition(".")
    region: Tensor = getattr(module.get_submodule(path), leaf)
    region = region.detach()
    steps = tuple(slice(*step) if isinstance(step, tuple) else step for step in view.index)
    region = region[steps] if steps else region
    return region.transpose(-2, -1) if view.transposed else region


class _Piece(NamedTuple):
    """Part of a tensor, and where in the module it goes."""

    task: Task
    out: Tensor
    start: int | None = None
    """Its first element, where `out` is a run of them; None for a whole tensor whose place in the module is none."""


class LiveModel:
    """A module whose parameters equal `merge(recipe)`, rounded to the module's dtype where that is another.

    Args:
        module: what is evaluated; its storage is written in place and never replaced.
        base: Θ. Which mapping is passed (files, RAM) decides what a composition costs.
        vectors: the vectors that recipes may name, by name.
        views: where each tensor of the files lives in the module.
        reload: for models whose loading is no plain copy: called with all tensors of the result instead of writing.
        place: where pieces are computed; this machine's processor if not given.
    """

    def __init__(
        self,
        module: nn.Module,
        base: Weights,
        vectors: Mapping[str, Vector],
        views: Mapping[str, View],
        *,
        reload: Callable[[Iterator[tuple[str, Tensor]]], None] | None = None,
        place: "Processor | Accelerator | None" = None,
    ) -> None:
        self.module = module
        self.base = base
        self.vectors = vectors
        self.views = views
        self.reload = reload
        self.recipe: Recipe | None = None
        """The recipe that the module equals; None before the first, and after one that was broken off."""
        self.mounted = False
        """Whether something adds to what its layers compute, so that the weights must stay; see merging.mounted."""
        self._written: dict[str, Task] = {}
        self._place = place or Processor()

    def apply(self, recipe: Recipe, should_stop: Callable[[], bool] = lambda: False) -> int:
        """Make the module equal the recipe, computing only the tensors whose ω differ from what they hold.

        Args:
            recipe: what to compose.
            should_stop: asked between pieces; a superseded composition is broken off there, and the next call goes on.

        Returns:
            the number of tensors computed.

        Raises:
            MergingError: when the recipe cannot be carried out; nothing has been written then.
        """
        if self.mounted:
            raise MergingError(
                "adapters are mounted on this module. Leave that block before composing."
            )
        if recipe.slices:
            raise RecipeError(
                "a recipe with slices has other layers than the model in memory. Write it with `dem merge RECIPE OUT` and "
                "give that folder."
            )
        wanted = tasks(recipe, self.base, self.vectors)
        changed = [
            task
            for task in wanted
            if (self.reload or task.name in self.views) and self._written.get(task.name) != task
        ]
        if changed:
            self.recipe = None
        if changed and self.reload:
            self._written.clear()  # if it fails half way, nothing is known of the module
            self.reload((task.name, tensor(task, self.base, self.vectors)) for task in wanted)
            self._written = {task.name: task for task in wanted}
            changed = wanted
        elif not self._write(changed, should_stop):
            return sum(self._written.get(task.name) == task for task in changed)
        self.recipe = recipe
        return len(changed)

    def _write(self, changed: Sequence[Task], should_stop: Callable[[], bool]) -> bool:
        """Compute tensors in place, several pieces at a time; False where it was told to stop."""
        pieces = [piece for task in changed for piece in self._pieces(task)]
        unfinished = Counter(piece.task.name for piece in pieces)
        stopped = False

        def begun() -> Iterator[_Piece]:
            nonlocal stopped
            for piece in pieces:
                stopped = should_stop()
                if stopped:
                    return
                self._written.pop(piece.task.name, None)
                yield piece

        room = max([4 * self._place.most * workers(), *(piece.out.numel() for piece in pieces)])
        done = 0
        for piece in in_order(
            begun(), self._compute, size=lambda piece: piece.out.numel(), room=room
        ):
            done += 1
            unfinished[piece.task.name] -= 1
            if not unfinished[piece.task.name]:
                self._written[piece.task.name] = piece.task
            stopped = stopped or (done < len(pieces) and should_stop())
            if stopped:  # what is under way is finished, what waits behind it is dropped
                break
        return done == len(pieces)

    def _pieces(self, task: Task) -> Iterator[_Piece]:
        region = resolve(self.module, self.views[task.name])
        if tuple(region.shape) != task.shape:
            raise MergingError(
                f"{task.name}: the module holds {list(region.shape)}, the files {list(task.shape)}."
            )
        if region.is_contiguous() and task.numel:
            flat = region.view(-1)
            yield from (
                _Piece(task, flat[start:stop], start)
                for start, stop in spans(task, self._place.most)
            )
        else:
            yield _Piece(task, region)

    def _compute(self, piece: _Piece) -> _Piece:
        task, out, start = piece
        if start is None:
            out.copy_(tensor(task, self.base, self.vectors))
            return piece
        straight = out.dtype == task.out_dtype and self._place.reaches(out)
        rounded = out if straight else torch.empty(out.numel(), dtype=task.out_dtype)
        self._place.compute(task, self.base, self.vectors, start, rounded)
        if not straight:
            out.copy_(rounded)
        return piece

    def forget(self) -> None:
        """Compute every tensor at the next `apply`: after a vector was exchanged for another of the same name."""
        self._written.clear()
        self.recipe = None
