"""What is open: a base, its distribution vectors, validation data, and one module in memory that is their composition."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import SessionError, is_user_error
from workbench.session.composer import Composer
from workbench.session.keys import fingerprint, weights_key
from workbench.session.standing import PLAIN, Choice, Standing

if TYPE_CHECKING:
    from evaluation.loss import Prepared
    from evaluation.model import Loaded
    from merging.inputs.checkpoint import Checkpoint
    from merging.inputs.vector import Vector
    from merging.recipe import Recipe

OMEGA_RANGE = (-1.0, 2.0)


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
        from merging.recipe.fields import unique

        return unique("base", self.names)

    def recipe(
        self, omegas: Mapping[str, float] | Sequence[float], choice: Choice = PLAIN
    ) -> Recipe:
        """The composition with these ω, by name or in the order of the sliders; names left out are 0.

        A vector at ω = 0 takes no part. It stands in the recipe only where its ω does and the number of models is free.

        Raises:
            SessionError: for an ω that is not a number of the sliders' range, a name that is not loaded, no vector left.
            RecipeError: for parameters that the method does not take, or as many vectors.
        """
        from merging.methods import _contract as methods
        from merging.recipe.parts import ModelEntry

        given = self._checked(omegas)
        method, weighted = choice.method, methods.load(choice.method).weighted
        every = weighted and methods.load(method).vectors == (1, None)
        models = [
            replace(source, parameters={methods.WEIGHT: given[source.name]} if weighted else {})
            for source in self.start.models
            if every or given[source.name] != 0
        ]
        if not models:
            raise SessionError(
                f"{method} combines the vectors that take part, and none does. Choose one or more."
            )
        present = {"base", *(source.name for source in models)}
        if methods.load(method).base_role == "vector":
            models.append(ModelEntry(self.start.base or "", self.base_name))
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
        given = (
            dict(omegas)
            if isinstance(omegas, Mapping)
            else dict(zip(self.names, omegas, strict=True))
        )
        low, high = OMEGA_RANGE
        for name, omega in given.items():
            if name not in self.vectors:
                raise SessionError(
                    f"no vector is called {name!r}; loaded are {', '.join(self.names)}."
                )
            if (
                not isinstance(omega, int | float)
                or not math.isfinite(omega)
                or not low <= omega <= high
            ):
                raise SessionError(
                    f"ω of {name} is {omega}; give a number from {low:g} to {high:g}."
                )
        # -0.0 would be another recipe than 0.0 with the same weights
        return {name: float(given.get(name, 0.0)) + 0.0 for name in self.names}

    def identity(self, recipe: Recipe) -> str:
        """The key under which measurements of a composition are kept: the very files, and the ω that take part."""
        known = {name: vector.identity for name, vector in self.vectors.items()} | {
            self.base_name: self.base.identity
        }
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
        from merging.inputs.vector import DistributionVector
        from merging.inputs.vocabulary.align import arrange

        base = Checkpoint(self.base.path)
        wanted = self.names if recipe is None else [source.name for source in recipe.models]
        folders = {
            name: Path(self.vectors[name].path or name) for name in wanted if name in self.vectors
        }
        arrangement = arrange(base, folders, self.start.vocabulary)
        vectors = {
            name: open_vector(folder, base, name, arrangement) for name, folder in folders.items()
        }
        if self.base_name in wanted:
            vectors[self.base_name] = DistributionVector(self.base_name, base, base)
        return base, vectors

    def standing_of(self, recipe: Recipe) -> Standing | None:
        """Where a page's sliders and fields make the weights of a recipe; None if they cannot."""
        given = recipe.omegas
        try:
            if all(isinstance(given.get(name, 0.0), int | float) for name in self.names):
                omegas = tuple(float(given.get(name, 0.0)) for name in self.names)
            else:  # a method without ω
                omegas = tuple(float(name in given) for name in self.names)
            made = Standing(omegas, Choice.of(recipe.method, dict(recipe.parameters)))
            return (
                made
                if weights_key(self.recipe(made.omegas, made.choice)) == weights_key(recipe)
                else None
            )
        except Exception as error:  # gradients and filters of ω, parameters per layer
            if not is_user_error(error):
                raise
            return None
