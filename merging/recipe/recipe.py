"""Recipe: a merge as a value. Sliders edit it, searches propose it, results name it, exports carry it.

The file is mergekit's YAML, so that a recipe runs in either tool. What mergekit lacks stands in a `dem:` block, which
mergekit ignores:

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
    """A merge: which weights, which method, which ω, which output dtype."""

    base: str | None
    """The base's folder; None only for methods that need none, which then take the first model's names and files."""
    models: tuple[ModelEntry, ...]
    method: str = "task_arithmetic"
    parameters: Mapping[str, Setting] = field(default_factory=dict)
    dtype: str | None = None
    out_dtype: str | None = None
    seed: int = 0
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Name -> digest of what the recipe was made for ('base' and each model's name)."""
    allow_unrelated: bool = False
    """Merge checkpoints even when they do not descend from the base."""
    include: tuple[str, ...] = ()
    """Parts of tensor names: only tensors that have one of them are merged, all others are the base's; () for all."""
    exclude: tuple[str, ...] = ()
    """Parts of tensor names: tensors that have one of them are the base's."""
    rounding: str = "nearest"
    """How the output dtype is rounded to: 'nearest', or 'stochastic', unbiased and seeded; see merging.engine.stochastic_rounding."""
    revision: str = ""
    """The commit of a base that came from the hub; read again at that commit. No part of the digest: `inputs` tells."""
    vocabulary: str = "refuse"
    """What to do with a checkpoint of another vocabulary: 'refuse', 'base' or 'union'; see merging.vocabulary."""
    slices: tuple[Slice, ...] = ()
    """Layers restacked from the models, whose parameters then stand here; () merges whole models. See merging.engine.restack."""

    def __post_init__(self) -> None:
        models, slices = self.models, self.slices
        if slices:
            rules.check_slices(self.method, models, slices, self.vocabulary)
            slices = self._checked_slices()
        else:
            models = rules.with_base(self.method, self.base, models)
        fixed = rules.checked_settings(self.method, models, self.parameters, restacked=bool(slices))
        fixed |= {
            "slices": slices,
            "dtype": fields.dtype(self.dtype, "dtype"),
            "out_dtype": fields.dtype(self.out_dtype, "out_dtype"),
            "seed": fields.seed(self.seed),
            "include": fields.parts(self.include, "include"),
            "exclude": fields.parts(self.exclude, "exclude"),
            "rounding": fields.word(self.rounding, "dem.rounding", fields.ROUNDINGS),
            "vocabulary": fields.word(self.vocabulary, "dem.vocabulary", fields.VOCABULARIES),
        }
        for key, value in fixed.items():
            object.__setattr__(self, key, value)

    @classmethod
    def compose(
        cls,
        base: str | Path,
        models: Mapping[str, str | Path],
        omegas: Mapping[str, float] | None = None,
        **more: Any,
    ) -> "Recipe":
        """A recipe from folders: name -> checkpoint or adapter, and ω by name (0 where none is given)."""
        weighted = methods.load(more.get("method", "task_arithmetic")).weighted
        sources = tuple(
            ModelEntry(
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
        """The first 12 hex digits of a SHA-256 over all that decides the result."""
        facts: dict[str, Any] = {
            "method": self.method,
            "base": self.base,
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
        # only where they say something, so that recipes without them keep the digests they always had
        chosen = {"include": self.include, "exclude": self.exclude, "rounding": self.rounding}
        chosen |= {"vocabulary": self.vocabulary}
        facts |= {
            key: value for key, value in chosen.items() if value not in ((), "nearest", "refuse")
        }
        facts |= {"slices": parts.facts(self.slices)} if self.slices else {}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def omegas(self) -> dict[str, Setting]:
        """Name -> ω as written: a number, a gradient or rules; None where the method has no ω."""
        return {source.name: self.weight(source) for source in self.models}

    @property
    def lists_base(self) -> bool:
        """Whether the base is one of the models."""
        return any(source.location == self.base for source in self.models)

    def weight(self, source: ModelEntry) -> Setting:
        """ω of one model as written: its own, else the recipe's; None where neither is there."""
        return source.parameters.get(methods.WEIGHT, self.parameters.get(methods.WEIGHT))

    def with_omegas(self, omegas: Mapping[str, float]) -> "Recipe":
        """The same recipe with other ω for the names given.

        Raises:
            RecipeError: for a name that is not in the recipe, or an ω that is not a finite number.
        """
        known = [source.name for source in self.models]
        if not self.definition.weighted:
            raise RecipeError(
                f"{self.method} has no ω to set; choose a method that has, for example task_arithmetic."
            )
        if self.slices:
            raise RecipeError(
                "the ω of a recipe with slices stand at the sources of its slices; edit them in its file."
            )
        for name in omegas:
            if name not in known:
                raise RecipeError(f"no vector is called {name!r}; {nearest(name, known)}")
        models = tuple(
            replace(source, parameters={**source.parameters, methods.WEIGHT: omegas[source.name]})
            if source.name in omegas
            else source
            for source in self.models
        )
        return replace(self, models=models)

    def with_method(self, method: str, parameters: Mapping[str, Setting] | None = None) -> "Recipe":
        """The same models under another method, with ω = 1 where they had none.

        Args:
            method: its name.
            parameters: its parameters; those of the present method that it knows too, if not given.
        """
        if self.slices:
            raise RecipeError(
                "a recipe with slices keeps its method; edit merge_method and the slices in its file."
            )
        known = {param.name for param in methods.load(method).parameters}
        own = {param.name for param in methods.load(method).parameters if param.per_vector}
        weighted = methods.load(method).weighted

        def kept(source: ModelEntry) -> ModelEntry:
            values = {key: value for key, value in source.parameters.items() if key in own}
            omega = self.weight(source)
            own_omega = {methods.WEIGHT: 1.0 if omega is None else omega} if weighted else {}
            return replace(source, parameters={**own_omega, **values})

        shared = self.parameters if parameters is None else parameters
        return replace(
            self,
            method=method,
            models=tuple(kept(source) for source in self.models),
            parameters={key: value for key, value in shared.items() if key in known},
        )

    @property
    def layers(self) -> int:
        """How many layers the slices make together."""
        return sum(part.length for part in self.slices)

    @property
    def slices_aligned(self) -> bool:
        """Whether each slice merges the same layers of all its sources, so that they should resemble each other."""
        return all(
            len({(source.start, source.stop) for source in part.sources}) == 1
            for part in self.slices
        )

    @property
    def last_slice(self) -> Slice:
        """The slice of the final norm and the head, with the sources that mergekit takes there.

        mergekit pairs the last slice's models with as many names as the first slice has sources, and stops at the
        shorter list. Where its method could not do with those, it ends with an error, and here all sources are taken.
        """
        first, last = self.slices[0], self.slices[-1]
        kept = replace(last, sources=last.sources[: len(first.sources)])
        base = self.base_of(last)
        models = [source.model for source in kept.sources]
        enough = len([model for model in models if model != base]) >= self.definition.vectors[0]
        usable = (base is None or base in models) and (enough or self.only_base(kept))
        return kept if usable else last

    def base_of(self, part: Slice) -> str | None:
        """The name of the source that is the base in a slice; None if the method has no base there.

        Raises:
            RecipeError: when the method needs the base's layers and the slice does not name them.
        """
        if self.definition.base_role in ("unused", "vector"):
            return None
        if part.base or self.base is None:
            return part.base
        paths = {source.name: source.path for source in self.models if source.lora is None}
        model = next(
            (source.model for source in part.sources if paths.get(source.model) == self.base), None
        )
        if model is None:
            raise RecipeError(
                f"slices[{self.slices.index(part)}]: base_model is {self.base!r}, which is not one of its sources, and "
                f"{self.method} needs the base's layers. Add {{model: {self.base}, layer_range: […]}} to the sources."
            )
        return model

    def only_base(self, part: Slice) -> bool:
        """Whether a slice has nothing but the base's layers under a method that then leaves them as they are."""
        takes_none = self.definition.base_role == "origin" and self.definition.vectors == (1, None)
        return takes_none and [source.model for source in part.sources] == [self.base_of(part)]

    def of_slice(
        self, part: Slice, shared: Mapping[str, Setting], own: Mapping[str, Mapping[str, Setting]]
    ) -> "Recipe":
        """A slice as a recipe without slices: its sources as models, the base apart if the method wants it apart.

        Args:
            part: one of `slices`, or a shortened one.
            shared: the parameters of the new recipe.
            own: name of a source -> its own parameters.
        """
        base = base_apart = self.base_of(part)
        models = {source.name: source for source in self.models}
        if self.only_base(part):
            weight = {methods.WEIGHT: 1.0} if self.definition.weighted else {}
            own, base_apart = {source.model: weight for source in part.sources}, None
        return replace(
            self,
            slices=(),
            inputs={},
            base=models[base].path if base else None,
            models=tuple(
                replace(models[source.model], parameters=own[source.model])
                for source in part.sources
                if source.model != base_apart
            ),
            parameters=shared,
        )

    def _checked_slices(self) -> tuple[Slice, ...]:
        """The slices with their settings checked, each of them as an ordinary recipe would be.

        Raises:
            RecipeError: naming the slice, the key and what was expected.
        """
        checked = []
        for number, part in enumerate(self.slices):
            base = self.base_of(part)
            shared = {**self.parameters, **part.parameters}
            own = {source.model: source.parameters for source in part.sources}
            try:
                ordinary = self.of_slice(part, shared, own)
                at_base = {
                    source.model: rules.base_settings(self.method, source)
                    for source in part.sources
                    if source.model == base
                }
            except RecipeError as error:
                raise RecipeError(f"slices[{number}]: {error}") from None
            settled = {source.name: source.parameters for source in ordinary.models} | at_base
            checked.append(
                replace(
                    part,
                    sources=tuple(
                        replace(source, parameters=settled[source.model]) for source in part.sources
                    ),
                    parameters={
                        key: value
                        for key, value in ordinary.parameters.items()
                        if key in part.parameters
                    },
                )
            )
        return tuple(checked)
