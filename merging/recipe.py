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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from merging import method as methods
from merging import settings
from merging.checkpoint import exists, is_adapter
from merging.errors import RecipeError, nearest
from merging.settings import Setting

FORMAT = 1
MAX_BYTES = 200_000
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}

_KEYS = ("merge_method", "base_model", "models", "parameters", "dtype", "out_dtype", "tokenizer_source", "name", "dem")
_LATER = {
    "slices": "restacking layers is not part of this version",
    "modules": "merging the modules of a multi-modal model apart is not part of this version",
    "tokenizer": "building a tokenizer is not part of this version; the base's is used",
    "chat_template": "the base's chat template is used as it is",
}
_DEM_KEYS = ("format", "version", "seed", "names", "revision", "inputs", "allow_unrelated")


@dataclass(frozen=True)
class Source:
    """One fine-tuned checkpoint of a recipe."""

    path: str
    """Its folder, as written."""
    name: str
    """What sliders and tables call it; unique in the recipe."""
    parameters: Mapping[str, Setting] = field(default_factory=dict)
    lora: str | None = None
    """An adapter on `path`, mergekit's `path+adapter`."""

    @property
    def location(self) -> str:
        """The folder that holds what was trained: the adapter's, if there is one."""
        return self.lora or self.path


@dataclass(frozen=True)
class Recipe:
    """A merge: which weights, which method, which ω, which output dtype."""

    base: str | None
    """The base's folder; None only for `linear`, which then takes the first model's names and files."""
    models: tuple[Source, ...]
    method: str = "task_arithmetic"
    parameters: Mapping[str, Setting] = field(default_factory=dict)
    dtype: str | None = None
    out_dtype: str | None = None
    seed: int = 0
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Name -> digest of what the recipe was made for ('base' and each model's name)."""
    allow_unrelated: bool = False
    """Merge checkpoints even when they do not descend from the base."""

    def __post_init__(self) -> None:
        for key, value in _checked(self).items():
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
        sources = tuple(
            Source(
                path=str(base) if is_adapter(path) else str(path),
                name=name,
                parameters={methods.WEIGHT: (omegas or {}).get(name, 0.0)},
                lora=str(path) if is_adapter(path) else None,
            )
            for name, path in models.items()
        )
        return cls(base=str(base), models=sources, **more)

    @classmethod
    def read(cls, path: str | Path) -> "Recipe":
        """A recipe from a file; folders in it are relative to the working directory, else to the recipe's folder.

        Raises:
            RecipeError: naming the file, the key, what was expected.
        """
        file = Path(path)
        if not (exists(file) and file.is_file()):
            raise RecipeError(f"{file} is not a file. Give a recipe, a YAML file with merge_method and models.")
        if file.stat().st_size > MAX_BYTES:
            raise RecipeError(f"{file} has {file.stat().st_size:,} bytes; a recipe has at most {MAX_BYTES:,}.")
        try:
            return cls.from_yaml(file.read_text(encoding="utf-8")).relative_to(file.parent)
        except UnicodeDecodeError:
            raise RecipeError(f"{file} is not UTF-8 text.") from None
        except OSError as error:
            raise RecipeError(f"{file} cannot be read: {error.strerror}.") from None
        except RecipeError as error:
            raise RecipeError(f"{file}: {error}") from None

    @classmethod
    def from_yaml(cls, text: str) -> "Recipe":
        """A recipe from YAML text, every key checked.

        Raises:
            RecipeError: for an unknown key, with the nearest known one; for a value that cannot be.
        """
        document = _parse(text)
        for key in document:
            if key in _LATER:
                raise RecipeError(f"{key!r} is not read: {_LATER[key]}.")
            if key not in _KEYS:
                raise RecipeError(f"unknown key {key!r}; {nearest(str(key), _KEYS)}")
        if document.get("tokenizer_source") not in (None, "base"):
            raise RecipeError(
                f"tokenizer_source is {document['tokenizer_source']!r}; only the base's tokenizer is used."
            )
        extra = _mapping(document.get("dem"), "dem")
        for key in extra:
            if key not in _DEM_KEYS:
                raise RecipeError(f"dem: unknown key {key!r}; {nearest(str(key), _DEM_KEYS)}")
        if extra.get("format", FORMAT) != FORMAT:
            raise RecipeError(f"dem.format is {extra['format']!r}, this version reads {FORMAT}: update to open it.")
        base = _text(document.get("base_model"), "base_model")
        method = _text(document.get("merge_method"), "merge_method") or ""
        models = _sources(document.get("models"), extra.get("names"))
        if methods.load(method).SPACE == "deltas":
            # mergekit's recipes may list the base among the models, without a weight; its difference from itself is 0.
            models = tuple(
                source for source in models if source.location != base or methods.WEIGHT in source.parameters
            )
        return cls(
            base=base,
            models=models,
            method=method,
            parameters=_mapping(document.get("parameters"), "parameters"),
            dtype=document.get("dtype"),
            out_dtype=document.get("out_dtype"),
            seed=extra.get("seed", 0),
            inputs={str(key): str(value) for key, value in _mapping(extra.get("inputs"), "dem.inputs").items()},
            allow_unrelated=extra.get("allow_unrelated") is True,
        )

    def to_yaml(self) -> str:
        """The recipe as mergekit's YAML with a `dem:` block; `from_yaml` gives the same recipe back."""
        from merging import __version__

        document: dict[str, Any] = {"merge_method": self.method}
        if self.base is not None:
            document["base_model"] = self.base
        document["models"] = [
            {
                "model": source.path if source.lora is None else f"{source.path}+{source.lora}",
                "parameters": dict(source.parameters),
            }
            for source in self.models
        ]
        optional = {"parameters": dict(self.parameters), "dtype": self.dtype, "out_dtype": self.out_dtype}
        document |= {key: value for key, value in optional.items() if value}
        document["dem"] = {
            "format": FORMAT,
            "version": __version__,
            "seed": self.seed,
            "names": [source.name for source in self.models],
        }
        document["dem"] |= {"inputs": dict(self.inputs)} if self.inputs else {}
        document["dem"] |= {"allow_unrelated": True} if self.allow_unrelated else {}
        text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)
        return text

    @property
    def digest(self) -> str:
        """The first 12 hex digits of a SHA-256 over all that decides the result."""
        facts = {
            "method": self.method,
            "base": self.base,
            "models": [(source.path, source.lora, source.name, dict(source.parameters)) for source in self.models],
            "parameters": dict(self.parameters),
            "dtype": self.dtype,
            "out_dtype": self.out_dtype,
            "seed": self.seed,
            "inputs": dict(sorted(self.inputs.items())),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def omegas(self) -> dict[str, Setting]:
        """Name -> ω as written: a number, a gradient or rules."""
        return {source.name: self._weight(source) for source in self.models}

    def _weight(self, source: Source) -> Setting:
        return source.parameters.get(methods.WEIGHT, self.parameters.get(methods.WEIGHT))

    def with_omegas(self, omegas: Mapping[str, float]) -> "Recipe":
        """The same recipe with other ω for the names given.

        Raises:
            RecipeError: for a name that is not in the recipe, or an ω that is not a finite number.
        """
        known = [source.name for source in self.models]
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

    def relative_to(self, folder: Path) -> "Recipe":
        """The same recipe with each relative folder that is not below the working directory looked up in `folder`."""

        def found(path: str | None) -> str | None:
            if path is None or Path(path).is_absolute() or exists(Path(path)) or not exists(folder / path):
                return path
            return str(folder / path)

        models = tuple(
            replace(source, path=found(source.path) or "", lora=found(source.lora)) for source in self.models
        )
        return replace(self, base=found(self.base), models=models)

    def formula(self) -> str:
        """The merge as one line of algebra: 'Θ + 0.70·Δcot − 0.40·Δmathqa'."""
        from merging.formula import formula

        return formula(self)


def _checked(recipe: Recipe) -> dict[str, Any]:
    """The fields of a recipe in the one form that equal recipes share.

    Raises:
        RecipeError: naming the key and what was expected.
    """
    known = [param.name for param in methods.parameters(recipe.method)]
    if not recipe.models:
        raise RecipeError("models is empty, expected at least one checkpoint.")
    if recipe.base is None and methods.load(recipe.method).SPACE == "deltas":
        raise RecipeError(f"base_model is missing; {recipe.method} adds differences to a base.")
    names = [source.name for source in recipe.models]
    models = []
    for source in recipe.models:
        where = f"models: {source.name}"
        if names.count(source.name) > 1:
            raise RecipeError(f"two models are called {source.name!r}; give each a name of its own in dem.names.")
        if not (source.name.strip() and source.name.isprintable()):
            raise RecipeError(f"a model is called {source.name!r}; give it a name that can be shown, in dem.names.")
        if not (source.path + (source.lora or "")).isprintable():
            raise RecipeError(
                f"{where}: {source.location!r} has characters that a recipe cannot hold; rename the folder."
            )
        if "+" in source.path:
            raise RecipeError(
                f"{where}: {source.path!r}: a recipe reads what follows a + as an adapter; rename the folder."
            )
        for key in source.parameters:
            if key != methods.WEIGHT:
                hint = (
                    "it belongs under parameters of the recipe"
                    if key in known
                    else nearest(str(key), [methods.WEIGHT, *known])
                )
                raise RecipeError(f"{where}: unknown parameter {key!r}; {hint}")
        if recipe._weight(source) is None:
            raise RecipeError(f"{where}: parameters.weight is missing; it is the ω of this checkpoint.")
        checked = {key: settings.check(setting, f"{where}: {key}") for key, setting in source.parameters.items()}
        models.append(replace(source, parameters=checked))
    for key in recipe.parameters:
        if key not in (methods.WEIGHT, *known):
            raise RecipeError(f"parameters: unknown key {key!r}; {nearest(str(key), [methods.WEIGHT, *known])}")
    return {
        "models": tuple(models),
        "parameters": {key: settings.check(value, f"parameters: {key}") for key, value in recipe.parameters.items()},
        "dtype": _dtype(recipe.dtype, "dtype"),
        "out_dtype": _dtype(recipe.out_dtype, "out_dtype"),
        "seed": _seed(recipe.seed),
    }


def _sources(models: Any, names: Any) -> tuple[Source, ...]:
    if not isinstance(models, list) or not models:
        raise RecipeError(f"models is {models!r}, expected a list of {{model: folder, parameters: {{weight: ω}}}}.")
    if names is not None and not (
        isinstance(names, list) and len(names) == len(models) and all(isinstance(name, str) and name for name in names)
    ):
        raise RecipeError(f"dem.names is {names!r}, expected {len(models)} names, one for each of models.")
    sources: list[Source] = []
    for number, entry in enumerate(models):
        where = f"models[{number}]"
        entry = _mapping(entry, where)
        for key in entry:
            if key not in ("model", "parameters"):
                hint = (
                    "it belongs under parameters"
                    if key == methods.WEIGHT
                    else nearest(str(key), ["model", "parameters"])
                )
                raise RecipeError(f"{where}: unknown key {key!r}; {hint}")
        path, _, lora = (_text(entry.get("model"), f"{where}.model") or "").partition("+")
        if not path:
            raise RecipeError(f"{where}.model is missing, expected the folder of a checkpoint.")
        name = names[number] if names else unique(Path(lora or path).name, [source.name for source in sources])
        sources.append(Source(path, name, _mapping(entry.get("parameters"), f"{where}.parameters"), lora or None))
    return tuple(sources)


def unique(name: str, taken: Sequence[str]) -> str:
    """The name, numbered where it is taken: cot, cot-2, cot-3."""
    number, candidate = 2, name
    while candidate in taken:
        number, candidate = number + 1, f"{name}-{number}"
    return candidate


def _mapping(given: Any, where: str) -> dict[Any, Any]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise RecipeError(f"{where} is {given!r}, expected keys and values.")
    return given


def _text(given: Any, where: str) -> str | None:
    if given is not None and not (isinstance(given, str) and given and "\0" not in given):
        raise RecipeError(f"{where} is {given!r}, expected text.")
    return given


def _seed(given: Any) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given < 2**63:
        raise RecipeError(f"dem.seed is {given!r}, expected a whole number from 0.")
    return given


def _dtype(given: Any, where: str) -> str | None:
    name = given.removeprefix("torch.") if isinstance(given, str) else given
    if name is not None and not (isinstance(name, str) and name in DTYPES):
        raise RecipeError(f"{where} is {given!r}; {nearest(str(given), list(DTYPES))}")
    return name


class _Loader(yaml.SafeLoader):
    """YAML without aliases (a few lines of them expand to gigabytes) and without duplicate keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise RecipeError("YAML aliases (*name) are not read; write the value out.")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key_node, _ in node.value:
            key = repr(self.construct_object(key_node, deep=True))
            if key in seen:
                raise RecipeError(f"line {node.start_mark.line + 1}: the key {key} occurs twice.")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _parse(text: str) -> dict[Any, Any]:
    if len(text) > MAX_BYTES:
        raise RecipeError(f"a recipe of {len(text):,} characters; at most {MAX_BYTES:,} are read.")
    try:
        document = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader, made stricter
    except yaml.YAMLError as error:
        raise RecipeError(f"not valid YAML: {error}") from None
    except (RecursionError, TypeError, ValueError) as error:  # ValueError: a date that is none, a number too long
        raise RecipeError(f"not a recipe: {error}") from None
    if not isinstance(document, dict):
        raise RecipeError(
            f"a recipe is keys and values (merge_method, base_model, models); found {str(document)[:80]!r}."
        )
    return document
