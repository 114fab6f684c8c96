"""Recipe: a merge as a value. Sliders edit it, searches propose it, results and exports record it.

The file is mergekit's YAML, so that a recipe runs in either tool. What mergekit has no key for is
in a `dem:` block, which mergekit ignores:

    merge_method: task_arithmetic
    base_model: models/base
    models:
      - model: models/cot
        parameters: {weight: 0.7}
    dtype: bfloat16
    dem: {names: [cot], seed: 0, inputs: {base: …sha256…, cot: …}}
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from merging.errors import RecipeError
from merging.methods import _contract as methods
from merging.paths import is_adapter
from merging.recipe import fields, parts, rules
from merging.recipe.parts import ModelEntry, Slice
from merging.recipe.settings import Setting
from plumbing.suggest import nearest


@dataclass(frozen=True)
class Recipe:
    """A merge: which weights, which method, which ω, which output dtype.

    Attributes:
        base: folder or hub id of the base. None only for methods that need no base; the first
            model then gives the names and files.
        models: the fine-tuned checkpoints, in the order of the sum.
        method: the merge method, by its name in recipes.
        parameters: the method's parameters that are the same for all models.
        dtype: mergekit's key: the dtype of the output if `out_dtype` is None.
        out_dtype: the dtype of the output; None for `dtype`, or the base's own if both are None.
        seed: seeds the methods that draw random numbers, and stochastic rounding.
        inputs: name ('base', or a model's name) -> digest of the weights the recipe was made for.
        allow_unrelated: merge checkpoints even if they do not descend from the base.
        include: parts of tensor names. Only tensors with one of them in their name are merged, and
            all others stay the base's; () merges all.
        exclude: parts of tensor names. Tensors with one of them in their name stay the base's.
        rounding: how values are rounded to the output dtype: 'nearest', or 'stochastic', which is
            unbiased and seeded; see merging.engine.stochastic_rounding.
        revision: the hub commit of a base that came from the hub, so that it is read again at that
            commit. It is not part of the digest, because `inputs` identifies the weights.
        vocabulary: what is done with a checkpoint of another vocabulary: 'refuse', 'base' or
            'union'; see merging.inputs.vocabulary.
        slices: layers restacked from the models, which then hold the models' parameters; () merges
            whole models. See merging.engine.restack.
    """

    base: str | None
    models: tuple[ModelEntry, ...]
    method: str = "task_arithmetic"
    parameters: Mapping[str, Setting] = field(default_factory=dict)
    dtype: str | None = None
    out_dtype: str | None = None
    seed: int = 0
    inputs: Mapping[str, str] = field(default_factory=dict)
    allow_unrelated: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    rounding: str = "nearest"
    revision: str = ""
    vocabulary: str = "refuse"
    slices: tuple[Slice, ...] = ()

    def __post_init__(self) -> None:
        models, slices = self.models, self.slices
        if slices:
            rules.check_slices(self.method, models, slices, self.vocabulary)
            slices = self._check_slices()
        else:
            # First, because it may add the base as a model, which the checks below must see.
            models = rules.with_base(self.method, self.base, models)
        checked = rules.check_settings(self.method, models, self.parameters, restacked=bool(slices))
        checked |= {
            "slices": slices,
            "dtype": fields.dtype(self.dtype, "dtype"),
            "out_dtype": fields.dtype(self.out_dtype, "out_dtype"),
            "seed": fields.seed(self.seed),
            "include": fields.parts(self.include, "include"),
            "exclude": fields.parts(self.exclude, "exclude"),
            "rounding": fields.word(self.rounding, "dem.rounding", fields.ROUNDINGS),
            "vocabulary": fields.word(self.vocabulary, "dem.vocabulary", fields.VOCABULARIES),
        }
        # The value is frozen for everybody else; here it takes the one form of equal recipes.
        for key, value in checked.items():
            object.__setattr__(self, key, value)

    @classmethod
    def compose(
        cls,
        base: str | Path,
        models: Mapping[str, str | Path],
        omegas: Mapping[str, float] | None = None,
        **more: Any,
    ) -> "Recipe":
        """Makes a recipe from folders.

        Args:
            base: folder of the base.
            models: name -> folder of a checkpoint or adapter.
            omegas: name -> ω; 0 for names that are not in it.
            **more: other fields of the recipe.
        """
        weighted = methods.load(more.get("method", "task_arithmetic")).weighted
        sources = tuple(
            ModelEntry(
                # An adapter is written as mergekit writes it, base+adapter.
                path=str(base) if is_adapter(path) else str(path),
                name=name,
                parameters={methods.WEIGHT: (omegas or {}).get(name, 0.0)} if weighted else {},
                lora=str(path) if is_adapter(path) else None,
            )
            for name, path in models.items()
        )
        return cls(base=str(base), models=sources, **more)

    @property
    def definition(self) -> methods.Method:
        """The merge method as a value."""
        return methods.load(self.method)

    @property
    def digest(self) -> str:
        """The first 12 hex digits of a SHA-256 over all fields that decide the result."""
        facts: dict[str, Any] = {
            "method": self.method,
            "base": self.base,
            # Names too, because they seed random masks.
            "models": [
                (source.path, source.lora, source.name, dict(source.parameters))
                for source in self.models
            ],
            "parameters": dict(self.parameters),
            "dtype": self.dtype,
            "out_dtype": self.out_dtype,
            "seed": self.seed,
            "inputs": dict(sorted(self.inputs.items())),
        }
        # Fields that came later count only if set: older recipes keep the digests in the run store.
        later = {"include": self.include, "exclude": self.exclude, "rounding": self.rounding}
        later |= {"vocabulary": self.vocabulary}
        facts |= {
            key: value for key, value in later.items() if value not in ((), "nearest", "refuse")
        }
        # Another stream of random numbers makes other masks.
        facts |= {"draws": self.definition.draws} if self.definition.draws else {}
        facts |= {"slices": parts.slices_as_lists(self.slices)} if self.slices else {}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def omegas(self) -> dict[str, Setting]:
        """Name -> ω as written: a number, a gradient or rules; None if the method has no ω."""
        return {source.name: self.weight(source) for source in self.models}

    @property
    def lists_base(self) -> bool:
        """Whether the base is one of the models."""
        return any(source.location == self.base for source in self.models)

    def weight(self, source: ModelEntry) -> Setting:
        """Returns the ω of one model as written: its own, else the recipe's, else None."""
        return source.parameters.get(methods.WEIGHT, self.parameters.get(methods.WEIGHT))

    def with_omegas(self, omegas: Mapping[str, float]) -> "Recipe":
        """Returns this recipe with other ω for the given names.

        Raises:
            RecipeError: a name is not in the recipe, an ω is not a finite number, the method has no
                ω, or the recipe has slices.
        """
        names = [source.name for source in self.models]
        if not self.definition.weighted:
            raise RecipeError(
                f"{self.method} has no ω to set; choose a method that has ω, for example "
                "task_arithmetic."
            )
        if self.slices:
            raise RecipeError(
                "in a recipe with slices, the ω belong to the sources of the slices; edit them in "
                "its file."
            )
        for name in omegas:
            if name not in names:
                raise RecipeError(f"no vector is called {name!r}; {nearest(name, names)}")
        models = tuple(
            replace(source, parameters={**source.parameters, methods.WEIGHT: omegas[source.name]})
            if source.name in omegas
            else source
            for source in self.models
        )
        return replace(self, models=models)

    def with_method(self, method: str, parameters: Mapping[str, Setting] | None = None) -> "Recipe":
        """Returns this recipe with another merge method; models without an ω get ω = 1.

        Args:
            method: the new method's name.
            parameters: the new method's parameters. If None, those of this recipe that the new
                method has too.

        Raises:
            RecipeError: the recipe has slices, or does not fit the method.
        """
        if self.slices:
            raise RecipeError(
                "a recipe with slices keeps its method; edit merge_method and the slices in its "
                "file."
            )
        names = {param.name for param in methods.load(method).parameters}
        own = {param.name for param in methods.load(method).parameters if param.per_vector}
        weighted = methods.load(method).weighted

        def kept(source: ModelEntry) -> ModelEntry:
            values = {key: value for key, value in source.parameters.items() if key in own}
            omega = self.weight(source)
            # Methods without ω are computed with ω = 1 (see merging.engine.tasks), so 1 is kept.
            own_omega = {methods.WEIGHT: 1.0 if omega is None else omega} if weighted else {}
            return replace(source, parameters={**own_omega, **values})

        shared = self.parameters if parameters is None else parameters
        return replace(
            self,
            method=method,
            models=tuple(kept(source) for source in self.models),
            parameters={key: value for key, value in shared.items() if key in names},
        )

    @property
    def layers(self) -> int:
        """The number of output layers of all slices together."""
        return sum(part.length for part in self.slices)

    @property
    def slices_aligned(self) -> bool:
        """Whether each slice takes the same layers of all its sources, which should be alike."""
        return all(
            len({(source.start, source.stop) for source in part.sources}) == 1
            for part in self.slices
        )

    @property
    def last_slice(self) -> Slice:
        """The slice that gives the final norm and the head, with the sources that mergekit uses.

        mergekit pairs the last slice's models with as many names as the first slice has sources,
        and stops at the shorter list. If the method cannot work with those, mergekit ends with an
        error; here all sources of the last slice are used then.
        """
        first, last = self.slices[0], self.slices[-1]
        kept = replace(last, sources=last.sources[: len(first.sources)])
        base = self.base_of(last)
        models = [source.model for source in kept.sources]
        enough = len([model for model in models if model != base]) >= self.definition.vectors[0]
        usable = (base is None or base in models) and (enough or self.only_base(kept))
        return kept if usable else last

    def base_of(self, part: Slice) -> str | None:
        """Returns which source is the base in a slice; None if the method uses no base there.

        Raises:
            RecipeError: the method needs the base's layers, and the slice does not name them.
        """
        # To these methods the base's layers are like those of any other source.
        if self.definition.base_role in ("unused", "vector"):
            return None
        if part.base or self.base is None:
            return part.base
        # The base with an adapter on it has the base's path, but not its weights.
        paths = {source.name: source.path for source in self.models if source.lora is None}
        model = next(
            (source.model for source in part.sources if paths.get(source.model) == self.base), None
        )
        if model is None:
            raise RecipeError(
                f"slices[{self.slices.index(part)}]: base_model is {self.base!r}, which is not one "
                f"of its sources, and {self.method} needs the base's layers. "
                f"Add {{model: {self.base}, layer_range: […]}} to the sources."
            )
        return model

    def only_base(self, part: Slice) -> bool:
        """Whether a slice has only the base's layers, and the method leaves them as they are."""
        takes_none = self.definition.base_role == "origin" and self.definition.vectors == (1, None)
        return takes_none and [source.model for source in part.sources] == [self.base_of(part)]

    def of_slice(
        self, part: Slice, shared: Mapping[str, Setting], own: Mapping[str, Mapping[str, Setting]]
    ) -> "Recipe":
        """Returns a slice as a recipe without slices, whose models are the slice's sources.

        The base is not among the models, unless the method treats it as one of them.

        Args:
            part: one of `slices`, perhaps with fewer sources.
            shared: the parameters of the new recipe.
            own: name of a source -> its own parameters.
        """
        base = base_apart = self.base_of(part)
        models = {source.name: source for source in self.models}
        # A recipe needs at least one model. The base as a model adds a delta of zeros, which leaves
        # its layers as they are.
        if self.only_base(part):
            weight = {methods.WEIGHT: 1.0} if self.definition.weighted else {}
            own, base_apart = {source.model: weight for source in part.sources}, None
        return replace(
            self,
            slices=(),
            # Digests belong to whole models, and were compared when these were opened.
            inputs={},
            base=models[base].path if base else None,
            models=tuple(
                replace(models[source.model], parameters=own[source.model])
                for source in part.sources
                if source.model != base_apart
            ),
            parameters=shared,
        )

    def _check_slices(self) -> tuple[Slice, ...]:
        """Returns the slices with their settings checked, each by the rules of a recipe.

        Raises:
            RecipeError: a rule is broken; names the slice and the key.
        """
        checked = []
        for number, part in enumerate(self.slices):
            base = self.base_of(part)
            # As in mergekit, a slice's own settings overrule the recipe's.
            shared = {**self.parameters, **part.parameters}
            own = {source.model: source.parameters for source in part.sources}
            try:
                # Made for its checks: building a recipe applies all rules to this slice.
                ordinary = self.of_slice(part, shared, own)
                at_base = {
                    source.model: rules.check_base_settings(self.method, source)
                    for source in part.sources
                    if source.model == base
                }
            except RecipeError as error:
                raise RecipeError(f"slices[{number}]: {error}") from None
            settings = {source.name: source.parameters for source in ordinary.models} | at_base
            checked.append(
                replace(
                    part,
                    sources=tuple(
                        replace(source, parameters=settings[source.model])
                        for source in part.sources
                    ),
                    parameters={
                        key: value
                        for key, value in ordinary.parameters.items()
                        if key in part.parameters
                    },
                )
            )
        return tuple(checked)
