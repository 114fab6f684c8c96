"""Mounts: adapters on the layers of a LiveModel while a slider is dragged.

    y = W x + Σ (cᵢ' − cᵢ) · sᵢ Bᵢ (Aᵢ x)

W are the weights as they were settled last, cᵢ the factor that vector i has in them (ω, times what the method makes of
it), cᵢ' the one that it has where the slider is now, sᵢ the adapter's own scaling. A move changes a few numbers, the
scales, and writes no weight; when the drag ends the weights are composed as ever, from the base.

The products are computed and added in float32, float64 where the module is, whatever dtype the module has; their sum
with W x is rounded to the module's dtype once. So in bfloat16 this differs from the composition, which rounds W + Δ.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from merging.engine.tasks import Task, tasks
from merging.errors import MergingError, NotMounted
from merging.inputs.lora_vector import LoraVector
from merging.live import mount_layers as layers
from merging.live.live_model import LiveModel, resolve
from merging.live.mount_change import Change, change, check
from merging.recipe import Recipe
from plumbing.suggest import listed


class _Held(NamedTuple):
    """The factors of one tensor, ready for its layers: they are the same from move to move."""

    adapters: tuple[LoraVector, ...]
    """Side by side in the pairs, in this order."""
    ranks: tuple[int, ...]
    scales: tuple[float, ...]
    """Each adapter's own."""
    layers: tuple[layers.Layer, ...]
    pairs: tuple[layers.Pair, ...]
    """For each layer."""


class Mounts:
    """Adapters on the layers of one live model.

    Args:
        live: its module's parameters must stay where they are, as LiveModel says.
    """

    def __init__(self, live: LiveModel) -> None:
        self.live = live
        self._uses = layers.uses(live.module)
        self._tasks: tuple[Recipe, list[Task]] | None = None
        self._held: dict[str, _Held] = {}

    def plan(self, settled: Recipe, wanted: Recipe) -> Change:
        """What has to be mounted on the weights of one recipe to see another; nothing is written or read.

        Raises:
            NotMounted: saying why this move has to be composed.
            RecipeError: as composing would raise it.
        """
        if self.live.reload:
            raise NotMounted(
                "this model's tensors are no plain copies of its files', so each composition is loaded anew."
            )
        check(settled, wanted)
        if self._tasks is None or self._tasks[0] != settled:
            self._tasks = settled, tasks(settled, self.live.base, self.live.vectors)
        after = tasks(wanted, self.live.base, self.live.vectors)
        found = change(self._tasks[1], after, self.live.vectors)
        found = {name: moved for name, moved in found.items() if name in self.live.views}
        parameters = [self.live.views[name].parameter for name in found]
        if twice := [name for name in parameters if parameters.count(name) > 1]:
            raise NotMounted(
                f"several tensors of the files fill {twice[0]}, so that its change would be added twice."
            )
        for name in found:
            layers.layers(self.live.module, name, self.live.views[name], self._uses)
        return found

    @contextmanager
    def mounted(self, recipe: Recipe) -> Iterator[nn.Module]:
        """The module, computing as this recipe would have it, for as long as the block lasts; then it is as before.

        A block that calls the module and not all the layers in question does not see the recipe: they are used in
        another way than by calling them, or this input goes round them.

        Raises:
            NotMounted: before the block, saying why this move has to be composed; after it, where a layer was not called.
        """
        if self.live.mounted:
            raise MergingError(
                "adapters are mounted on this module already. Leave that block first."
            )
        if self.live.recipe is None:
            raise NotMounted("the weights in memory are no whole composition; compose one first.")
        held = {
            name: (self._ready(name, moved), moved)
            for name, moved in self.plan(self.live.recipe, recipe).items()
        }
        called: set[str] = set()
        handles = []
        self.live.mounted = True
        try:
            for ready, moved in held.values():
                scale = _scale(ready, moved)
                for layer, pair in zip(ready.layers, ready.pairs, strict=True):
                    hook = _Hook(layer, pair, scale, called)
                    handles.append(layer.module.register_forward_hook(hook, with_kwargs=True))
            yield self.live.module
        finally:
            for handle in handles:
                handle.remove()
            self.live.mounted = False
        silent = sorted(
            {layer.path for ready, _ in held.values() for layer in ready.layers} - called
        )
        if called and silent:
            raise NotMounted(
                f"the model does not call {listed(silent)}, so that what is mounted there is not seen."
            )

    def _ready(self, name: str, moved: dict[str, float]) -> _Held:
        """The factors of the adapters that move, side by side, in the order in which each layer multiplies."""
        adapters = tuple(self._adapter(vector) for vector in moved)
        held = self._held.get(name)
        # `is`: two mappings are equal where all their tensors are, and comparing would read them
        if (
            held
            and len(held.adapters) == len(adapters)
            and all(map(lambda a, b: a is b, held.adapters, adapters))
        ):
            return held
        view = self.live.views[name]
        found = layers.layers(self.live.module, name, view, self._uses)
        region = resolve(self.live.module, view)
        to: dict[str, Any] = {"device": region.device, "dtype": layers.wide(region.dtype)}
        factors = [adapter.factors(name) for adapter in adapters]
        left = torch.cat([one.left for one in factors], dim=1).to(**to)
        right = torch.cat([one.right for one in factors]).to(**to)
        if view.transposed:
            left, right = right.T.contiguous(), left.T.contiguous()
        pairs = tuple(layers.pair(layer.kind, left, right) for layer in found)
        ranks, scales = (
            tuple(one.left.shape[1] for one in factors),
            tuple(one.scale for one in factors),
        )
        self._held[name] = _Held(adapters, ranks, scales, found, pairs)
        return self._held[name]

    def _adapter(self, name: str) -> LoraVector:
        vector = self.live.vectors[name]
        assert isinstance(vector, LoraVector)  # `change` refuses all others
        return vector


def _scale(held: _Held, moved: dict[str, float]) -> Tensor:
    """(rank,): of each rank-one term, its adapter's change times the adapter's own scaling."""
    like = held.pairs[0].up
    each = [
        by * own
        for by, own, rank in zip(moved.values(), held.scales, held.ranks, strict=True)
        for _ in range(rank)
    ]
    return torch.tensor(each, dtype=like.dtype, device=like.device)


class _Hook:
    """A forward hook: the layer's output, with the product's part added."""

    def __init__(
        self, layer: layers.Layer, pair: layers.Pair, scale: Tensor, called: set[str]
    ) -> None:
        self.layer, self.pair, self.scale, self.called = layer, pair, scale, called

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Tensor:
        self.called.add(self.layer.path)
        given = args[0] if args else next(iter(kwargs.values()))  # these layers take one argument
        return (
            layers.added(self.layer.kind, given, self.pair, self.scale)
            .add_(output)
            .to(output.dtype)
        )
