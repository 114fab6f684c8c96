"""Models: the open base, its distribution vectors, validation data and the live module."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import SessionError
from workbench.session.composer import Composer
from workbench.session.keys import composition_key, fingerprint
from workbench.session.standing import PLAIN, Choice, uniform

if TYPE_CHECKING:
    from corpus.prompts import Prompt
    from evaluation.model import Loaded
    from evaluation.prepared import Prepared
    from merging.analysis.geometry import Geometry
    from merging.inputs.checkpoint import Checkpoint
    from merging.inputs.vector import Vector
    from merging.recipe import Recipe

OMEGA_RANGE = (-1.0, 2.0)
"""The lowest and the highest ω of a slider."""


@dataclass(frozen=True)
class DataSet:
    """One validation dataset, tokenised once.

    Attributes:
        name: its folder's name.
        prepared: size (QUICK or FULL) -> tokenised examples; FULL begins with the batches of QUICK.
        keys: size -> digest of exactly these examples.
        prompts: the first few prompts, offered to the user.
    """

    name: str
    prepared: Mapping[str, Prepared]
    keys: Mapping[str, str]
    prompts: tuple[Prompt, ...]


@dataclass(frozen=True)
class Models:
    """One set of open models.

    Immutable, except that the live module holds the last composition and the geometry is measured
    only when it is asked for.

    Attributes:
        base: the base.
        vectors: name -> distribution vector, in the order of the sliders.
        start: the recipe with all ω at 0, which gives the base.
        best: name -> best known ω, from the recipe beside the base; None if there is none.
        loaded: the live module, its tokenizer and where its weights are.
        composer: the only way to change the live module.
        data: name -> validation dataset.
        data_folder: the folder of `data`, or None if no data are open.
        memory: where the weights are held, as a sentence for the user.
        notes: what the preflight and the loader reported.
    """

    base: Checkpoint
    vectors: Mapping[str, Vector]
    start: Recipe
    best: Mapping[str, float] | None
    loaded: Loaded
    composer: Composer
    data: Mapping[str, DataSet]
    data_folder: Path | None
    memory: str
    notes: tuple[str, ...] = field(default=())
    # At most one Geometry. A list, because a frozen dataclass has no other place for a late value.
    _geometry: list[Geometry] = field(default_factory=list, init=False, repr=False, compare=False)
    _geometry_lock: threading.Lock = field(
        default_factory=threading.Lock, init=False, repr=False, compare=False
    )

    @property
    def names(self) -> list[str]:
        """The vectors' names, in the order of the sliders."""
        return list(self.vectors)

    @property
    def named_folders(self) -> list[tuple[Path, str | None]]:
        """The folder and the name of each vector, as open_models takes them."""
        return [(Path(vector.path or ""), name) for name, vector in self.vectors.items()]

    @property
    def checkpoints(self) -> list[Path]:
        """The folders of the vectors."""
        return [Path(vector.path or "") for vector in self.vectors.values()]

    @property
    def adapters(self) -> list[str]:
        """The names of the LoRA vectors: their moves can be previewed without composing."""
        from merging import LoraVector

        return [name for name, vector in self.vectors.items() if isinstance(vector, LoraVector)]

    def tokenizer(self) -> Any:
        """Returns the tokenizer of the base.

        Raises:
            SessionError: the base has none.
        """
        if self.loaded.tokenizer is None:
            raise SessionError(
                "the base has no tokenizer, so it cannot generate text. "
                "Copy tokenizer.json and tokenizer_config.json into its folder."
            )
        return self.loaded.tokenizer

    @property
    def base_name(self) -> str:
        """The name of the base in recipes of methods that take it as one more model."""
        from merging.recipe.fields import unique_name

        return unique_name("base", self.names)

    @cached_property
    def key(self) -> str:
        """Identifies the open models and data: a page compares it with those that it shows."""
        vectors = [(name, vector.identity) for name, vector in self.vectors.items()]
        data = [(name, data.keys) for name, data in self.data.items()]
        return fingerprint([str(self.base.path), self.base.identity, vectors, data])[:16]

    @cached_property
    def identities(self) -> dict[str, str]:
        """Name of a vector -> what identifies its files."""
        return {name: vector.identity for name, vector in self.vectors.items()}

    def omegas(self, by_name: Mapping[str, float]) -> tuple[float, ...]:
        """Returns the ω of all vectors in the order of the sliders, checked; see `recipe`."""
        return tuple(self._validate(by_name).values())

    def recipe(
        self, omegas: Mapping[str, float] | Sequence[float], choice: Choice = PLAIN
    ) -> Recipe:
        """Returns the recipe of a composition of the open models.

        A vector at ω = 0 takes no part. The recipe still lists it if the method has ω and takes any
        number of models, so that the recipe names every slider.

        Args:
            omegas: ω by name (names left out are 0), or of all vectors in the order of the sliders.
            choice: the merge method and its parameters.

        Raises:
            SessionError: an ω is not a number in OMEGA_RANGE, a name is not open, or no vector is
                left for a method that needs one.
            RecipeError: the method does not take these parameters or this number of vectors.
        """
        from merging.methods import _contract as methods
        from merging.recipe.parts import ModelEntry

        by_name = self._validate(omegas)
        method, weighted = choice.method, methods.load(choice.method).weighted
        # For a method without ω, or with a fixed number of models, a listed vector is an input like
        # any other, so a slider at 0 has to leave it out.
        lists_all = weighted and methods.load(method).vectors == (1, None)
        models = [
            replace(source, parameters={methods.WEIGHT: by_name[source.name]} if weighted else {})
            for source in self.start.models
            if lists_all or by_name[source.name] != 0
        ]
        if not models:
            raise SessionError(
                f"{method} combines the vectors whose ω is not 0, and all are 0. "
                "Choose one vector or more."
            )
        # A digest of a vector that takes no part would make equal compositions different recipes.
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

    def preset(self, name: str) -> tuple[float, ...]:
        """Returns the ω of a preset, in the order of the sliders.

        Args:
            name: "base" (all 0), "uniform" (1 / number of vectors), "best" (the best known ω), or
                "only:NAME" (one vector at 1, the others at 0).

        Raises:
            SessionError: no best ω are known, or no vector has this name.
        """
        if name == "base":
            return (0.0,) * len(self.names)
        if name == "uniform":
            return (uniform(len(self.names)),) * len(self.names)
        if name == "best":
            if self.best is None:
                raise SessionError(
                    "no best ω are known for these models. Put a recipe.yml that names these "
                    "vectors beside the base's folder, or run a search."
                )
            return tuple(self.best[key] for key in self.names)
        alone = name.removeprefix("only:")
        return tuple(self.recipe({alone: 1.0}).omegas[key] for key in self.names)

    def _validate(self, omegas: Mapping[str, float] | Sequence[float]) -> dict[str, float]:
        """Returns the ω of every vector by name, or raises SessionError."""
        if not isinstance(omegas, Mapping) and len(omegas) != len(self.names):
            raise SessionError(
                f"this page has {len(omegas)} ω, but {len(self.names)} vectors are open: other "
                "models were opened. Reload this page."
            )
        given = omegas if isinstance(omegas, Mapping) else zip(self.names, omegas, strict=True)
        by_name = dict(given)
        low, high = OMEGA_RANGE
        for name, omega in by_name.items():
            if name not in self.vectors:
                raise SessionError(
                    f"no vector is called {name!r}; open are {', '.join(self.names)}."
                )
            # The page is not trusted. By type(), because for Python true is the number 1. NaN is
            # in no range.
            if type(omega) not in (int, float) or not low <= omega <= high:
                raise SessionError(
                    f"ω of {name} is {str(omega)[:40]}; give a number from {low:g} to {high:g}."
                )
        # Adding 0.0 turns -0.0 into 0.0: they give the same weights, but two different recipes.
        return {name: float(by_name.get(name, 0.0)) + 0.0 for name in self.names}

    def identity(self, recipe: Recipe) -> str:
        """Returns the key under which the losses of a composition are cached.

        It covers the files. Runs and the ledger have another key, keys.weights_key.
        """
        identities = self.identities | {self.base_name: self.base.identity}
        return composition_key(recipe, self.base.identity, identities)

    def content_key(self, recipe: Recipe) -> str:
        """Returns a key of a composition that is the same wherever its files lie."""
        digests = {name: vector.digest for name, vector in self.vectors.items()}
        digests[self.base_name] = self.base.digest
        return composition_key(recipe, self.base.digest, digests)

    def reopened(self, recipe: Recipe | None = None) -> tuple[Checkpoint, dict[str, Vector]]:
        """Opens the base and its vectors a second time, for work beside the live module.

        A vector caches the last chunk that it computed, so two threads must not share one.

        Args:
            recipe: opens only the vectors that it names; all vectors if None.

        Returns:
            The base, and the vectors by name.
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

    @property
    def has_geometry(self) -> bool:
        """Whether the geometry was measured."""
        return bool(self._geometry)

    def measured_geometry(
        self, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> Geometry:
        """Returns the cosines and distances of the vectors; measured once, in one pass over files.

        Args:
            progress: called with the number of tensors done and in all.
        """
        from merging.analysis.geometry import measure

        # Held during the whole pass: two pages that ask at once would both read every file.
        with self._geometry_lock:
            if not self._geometry:
                self._geometry.append(measure(*self.reopened(), progress))
            return self._geometry[0]
