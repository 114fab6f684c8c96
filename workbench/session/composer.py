"""Composer: the only way to change the live module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.session.tickets import Stale

if TYPE_CHECKING:
    from evaluation.model import Loaded
    from merging.inputs.vector import Vector
    from merging.live.live_model import LiveModel
    from merging.live.mount import Mounts
    from merging.recipe import Recipe


class Composer:
    """Holds the live module and composes recipes into it.

    Not safe for threads: the session holds a lock around every call except `check`.

    Args:
        folder: the folder of the base.
        loaded: the live module, with where its tensors are.
        base: tensor name -> weight of the base.
        vectors: name -> distribution vector, with one of the base itself for methods that take it.
    """

    def __init__(
        self, folder: Path, loaded: Loaded, base: Mapping[str, Any], vectors: Mapping[str, Vector]
    ):
        self._folder, self._loaded, self._base, self._vectors = folder, loaded, base, vectors
        self._live: LiveModel | None = None
        self._mounts: Mounts | None = None
        self._assembled: tuple[str, Any] | None = None

    def check(self, recipe: Recipe) -> None:
        """Refuses a recipe that cannot be composed, from names and shapes only.

        It may run in another thread while the module is being composed.

        Raises:
            MergingError: what composing would raise, except for errors that only the values of the
                weights show.
        """
        from merging.engine.tasks import tasks

        # A closed-form method reads all vectors to find its ω: that is most of the composing.
        if recipe.definition.closed_form is None:
            tasks(recipe, self._base, self._vectors)

    def stands(self, recipe: Recipe) -> bool:
        """Returns whether the module has exactly the weights of this recipe now.

        It may be asked from any thread, but without the session's lock the answer may be old.
        """
        if self._loaded.reloads:
            return self._assembled is not None and self._assembled[0] == recipe.digest
        composed = self._live.recipe if self._live else None
        return composed is not None and composed.digest == recipe.digest

    def compose(self, recipe: Recipe, stale: Stale = lambda: False) -> Any:
        """Returns the live module with exactly the weights of this recipe.

        Raises:
            Stopped: `stale` became true before the end. The module then holds a part of the recipe,
                and the next call starts from there.
        """
        if self._loaded.reloads:
            return self._assemble(recipe)
        live = self._in_place()
        # An equal recipe would write nothing, but its tasks would be resolved again, and for that a
        # closed-form method reads every vector.
        if not self.stands(recipe):
            live.apply(recipe, stale)
            # An interrupted `apply` returns without an error, and only its recipe is None. The
            # module is then a mixture of two recipes, on which nothing must be measured.
            if live.recipe is None:
                from evaluation.errors import Stopped

                raise Stopped("a newer composition was asked for")
        return self._loaded.module

    @contextmanager
    def mounted(
        self, settled: Recipe, recipe: Recipe, stale: Stale = lambda: False
    ) -> Iterator[Any]:
        """Makes the module compute as another recipe would, without writing a weight.

        The module holds the weights of the settled recipe. While the block lasts, the difference of
        the LoRA vectors is added to its activations.

        Args:
            settled: the recipe that the module is composed to.
            recipe: the recipe to compute as; it differs from `settled` only in ω of LoRA vectors.
            stale: asked while `settled` is composed.

        Raises:
            NotMounted: this difference has to be composed; the message says why.
            Stopped: `stale` became true before the block.
        """
        from merging.errors import NotMounted
        from merging.live.mount import Mounts

        if self._loaded.reloads:
            raise NotMounted(
                "this model's tensors are not plain copies of those in its files, so each "
                "composition is loaded anew."
            )
        # Kept for the whole drag: it holds the joined factors of the adapters, which moves do not
        # change.
        self._mounts = self._mounts or Mounts(self._in_place())
        self._mounts.plan(settled, recipe)  # raises NotMounted before anything is composed
        self.compose(settled, stale)
        with self._mounts.mounted(recipe) as module:
            yield module

    def _in_place(self) -> LiveModel:
        """Returns the writer of weights into the module, made at the first call."""
        if self._live is None:
            from merging.engine.accelerator import open_accelerator
            from merging.live.live_model import LiveModel

            device = open_accelerator(str(next(self._loaded.module.parameters()).device))
            self._live = LiveModel(
                self._loaded.module, self._base, self._vectors, self._loaded.views, device=device
            )
        return self._live

    def _assemble(self, recipe: Recipe) -> Any:
        """Returns a new module for the recipe, loaded by transformers.

        For models whose parameters are not plain copies of the tensors in their files.
        """
        if self._assembled is None or not self.stands(recipe):
            from merging.engine.loop import merge
            from merging.live.assemble import assemble

            self._assembled = None  # frees the old module before the new one takes its memory
            weights = dict(merge(recipe, self._base, self._vectors))
            like = next(self._loaded.module.parameters())
            module = assemble(self._folder, weights, dtype=like.dtype, device=like.device)
            self._assembled = (recipe.digest, module)
        return self._assembled[1]
