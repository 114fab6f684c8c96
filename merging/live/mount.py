"""Mounts adapters on the layers of a LiveModel while a slider is dragged.

    y = W x + Σ (cᵢ' − cᵢ) · sᵢ Bᵢ (Aᵢ x)

W are the settled weights, those of the last composition. cᵢ is the factor that vector i has in
them: ω, times what the method makes of it. cᵢ' is its factor at the slider's present position, and
sᵢ is the adapter's own scaling. A move changes only the scales, a few numbers, and writes no
weight. When the drag ends, the weights are composed from the base as usual.

The products are computed and added in float32 (float64 if the module is float64), whatever the
module's dtype. Their sum with W x is rounded to the module's dtype once. So in bfloat16 the result
differs from that of the composition, which rounds W + Δ.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from merging.engine.task import Task
from merging.engine.tasks import tasks
from merging.errors import MergingError, NotMounted
from merging.inputs.lora_vector import Factors, LoraVector
from merging.live import mount_layers
from merging.live.live_model import LiveModel, resolve
from merging.live.mount_change import Change, change, check
from merging.recipe import Recipe
from plumbing.suggest import listed


class _Factors(NamedTuple):
    """The adapters' factors of one tensor, prepared for its layers; moves do not change them."""

    adapters: tuple[LoraVector, ...]
    """Their factors are concatenated in the pairs, in this order."""
    ranks: tuple[int, ...]
    scales: tuple[float, ...]
    """Each adapter's own scaling, s."""
    peaks: tuple[float, ...]
    """No entry of an adapter's product is larger, before scaling; NaN if a factor has one."""
    layers: tuple[mount_layers.Layer, ...]
    pairs: tuple[mount_layers.Pair, ...]
    """One pair for each layer."""


class Mounts:
    """Adapters mounted on the layers of one live model.

    Args:
        live: the model. Its module's storage must never be replaced, as LiveModel requires.
    """

    def __init__(self, live: LiveModel) -> None:
        self.live = live
        self._uses = mount_layers.uses(live.module)
        self._tasks: tuple[Recipe, list[Task]] | None = None
        self._factors: dict[str, _Factors] = {}

    def plan(self, settled: Recipe, wanted: Recipe) -> Change:
        """Returns what must be mounted on the weights of one recipe to get another.

        Nothing is written, and no tensor is read.

        Raises:
            NotMounted: if this move must be composed; the message says why.
            RecipeError: if composing `wanted` would raise it.
        """
        if self.live.reload:
            raise NotMounted(
                "this model's tensors are not plain copies of those in its files, so each "
                "composition is loaded anew."
            )
        check(settled, wanted)
        # A drag plans many moves from the same settled recipe, so its tasks are resolved once.
        if self._tasks is None or self._tasks[0] != settled:
            self._tasks = settled, tasks(settled, self.live.base, self.live.vectors)
        after = tasks(wanted, self.live.base, self.live.vectors)
        changed = change(self._tasks[1], after, self.live.vectors)
        # Several names of one tensor have one memory, to which its change is added once.
        first = {task.name: task.computed.name for task in after}
        once = {first[name]: name for name in reversed(changed) if name in self.live.views}
        kept = set(once.values())
        changed = {name: moved for name, moved in changed.items() if name in kept}
        parameters = [self.live.views[name].parameter for name in changed]
        if twice := [name for name in parameters if parameters.count(name) > 1]:
            raise NotMounted(
                f"several tensors of the files fill {twice[0]}, so its change would be added twice."
            )
        # Called for its errors: a layer that cannot be mounted is refused before any is.
        for name in changed:
            mount_layers.layers(self.live.module, name, self.live.views[name], self._uses)
        return changed

    @contextmanager
    def mounted(self, recipe: Recipe) -> Iterator[nn.Module]:
        """Makes the module compute with this recipe for the length of the block.

        The module is as before when the block ends. A block that calls the module, but not every
        layer with a mounted adapter, does not compute with the recipe: the model uses such a layer
        without calling it, or this input bypasses it.

        Raises:
            NotMounted: before the block, if this move must be composed; after it, if a layer was
                not called.
            MergingError: if adapters are mounted already.
        """
        if self.live.mounted:
            raise MergingError(
                "adapters are mounted on this module already. Leave that `mounted` block first."
            )
        if self.live.recipe is None:
            raise NotMounted(
                "the weights in memory are an incomplete composition. Compose a recipe first."
            )
        held = {
            name: (self._factors_of(name, moved), moved)
            for name, moved in self.plan(self.live.recipe, recipe).items()
        }
        for name, (factors, moved) in held.items():
            _check_size(name, factors, moved, resolve(self.live.module, self.live.views[name]))
        called: set[str] = set()
        handles = []
        self.live.mounted = True
        try:
            for factors, moved in held.values():
                scale = _scale(factors, moved)
                for layer, pair in zip(factors.layers, factors.pairs, strict=True):
                    hook = _Hook(layer, pair, scale, called)
                    handles.append(layer.module.register_forward_hook(hook, with_kwargs=True))
            yield self.live.module
        finally:
            # After an error too: a hook that stays would add to every later composition.
            for handle in handles:
                handle.remove()
            self.live.mounted = False
        silent = sorted(
            {layer.path for factors, _ in held.values() for layer in factors.layers} - called
        )
        # If no layer was called, the block did not run the model, and nothing is wrong.
        if called and silent:
            raise NotMounted(
                f"the model does not call {listed(silent)}, so the adapters mounted there have no "
                "effect."
            )

    def _factors_of(self, name: str, moved: dict[str, float]) -> _Factors:
        """Concatenates the factors of the adapters that move, as each layer multiplies them."""
        adapters = tuple(self._adapter(vector) for vector in moved)
        held = self._factors.get(name)
        # Compared with `is`: vectors are mappings, and == would read and compare all their tensors.
        if (
            held
            and len(held.adapters) == len(adapters)
            and all(map(lambda a, b: a is b, held.adapters, adapters))
        ):
            return held
        view = self.live.views[name]
        layers = mount_layers.layers(self.live.module, name, view, self._uses)
        region = resolve(self.live.module, view)
        to: dict[str, Any] = {
            "device": region.device,
            "dtype": mount_layers.product_dtype(region.dtype),
        }
        products = [adapter.factors(name) for adapter in adapters]
        left = torch.cat([product.left for product in products], dim=1).to(**to)
        right = torch.cat([product.right for product in products]).to(**to)
        # The factors are in the orientation of the file, the layers in that of the module.
        if view.transposed:
            left, right = right.T.contiguous(), left.T.contiguous()
        pairs = tuple(mount_layers.pair(layer.kind, left, right) for layer in layers)
        ranks = tuple(product.left.shape[1] for product in products)
        scales = tuple(product.scale for product in products)
        peaks = tuple(_peak(product) for product in products)
        self._factors[name] = _Factors(adapters, ranks, scales, peaks, layers, pairs)
        return self._factors[name]

    def _adapter(self, name: str) -> LoraVector:
        """Returns the adapter with this name."""
        vector = self.live.vectors[name]
        assert isinstance(vector, LoraVector)  # `change` refuses all others
        return vector


def _scale(factors: _Factors, moved: dict[str, float]) -> Tensor:
    """Returns the scale of each rank-one term, (rank,): its adapter's change times its scaling."""
    like = factors.pairs[0].up
    scales = [
        by * own
        for by, own, rank in zip(moved.values(), factors.scales, factors.ranks, strict=True)
        for _ in range(rank)
    ]
    return torch.tensor(scales, dtype=like.dtype, device=like.device)


def _peak(product: Factors) -> float:
    """Returns a bound of the entries of a product, without its scale: Σ max|left| · max|right|."""
    left, right = product.left.double().abs().amax(0), product.right.double().abs().amax(1)
    return float(left @ right)


def _check_size(name: str, factors: _Factors, moved: dict[str, float], weights: Tensor) -> None:
    """Refuses a change that may make a weight infinite, and one that is not a number.

    Composing it shows whether it does, and refuses it then.

    Raises:
        NotMounted: in these cases.
    """
    sizes = zip(moved.values(), factors.scales, factors.peaks, strict=True)
    bound = sum(abs(by * scale) * peak for by, scale, peak in sizes)
    # A sum with the largest number rounds to it again, if the other is below half its spacing.
    info = torch.finfo(weights.dtype)
    # Not written `bound > …`, which is false of NaN.
    if not bound < info.max * info.eps / 4:
        raise NotMounted(
            f"the change of {name} is too large to be added without composing it, or not finite."
        )


class _Hook:
    """A forward hook that adds the low-rank product to a layer's output."""

    def __init__(
        self,
        layer: mount_layers.Layer,
        pair: mount_layers.Pair,
        scale: Tensor,
        called: set[str],
    ) -> None:
        self.layer, self.pair, self.scale, self.called = layer, pair, scale, called

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Tensor:
        self.called.add(self.layer.path)
        # These layers take one argument, by position or by keyword.
        inputs = args[0] if args else next(iter(kwargs.values()))
        product = mount_layers.product_output(self.layer.kind, inputs, self.pair, self.scale)
        return product.add_(output).to(output.dtype)
