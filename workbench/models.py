"""What is open: a base, its distribution vectors, validation data, and one module in memory that is their composition."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.choice import PLAIN, Choice
from workbench.errors import SessionError
from workbench.lossbook import fingerprint

if TYPE_CHECKING:
    from evaluation.loss import Prepared
    from evaluation.model import Loaded
    from merging.checkpoint import Checkpoint
    from merging.live import LiveModel
    from merging.mounted.mount import Mounts
    from merging.recipe import Recipe
    from merging.vector import Vector

Stale = Callable[[], bool]
OMEGA_RANGE = (-1.0, 2.0)
QUICK, FULL = "quick", "full"
QUICK_EXAMPLES = 12
"""Examples per dataset of the first, quick measurement; the same ones every time."""


@dataclass(frozen=True)
class DataSet:
    """One validation dataset: its examples, tokenised once, quick and whole."""

    name: str
    prepared: Mapping[str, Prepared]
    keys: Mapping[str, str]
    """Size (quick or full) -> identity of exactly these examples."""
    prompts: tuple[str, ...]
    """A few prompts to try."""


@dataclass(frozen=True)
class Models:
    """One set of open models. Immutable, except that the live module is whichever composition was written last."""

    base: Checkpoint
    vectors: Mapping[str, Vector]
    start: Recipe
    """All ω are zero: the base."""
    best: Mapping[str, float] | None
    """The best known ω, where a recipe beside the base names them."""
    loaded: Loaded
    composer: Composer
    data: Mapping[str, DataSet]
    data_folder: Path | None
    memory: str
    """Where the weights are held, in words."""
    notes: tuple[str, ...] = field(default=())

    @property
    def names(self) -> list[str]:
        """The vectors' names, in the order of the sliders."""
        return list(self.vectors)

    @property
    def checkpoints(self) -> list[Path]:
        """The folders of the vectors."""
        return [Path(vector.path or "") for vector in self.vectors.values()]

    @property
    def adapters(self) -> list[str]:
        """The names of those vectors whose moves can be shown without composing."""
        from merging import LoraVector

        return [name for name, vector in self.vectors.items() if isinstance(vector, LoraVector)]

    @property
    def base_name(self) -> str:
        """What the base is called where a method takes it as one more model."""
        from merging.recipe.values import unique

        return unique("base", self.names)

    def recipe(self, omegas: Mapping[str, float] | Sequence[float], choice: Choice = PLAIN) -> Recipe:
        """The composition with these ω, by name or in the order of the sliders; names left out are 0.

        A vector at ω = 0 takes no part. It stands in the recipe only where its ω does and the number of models is free.

        Raises:
            SessionError: for an ω that is not a number of the sliders' range, a name that is not loaded, no vector left.
            RecipeError: for parameters that the method does not take, or as many vectors.
        """
        from merging import method as methods
        from merging.recipe.value import Source

        given = self._checked(omegas)
        method, weighted = choice.method, methods.weighted(choice.method)
        every = weighted and methods.span(method) == (1, None)
        models = [
            replace(source, parameters={methods.WEIGHT: given[source.name]} if weighted else {})
            for source in self.start.models
            if every or given[source.name] != 0
        ]
        if not models:
            raise SessionError(f"{method} combines the vectors that take part, and none does. Choose one or more.")
        present = {"base", *(source.name for source in models)}
        if methods.role_of_base(method) == "vector":
            models.append(Source(self.start.base or "", self.base_name))
        return replace(
            self.start,
            models=tuple(models),
            method=method,
            parameters=dict(choice.parameters),
            inputs={name: digest for name, digest in self.start.inputs.items() if name in present},
        )

    def _checked(self, omegas: Mapping[str, float] | Sequence[float]) -> dict[str, float]:
        """Every vector's ω, by name."""
        if not isinstance(omegas, Mapping) and len(omegas) != len(self.names):
            raise SessionError(
                f"{len(omegas)} ω are given for {len(self.names)} vectors: other models were opened. Reload this page."
            )
        given = dict(omegas) if isinstance(omegas, Mapping) else dict(zip(self.names, omegas, strict=True))
        low, high = OMEGA_RANGE
        for name, omega in given.items():
            if name not in self.vectors:
                raise SessionError(f"no vector is called {name!r}; loaded are {', '.join(self.names)}.")
            if not isinstance(omega, int | float) or not math.isfinite(omega) or not low <= omega <= high:
                raise SessionError(f"ω of {name} is {omega}; give a number from {low:g} to {high:g}.")
        # -0.0 would be another recipe than 0.0 with the same weights
        return {name: float(given.get(name, 0.0)) + 0.0 for name in self.names}

    def identity(self, recipe: Recipe) -> str:
        """The key under which measurements of a composition are kept: the very files, and the ω that take part."""
        known = {name: vector.identity for name, vector in self.vectors.items()} | {self.base_name: self.base.identity}
        parts = [
            # random masks depend on a vector's name
            (known[source.name], source.name, dict(source.parameters))
            for source in recipe.models
            if recipe.omegas[source.name] != 0.0
        ]
        chosen = [list(recipe.include), list(recipe.exclude), recipe.rounding]
        settings = [recipe.method, dict(recipe.parameters), recipe.dtype, recipe.seed]
        return fingerprint([self.base.identity, parts, *settings, *chosen])

    def reopened(self, recipe: Recipe | None = None) -> tuple[Checkpoint, dict[str, Vector]]:
        """Base and vectors opened anew: vectors keep the last chunk they computed, and the live model uses its own.

        Args:
            recipe: open the vectors that it names, instead of all.
        """
        from merging import Checkpoint, open_vector
        from merging.vector import DistributionVector
        from merging.vocabulary.arrange import arrange

        base = Checkpoint(self.base.path)
        wanted = self.names if recipe is None else [source.name for source in recipe.models]
        folders = {name: Path(self.vectors[name].path or name) for name in wanted if name in self.vectors}
        arrangement = arrange(base, folders, self.start.vocabulary)
        vectors = {name: open_vector(folder, base, name, arrangement) for name, folder in folders.items()}
        if self.base_name in wanted:
            vectors[self.base_name] = DistributionVector(self.base_name, base, base)
        return base, vectors


class Composer:
    """The module in memory and the one way to change it. Not safe for threads; the session holds the lock."""

    def __init__(self, folder: Path, loaded: Loaded, base: Mapping[str, Any], vectors: Mapping[str, Vector]):
        self._folder, self._loaded, self._base, self._vectors = folder, loaded, base, vectors
        self._live: LiveModel | None = None
        self._mounts: Mounts | None = None
        self._assembled: tuple[str, Any] | None = None

    def check(self, recipe: Recipe) -> None:
        """Refuse a recipe that cannot be carried out, from names and shapes only; safe beside a composition.

        Raises:
            MergingError: as composing would raise it, except for what only the values of the weights can tell.
        """
        from merging import method as methods
        from merging.task import tasks

        # these methods read all vectors to find their ω, which is a part of composing
        if not hasattr(methods.load(recipe.method), "closed_form"):
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
    def mounted(self, settled: Recipe, recipe: Recipe, stale: Stale = lambda: False) -> Iterator[Any]:
        """The module at what is settled, computing as another recipe would have it while the block lasts.

        Raises:
            NotMounted: saying why this move has to be composed.
            Stopped: it became stale before the block.
        """
        from merging.errors import NotMounted
        from merging.mounted.mount import Mounts

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
            from merging.device import named
            from merging.live import LiveModel

            place = named(str(next(self._loaded.module.parameters()).device))
            self._live = LiveModel(self._loaded.module, self._base, self._vectors, self._loaded.views, place=place)
        return self._live

    def _assemble(self, recipe: Recipe) -> Any:
        """For a model whose file tensors are no plain copies: through transformers' own loader, each time."""
        if self._assembled is None or self._assembled[0] != recipe.digest:
            from evaluation.model import assemble
            from merging.merge import merge

            self._assembled = None  # the old one is freed before the new one is made
            weights = dict(merge(recipe, self._base, self._vectors))
            like = next(self._loaded.module.parameters())
            module = assemble(self._folder, weights, dtype=like.dtype, device=like.device)
            self._assembled = (recipe.digest, module)
        return self._assembled[1]
