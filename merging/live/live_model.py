"""LiveModel: a module in memory whose weights always equal its recipe.

Each tensor is computed from the base, never by adding to the module's present weights. So the
weights have the same bits after any history of sliders, and the same bits as an export.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from merging.engine.finite import explain_not_finite
from merging.engine.loop import Cpu, spans, tensor
from merging.engine.task import Task
from merging.engine.tasks import tasks
from merging.errors import MergingError, RecipeError
from merging.inputs.checkpoint import Weights
from merging.inputs.vector import Vector
from merging.recipe import Recipe
from merging.threads import in_order, workers

if TYPE_CHECKING:
    from merging.engine.accelerator import Accelerator

FEW = 2**22
"""Elements of a composition up to which one thread computes it alone.

Its pieces are small, and two threads that hand pieces to each other wait longer than they compute:
for 38 tensors with 2 million elements, 38 instead of 29 ms were measured.
"""

Index = tuple[int | tuple[int, int], ...]
"""For each leading dimension of a parameter, a position or a (start, stop)."""


@dataclass(frozen=True)
class View:
    """Where a tensor of the files lies in a loaded module.

    The files of some model families have other names and shapes than the module: experts that the
    module fuses, a head with another name, transposed matrices.

    Attributes:
        parameter: the name of a parameter or persistent buffer of the module.
        index: the part of the parameter that holds the tensor; () is all of it.
        transposed: whether the last two dimensions are swapped relative to the file.
    """

    parameter: str
    index: Index = ()
    transposed: bool = False


def resolve(module: nn.Module, view: View) -> Tensor:
    """Returns the module's own storage that a view names, in the orientation of the file."""
    path, _, leaf = view.parameter.rpartition(".")
    parameter: Tensor = getattr(module.get_submodule(path), leaf)
    # autograd refuses to write in place to a parameter that requires a gradient.
    return region(parameter.detach(), view)


def region(values: Tensor, view: View) -> Tensor:
    """Returns the part of a tensor of a parameter's shape that a view names, as the file has it."""
    steps = tuple(slice(*step) if isinstance(step, tuple) else step for step in view.index)
    part = values[steps] if steps else values
    return part.transpose(-2, -1) if view.transposed else part


class _Piece(NamedTuple):
    """A piece of a tensor, and the module's memory into which it is written."""

    task: Task
    out: Tensor
    start: int | None = None
    """Index of the first element if `out` is contiguous; None if the tensor is written whole."""


def _size(piece: _Piece) -> int:
    """Returns the number of elements of a piece."""
    return piece.out.numel()


class LiveModel:
    """A module whose parameters equal `merge(recipe)`, rounded to the module's dtype.

    Args:
        module: the model; its storage is written in place and never replaced.
        base: Θ. A mapping from files or one in memory: that decides what a composition costs.
        vectors: the vectors that recipes may name, by name.
        views: where each tensor of the files lies in the module.
        reload: called with all tensors of the composition, which are then not written here. For
            models whose loading does more than copy tensors.
        device: computes the pieces; the CPU by default.

    Attributes:
        recipe: the recipe that the module equals; None before the first composition, and after one
            that was interrupted or whose error could not be undone.
        mounted: whether hooks add to the output of its layers now, so that the weights must not
            change; see merging.live.mount.
    """

    def __init__(
        self,
        module: nn.Module,
        base: Weights,
        vectors: Mapping[str, Vector],
        views: Mapping[str, View],
        *,
        reload: Callable[[Iterator[tuple[str, Tensor]]], None] | None = None,
        device: "Cpu | Accelerator | None" = None,
    ) -> None:
        self.module = module
        self.base = base
        self.vectors = vectors
        self.views = views
        self.reload = reload
        self.recipe: Recipe | None = None
        self.mounted = False
        # The last recipe that the module equalled: to which it returns after an error.
        self._former: Recipe | None = None
        # The task whose result each tensor of the module holds. Equal tasks give equal bits.
        self._written: dict[str, Task] = {}
        self._device = device or Cpu()

    def apply(self, recipe: Recipe, should_stop: Callable[[], bool] = lambda: False) -> int:
        """Makes the module equal the recipe; computes only the tensors whose task has changed.

        Args:
            recipe: the recipe to compose.
            should_stop: called between pieces; True interrupts a composition that is no longer
                wanted. The next call computes only what is then missing.

        Returns:
            the number of tensors computed.

        Raises:
            MergingError: if the recipe cannot be carried out, or merged values are not finite. The
                module then equals the last recipe that it equalled before.
        """
        if self.mounted:
            raise MergingError(
                "adapters are mounted on this module. Leave the `mounted` block before composing."
            )
        if recipe.slices:
            raise RecipeError(
                "a recipe with slices has other layers than the model in memory. Write it with "
                "`dem merge RECIPE OUT` and give that folder."
            )
        wanted = tasks(recipe, self.base, self.vectors)
        try:
            return self._compose(recipe, wanted, should_stop)
        except MergingError as error:
            if self._former is not None:
                self._return_to(self._former, error)
            raise

    def _compose(self, recipe: Recipe, wanted: list[Task], should_stop: Callable[[], bool]) -> int:
        """Computes what the module does not hold yet; arguments and result as for `apply`."""
        changed = [
            task
            for task in wanted
            if (self.reload or task.name in self.views) and self._written.get(task.name) != task
        ]
        # Until everything is written the module equals no recipe, also after an error.
        if changed:
            self.recipe = None
        if changed and self.reload:
            self._written.clear()  # if loading fails half way, the module's content is unknown
            self.reload((task.name, tensor(task, self.base, self.vectors)) for task in wanted)
            self._written = {task.name: task for task in wanted}
            changed = wanted
        elif not self._write(changed, should_stop):
            return sum(self._written.get(task.name) == task for task in changed)
        self.recipe = self._former = recipe
        return len(changed)

    def _return_to(self, former: Recipe, error: MergingError) -> None:
        """Composes the former recipe again after an error.

        If that fails too, `recipe` stays None, and the error gets a note that says so.
        """
        try:
            wanted = tasks(former, self.base, self.vectors)
            self._compose(former, wanted, should_stop=lambda: False)
        except MergingError as second:
            error.add_note(f"The weights from before could not be composed again: {second}")

    def _write(self, changed: Sequence[Task], should_stop: Callable[[], bool]) -> bool:
        """Computes tensors in place, several pieces at a time; returns False if it was stopped."""
        pieces = [piece for task in changed for piece in self._pieces(task)]
        unfinished = Counter(piece.task.name for piece in pieces)
        few = sum(map(_size, pieces)) <= FEW
        stopped = False

        def compute(group: list[_Piece]) -> list[_Piece]:
            """Computes pieces until it is stopped; returns those that are done."""
            nonlocal stopped
            done = []
            for piece in group:
                stopped = stopped or should_stop()
                if stopped:
                    break
                # From here until its last piece is done, the tensor is a mixture of two recipes.
                self._written.pop(piece.task.name, None)
                self._compute(piece)
                done.append(piece)
            return done

        for done in in_order(
            [pieces] if few else [[piece] for piece in pieces],
            compute,
            size=lambda group: sum(map(_size, group)),
            # A method that needs whole tensors has pieces of their size: no more is held at once
            # than the largest of them.
            room=max([4 * self._device.most * workers(), *map(_size, pieces)]),
            threads=1 if few else workers(),
        ):
            for piece in done:
                unfinished[piece.task.name] -= 1
                if not unfinished[piece.task.name]:
                    self._written[piece.task.name] = piece.task
        return not unfinished.total()

    def _pieces(self, task: Task) -> Iterator[_Piece]:
        """Splits a tensor into pieces, or makes it one if its memory is not contiguous."""
        region = resolve(self.module, self.views[task.name])
        if tuple(region.shape) != task.shape:
            raise MergingError(
                f"{task.name}: its shape in the module is {list(region.shape)}, in the files "
                f"{list(task.shape)}. Load the module from the base's own folder."
            )
        if region.is_contiguous() and task.numel:
            flat = region.view(-1)
            yield from (
                _Piece(task, flat[start:stop], start)
                for start, stop in spans(task, self._device.most)
            )
        else:
            yield _Piece(task, region)

    def _compute(self, piece: _Piece) -> None:
        """Computes a piece into the module's memory."""
        task, out, start = piece
        if start is None:
            out.copy_(tensor(task, self.base, self.vectors))
            self._check(piece)
            return
        # Rounded to the output dtype first, then to the module's: the same bits as an export that
        # is loaded in the module's dtype.
        direct = out.dtype == task.out_dtype and self._device.reaches(out)
        rounded = out if direct else torch.empty(out.numel(), dtype=task.out_dtype)
        self._device.compute(task, self.base, self.vectors, start, rounded)
        if not direct:
            out.copy_(rounded)
        self._check(piece)

    def _check(self, piece: _Piece) -> None:
        """Refuses merged values that are not finite, as an export does, in the module's dtype."""
        task, out, start = piece
        if why := explain_not_finite(task, self.base, out, start or 0):
            raise MergingError(why)

    def forget(self) -> None:
        """Makes the next `apply` compute every tensor.

        Needed after a vector was replaced by another with the same name.
        """
        self._written.clear()
        self.recipe = self._former = None
