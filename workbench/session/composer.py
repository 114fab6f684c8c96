"""Composer: the one way to change the module in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.session.sizes import Stale

if TYPE_CHECKING:
    from evaluation.model import Loaded
    from merging.inputs.vector import Vector
    from merging.live.live_model import LiveModel
    from merging.live.mount import Mounts
    from merging.recipe import Recipe


class Composer:
    """The module in memory and the one way to change it. Not safe for threads; the session holds the lock."""

    def __init__(
        self, folder: Path, loaded: Loaded, base: Mapping[str, Any], vectors: Mapping[str, Vector]
    ):
        self._folder, self._loaded, self._base, self._vectors = folder, loaded, base, vectors
        self._live: LiveModel | None = None
        self._mounts: Mounts | None = None
        self._assembled: tuple[str, Any] | None = None

    def check(self, recipe: Recipe) -> None:
        """Refuse a recipe that cannot be carried out, from names and shapes only; safe beside a composition.

        Raises:
            MergingError: as composing would raise it, except for what only the values of the weights can tell.
        """
        from merging.engine.tasks import tasks

        # these methods read all vectors to find their ω, which is a part of composing
        if not (recipe.definition.closed_form is not None):
            tasks(recipe, self._base, self._vectors)

    def compose(self, recipe: Recipe, stale: Stale = lambda: False) -> Any:
        """The module, exactly as this recipe says.

        Raises:
            Stopped: it became stale on the way; the next composition goes on from there.
        """
        if self._loaded.reloads:
            return self._assemble(recipe)
        live = self._in_place()
        if live.recipe is None or live.recipe.digest != recipe.digest:
            live.apply(recipe, stale)
            if live.recipe is None:
                from evaluation.errors import Stopped

                raise Stopped("a newer composition was asked for")
        return self._loaded.module

    @contextmanager
    def mounted(
        self, settled: Recipe, recipe: Recipe, stale: Stale = lambda: False
    ) -> Iterator[Any]:
        """The module at what is settled, computing as another recipe would have it while the block lasts.

        Raises:
            NotMounted: saying why this move has to be composed.
            Stopped: it became stale before the block.
        """
        from merging.errors import NotMounted
        from merging.live.mount import Mounts

        if self._loaded.reloads:
            raise NotMounted(
                "this model's tensors are no plain copies of its files', so each composition is loaded anew."
            )
        self._mounts = self._mounts or Mounts(self._in_place())
        self._mounts.plan(settled, recipe)  # before anything is composed for it
        self.compose(settled, stale)
        with self._mounts.mounted(recipe) as module:
            yield module

    def _in_place(self) -> LiveModel:
        """The module as one whose weights are written where they are."""
        if self._live is None:
            from merging.engine.accelerator import open_accelerator
            from merging.live.live_model import LiveModel

            place = open_accelerator(str(next(self._loaded.module.parameters()).device))
            self._live = LiveModel(
                self._loaded.module, self._base, self._vectors, self._loaded.views, place=place
            )
        return self._live

    def _assemble(self, recipe: Recipe) -> Any:
        """For a model whose file tensors are no plain copies: through transformers' own loader, each time."""
        if self._assembled is None or self._assembled[0] != recipe.digest:
            from evaluation.model import assemble
            from merging.engine.loop import merge

            self._assembled = None  # the old one is freed before the new one is made
            weights = dict(merge(recipe, self._base, self._vectors))
            like = next(self._loaded.module.parameters())
            module = assemble(self._folder, weights, dtype=like.dtype, device=like.device)
            self._assembled = (recipe.digest, module)
        return self._assembled[1]
