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
from merging import settings, slices
from merging.checkpoint import exists, is_adapter
from merging.errors import RecipeError, listed, nearest
from merging.settings import Setting
from merging.slices import Slice

FORMAT = 1
MAX_BYTES = 200_000
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}

_KEYS = (
    "merge_method",
    "base_model",
    "models",
    "slices",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "name",
    "dem",
)
_MOE = "it makes a mixture of experts (mergekit-moe), another model than its inputs; make it there and name its folder here"
_LATER = {
    "modules": "merging the modules of a multi-modal model apart is not part of this version; give models: or slices:",
    "experts": _MOE,
    "shared_experts": _MOE,
    "experts_per_token": _MOE,
    "gate_mode": _MOE,
    "tokenizer": (
        "a tokenizer is not built from several models here, the base's is used; remove the key, or write "
        "tokenizer_source: base"
    ),
    "chat_template": "the base's chat template is used as it is",
}
_DEM_KEYS = (
    "format", "version", "seed", "names", "base", "revision", "inputs", "allow_unrelated", "include", "exclude", "rounding",
    "vocabulary",
)  # fmt: skip
ROUNDINGS = ("nearest", "stochastic")
VOCABULARIES = ("refuse", "base", "union")


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
    """The base's folder; None only for methods that need none, which then take the first model's names and files."""
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
    include: tuple[str, ...] = ()
    """Parts of tensor names: only tensors that have one of them are merged, all others are the base's; () for all."""
    exclude: tuple[str, ...] = ()
    """Parts of tensor names: tensors that have one of them are the base's."""
    rounding: str = "nearest"
    """How the output dtype is rounded to: 'nearest', or 'stochastic', unbiased and seeded; see merging.stochastic."""
    revision: str = ""
    """The commit of a base that came from the hub; read again at that commit. No part of the digest: `inputs` tells."""
    vocabulary: str = "refuse"
    """What to do with a checkpoint of another vocabulary: 'refuse', 'base' or 'union'; see merging.vocabulary."""
    slices: tuple[Slice, ...] = ()
    """Layers restacked from the models, whose parameters then stand here; () merges whole models. See merging.restack."""

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
        weighted = methods.weighted(more.get("method", "task_arithmetic"))
        sources = tuple(
            Source(
                path=str(base) if is_adapter(path) else str(path),
                name=name,
                parameters={methods.WEIGHT: (omegas or {}).get(name, 0.0)} if weighted else {},
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
        if document.get("tokenizer") == {"source": "base"}:
            del document["tokenizer"]  # what is done anyway
        for key in document:
            if key in _LATER:
                raise RecipeError(f"{key!r} is not read: {_LATER[key]}.")
            if key not in _KEYS:
                raise RecipeError(f"unknown key {key!r}; {nearest(str(key), _KEYS)}")
        if document.get("tokenizer_source") not in (None, "base"):
            raise RecipeError(
                f"tokenizer_source is {document['tokenizer_source']!r}; only the base's tokenizer is used. "
                "Remove the key, or write base."
            )
        extra = _mapping(document.get("dem"), "dem")
        for key in extra:
            if key not in _DEM_KEYS:
                raise RecipeError(f"dem: unknown key {key!r}; {nearest(str(key), _DEM_KEYS)}")
        if extra.get("format", FORMAT) != FORMAT:
            raise RecipeError(f"dem.format is {extra['format']!r}, this version reads {FORMAT}: update to open it.")
        method = _text(document.get("merge_method"), "merge_method") or ""
        parameters = _mapping(document.get("parameters"), "parameters")
        base = _text(document.get("base_model"), "base_model")
        models: tuple[Source, ...]
        restacked: tuple[Slice, ...] = ()
        if "slices" in document:
            if "models" in document:
                raise RecipeError("models and slices are both given, and a recipe has one of them. Remove the other.")
            models, restacked = slices.read(document["slices"], extra.get("names"), base)
        else:
            models = _sources(document.get("models"), extra.get("names"))
            base, models = _placed(method, base, models, parameters)
        return cls(
            base=base or _text(extra.get("base"), "dem.base"),
            models=models,
            method=method,
            parameters=parameters,
            dtype=document.get("dtype"),
            out_dtype=document.get("out_dtype"),
            seed=extra.get("seed", 0),
            inputs={str(key): str(value) for key, value in _mapping(extra.get("inputs"), "dem.inputs").items()},
            allow_unrelated=extra.get("allow_unrelated") is True,
            include=_parts(extra.get("include"), "dem.include"),
            exclude=_parts(extra.get("exclude"), "dem.exclude"),
            rounding=extra.get("rounding", "nearest"),
            revision=_text(extra.get("revision"), "dem.revision") or "",
            vocabulary=extra.get("vocabulary", "refuse"),
            slices=restacked,
        )

    def to_yaml(self) -> str:
        """The recipe as mergekit's YAML with a `dem:` block; `from_yaml` gives the same recipe back."""
        from merging import __version__

        document: dict[str, Any] = {"merge_method": self.method}
        apart = methods.role_of_base(self.method) == "unused" and not self._lists_base
        donor = self.base is not None and apart and not self.slices
        if self.base is not None and not donor:
            document["base_model"] = self.base
        models = [
            {
                "model": source.path if source.lora is None else f"{source.path}+{source.lora}",
                "parameters": dict(source.parameters),
            }
            for source in self.models
        ]
        document |= {"slices": slices.written(self)} if self.slices else {"models": models}
        optional = {"parameters": dict(self.parameters), "dtype": self.dtype, "out_dtype": self.out_dtype}
        document |= {key: value for key, value in optional.items() if value}
        document["dem"] = {
            "format": FORMAT,
            "version": __version__,
            "seed": self.seed,
            "names": [source.name for source in self.models],
        }
        # mergekit would average a base_model that it finds, and only the base's names and files are wanted here
        document["dem"] |= {"base": self.base} if donor else {}
        document["dem"] |= {"revision": self.revision} if self.revision else {}
        document["dem"] |= {"inputs": dict(self.inputs)} if self.inputs else {}
        document["dem"] |= {"allow_unrelated": True} if self.allow_unrelated else {}
        document["dem"] |= {"include": list(self.include)} if self.include else {}
        document["dem"] |= {"exclude": list(self.exclude)} if self.exclude else {}
        document["dem"] |= {"rounding": self.rounding} if self.rounding != "nearest" else {}
        document["dem"] |= {"vocabulary": self.vocabulary} if self.vocabulary != "refuse" else {}
        text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
        return text

    @property
    def digest(self) -> str:
        """The first 12 hex digits of a SHA-256 over all that decides the result."""
        facts: dict[str, Any] = {
            "method": self.method,
            "base": self.base,
            "models": [(source.path, source.lora, source.name, dict(source.parameters)) for source in self.models],
            "parameters": dict(self.parameters),
            "dtype": self.dtype,
            "out_dtype": self.out_dtype,
            "seed": self.seed,
            "inputs": dict(sorted(self.inputs.items())),
        }
        # only where they say something, so that recipes without them keep the digests they always had
        chosen = {"include": self.include, "exclude": self.exclude, "rounding": self.rounding}
        chosen |= {"vocabulary": self.vocabulary}
        facts |= {key: value for key, value in chosen.items() if value not in ((), "nearest", "refuse")}
        facts |= {"slices": slices.facts(self.slices)} if self.slices else {}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def omegas(self) -> dict[str, Setting]:
        """Name -> ω as written: a number, a gradient or rules; None where the method has no ω."""
        return {source.name: self._weight(source) for source in self.models}

    @property
    def _lists_base(self) -> bool:
        return any(source.location == self.base for source in self.models)

    def _weight(self, source: Source) -> Setting:
        return source.parameters.get(methods.WEIGHT, self.parameters.get(methods.WEIGHT))

    def with_omegas(self, omegas: Mapping[str, float]) -> "Recipe":
        """The same recipe with other ω for the names given.

        Raises:
            RecipeError: for a name that is not in the recipe, or an ω that is not a finite number.
        """
        known = [source.name for source in self.models]
        if not methods.weighted(self.method):
            raise RecipeError(f"{self.method} has no ω to set; choose a method that has, for example task_arithmetic.")
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
            raise RecipeError("a recipe with slices keeps its method; edit merge_method and the slices in its file.")
        known = {param.name for param in methods.parameters(method)}
        own = {param.name for param in methods.parameters(method) if param.per_vector}
        weighted = methods.weighted(method)

        def kept(source: Source) -> Source:
            values = {key: value for key, value in source.parameters.items() if key in own}
            omega = self._weight(source)
            own_omega = {methods.WEIGHT: 1.0 if omega is None else omega} if weighted else {}
            return replace(source, parameters={**own_omega, **values})

        shared = self.parameters if parameters is None else parameters
        return replace(
            self,
            method=method,
            models=tuple(kept(source) for source in self.models),
            parameters={key: value for key, value in shared.items() if key in known},
        )

    def relative_to(self, folder: Path) -> "Recipe":
        """The same recipe with each relative path that is not below the working directory looked up in `folder`."""

        def found(path: str | None) -> str | None:
            if path is None or Path(path).is_absolute() or exists(Path(path)) or not exists(folder / path):
                return path
            return str(folder / path)

        def parameters(given: Mapping[str, Setting]) -> dict[str, Setting]:
            return {key: found(value) if key == methods.STATISTICS else value for key, value in given.items()}

        models = tuple(
            replace(
                source, path=found(source.path) or "", lora=found(source.lora), parameters=parameters(source.parameters)
            )
            for source in self.models
        )
        return replace(self, base=found(self.base), models=models, parameters=parameters(self.parameters))

    def formula(self) -> str:
        """The merge as one line of algebra: 'Θ + 0.70·Δcot − 0.40·Δmathqa'."""
        from merging.formula import formula

        return formula(self)


def _checked(recipe: Recipe) -> dict[str, Any]:
    """The fields of a recipe in the one form that equal recipes share.

    Raises:
        RecipeError: naming the key and what was expected.
    """
    if recipe.slices:
        from merging.slice_check import checked

        restacked = checked(recipe)
    else:
        restacked, recipe = (), _with_base(recipe)
    names = [source.name for source in recipe.models]
    models = []
    for source in recipe.models:
        where = f"models: {source.name}"
        if names.count(source.name) > 1:
            raise RecipeError(f"two models are called {source.name!r}; give each a name of its own in dem.names.")
        _named(source, where)
        if not restacked:
            _known_keys(recipe, source, where)
        models.append(replace(source, parameters=_settings(recipe.method, source.parameters, where)))
    if not restacked:
        _shared_keys(recipe)
    return {
        "models": tuple(models),
        "parameters": _settings(recipe.method, recipe.parameters, "parameters"),
        "dtype": _dtype(recipe.dtype, "dtype"),
        "out_dtype": _dtype(recipe.out_dtype, "out_dtype"),
        "seed": _seed(recipe.seed),
        "include": _parts(recipe.include, "include"),
        "exclude": _parts(recipe.exclude, "exclude"),
        "rounding": _word(recipe.rounding, "dem.rounding", ROUNDINGS),
        "vocabulary": _word(recipe.vocabulary, "dem.vocabulary", VOCABULARIES),
        "slices": restacked,
    }


def _with_base(recipe: Recipe) -> Recipe:
    """The recipe with its base in the role that the method gives it, and as many models as the method takes."""
    role = methods.role_of_base(recipe.method)
    if not recipe.models:
        raise RecipeError("models is empty, expected at least one checkpoint.")
    if recipe.base is None and role in ("origin", "operand"):
        needs = "adds differences to a base" if role == "origin" else "has the base as an operand"
        raise RecipeError(f"base_model is missing; {recipe.method} {needs}.")
    if recipe.base is not None and role == "vector" and not recipe._lists_base:
        name = unique("base", [source.name for source in recipe.models])
        recipe = replace(recipe, models=(*recipe.models, Source(recipe.base, name)))
    least, most = methods.span(recipe.method)
    if not least <= len(recipe.models) <= (most or len(recipe.models)):
        wanted = f"exactly {least}" if least == most else f"at least {least}"
        raise RecipeError(
            f"{recipe.method} takes {wanted} model{'s' if least > 1 else ''}{' beside the base' if recipe.base else ''}, "
            f"and {len(recipe.models)} are given: {listed([source.name for source in recipe.models])}."
        )
    return recipe


def _placed(
    method: str, base: str | None, models: tuple[Source, ...], parameters: Mapping[str, Any]
) -> tuple[str | None, tuple[Source, ...]]:
    """A file's base and models as mergekit understands them."""
    role, listed_there = methods.role_of_base(method), [source for source in models if source.location == base]
    if base is not None and role in ("origin", "optional", "operand"):
        # The base may stand among the models, without a weight; its difference from itself is 0.
        models = tuple(source for source in models if source not in listed_there or methods.WEIGHT in source.parameters)
    if base is not None and role == "unused" and not listed_there and methods.WEIGHT in parameters:
        models = (*models, Source(base, unique("base", [source.name for source in models])))
    return base, models


def _named(source: Source, where: str) -> None:
    if not (source.name.strip() and source.name.isprintable()):
        raise RecipeError(f"a model is called {source.name!r}; give it a name that can be shown, in dem.names.")
    if not (source.path + (source.lora or "")).isprintable():
        raise RecipeError(f"{where}: {source.location!r} has characters that a recipe cannot hold; rename the folder.")
    if "+" in source.path:
        raise RecipeError(
            f"{where}: {source.path!r}: a recipe reads what follows a + as an adapter; rename the folder."
        )


def _known_keys(recipe: Recipe, source: Source, where: str) -> None:
    """Every key of a model is known, and none that it needs is missing."""
    weighted = methods.weighted(recipe.method)
    known = methods.parameters(recipe.method)
    own = [methods.WEIGHT] * weighted + [param.name for param in known if param.per_vector]
    for key in source.parameters:
        if key not in (*own, *methods.ignored(recipe.method)):
            hint = (
                "it belongs under parameters of the recipe"
                if key in [param.name for param in known]
                else f"{recipe.method} has no ω"
                if key == methods.WEIGHT
                else nearest(str(key), own)
            )
            raise RecipeError(f"{where}: unknown parameter {key!r}; {hint}")
    if weighted and recipe._weight(source) is None:
        raise RecipeError(f"{where}: parameters.weight is missing; it is the ω of this checkpoint.")
    for param in known:
        if param.per_vector and param.default is None and param.name not in {**recipe.parameters, **source.parameters}:
            raise RecipeError(f"{where}: parameters.{param.name} is missing; it is {param.help}.")


def _shared_keys(recipe: Recipe) -> None:
    """Every key under the recipe's parameters is known, and none that the method needs is missing."""
    known = methods.parameters(recipe.method)
    names = [methods.WEIGHT] * methods.weighted(recipe.method) + [param.name for param in known]
    for key in recipe.parameters:
        if key not in (*names, *methods.ignored(recipe.method)):
            raise RecipeError(f"parameters: unknown key {key!r}; {nearest(str(key), names)}")
    for param in known:
        if not param.per_vector and param.default is None and param.name not in recipe.parameters:
            raise RecipeError(f"parameters.{param.name} is missing; for {recipe.method} it is {param.help}.")


def _settings(method: str, given: Mapping[str, Any], where: str) -> dict[str, Setting]:
    words = {param.name: param.choices for param in methods.parameters(method)}
    files = [param.name for param in methods.parameters(method) if param.file]
    return {
        key: settings.path(value, f"{where}: {key}")
        if key in files
        else settings.check(value, f"{where}: {key}", words.get(key, ()))
        for key, value in given.items()
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


def _parts(given: Any, where: str) -> tuple[str, ...]:
    if given is not None and not (
        isinstance(given, list | tuple) and all(isinstance(part, str) and part for part in given)
    ):
        raise RecipeError(f"{where} is {given!r}, expected a list of parts of tensor names, for example [embed].")
    return tuple(given or ())


def _word(given: Any, where: str, words: tuple[str, ...]) -> str:
    if given not in words:
        raise RecipeError(f"{where} is {given!r}; {nearest(str(given), words)}")
    return str(given)


def _seed(given: Any) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given < 2**63:
        raise RecipeError(f"dem.seed is {given!r}, expected a whole number from 0.")
    return given


def _dtype(given: Any, where: str) -> str | None:
    name = given.removeprefix("torch.") if isinstance(given, str) else given
    if name is not None and not (isinstance(name, str) and name in DTYPES):
        raise RecipeError(f"{where} is {given!r}; {nearest(str(given), list(DTYPES))}")
    return name


class _Dumper(yaml.SafeDumper):
    """YAML without aliases, which the reader refuses: what two models share is written out twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


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
