"""A recipe as mergekit's YAML with a `dem:` block, read and written."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from merging.errors import RecipeError
from merging.methods import _contract as methods
from merging.paths import exists
from merging.recipe import fields
from merging.recipe import slices_yaml as slices
from merging.recipe.parts import ModelEntry, Slice
from merging.recipe.recipe import Recipe
from merging.recipe.settings import Setting
from merging.version import __version__
from plumbing import strict_yaml
from plumbing.suggest import nearest

FORMAT = 1

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


def read_recipe(path: str | Path) -> Recipe:
    """A recipe from a file; folders in it are relative to the working directory, else to the recipe's folder.

    Raises:
        RecipeError: naming the file, the key, what was expected.
    """
    file = Path(path)
    if not (exists(file) and file.is_file()):
        raise RecipeError(
            f"{file} is not a file. Give a recipe, a YAML file with merge_method and models."
        )
    if file.stat().st_size > strict_yaml.MAX_CHARACTERS:
        raise RecipeError(
            f"{file} has {file.stat().st_size:,} bytes; a recipe has at most {strict_yaml.MAX_CHARACTERS:,}."
        )
    try:
        return relative_to(parse_recipe(file.read_text(encoding="utf-8")), file.parent)
    except UnicodeDecodeError:
        raise RecipeError(f"{file} is not UTF-8 text.") from None
    except OSError as error:
        raise RecipeError(f"{file} cannot be read: {error.strerror}.") from None
    except RecipeError as error:
        raise RecipeError(f"{file}: {error}") from None


def parse_recipe(text: str) -> Recipe:
    """A recipe from YAML text, every key checked.

    Raises:
        RecipeError: for an unknown key, with the nearest known one; for a value that cannot be.
    """
    return Recipe(**_fields(text))


def relative_to(recipe: Recipe, folder: Path) -> Recipe:
    """The same recipe with each relative path that is not below the working directory looked up in `folder`."""

    def resolved(path: str | None) -> str | None:
        if (
            path is None
            or Path(path).is_absolute()
            or exists(Path(path))
            or not exists(folder / path)
        ):
            return path
        return str(folder / path)

    def parameters(values: Mapping[str, Setting]) -> dict[str, Setting]:
        return {
            key: resolved(value) if key == methods.STATISTICS else value
            for key, value in values.items()
        }

    models = tuple(
        replace(
            source,
            path=resolved(source.path) or "",
            lora=resolved(source.lora),
            parameters=parameters(source.parameters),
        )
        for source in recipe.models
    )
    return replace(
        recipe, base=resolved(recipe.base), models=models, parameters=parameters(recipe.parameters)
    )


def recipe_yaml(recipe: Recipe) -> str:
    """The recipe as mergekit's YAML with a `dem:` block; `parse_recipe` gives the same recipe back."""
    document: dict[str, Any] = {"merge_method": recipe.method}
    apart = recipe.definition.base_role == "unused" and not recipe.lists_base
    donor = recipe.base is not None and apart and not recipe.slices
    if recipe.base is not None and not donor:
        document["base_model"] = recipe.base
    models = [
        {
            "model": source.path if source.lora is None else f"{source.path}+{source.lora}",
            "parameters": dict(source.parameters),
        }
        for source in recipe.models
    ]
    document |= {"slices": slices.slices_yaml(recipe)} if recipe.slices else {"models": models}
    optional = {
        "parameters": dict(recipe.parameters),
        "dtype": recipe.dtype,
        "out_dtype": recipe.out_dtype,
    }
    document |= {key: value for key, value in optional.items() if value}
    document["dem"] = {
        "format": FORMAT,
        "version": __version__,
        "seed": recipe.seed,
        "names": [source.name for source in recipe.models],
    }
    # mergekit would average a base_model that it finds, and only the base's names and files are wanted here
    document["dem"] |= {"base": recipe.base} if donor else {}
    document["dem"] |= {"revision": recipe.revision} if recipe.revision else {}
    document["dem"] |= {"inputs": dict(recipe.inputs)} if recipe.inputs else {}
    document["dem"] |= {"allow_unrelated": True} if recipe.allow_unrelated else {}
    document["dem"] |= {"include": list(recipe.include)} if recipe.include else {}
    document["dem"] |= {"exclude": list(recipe.exclude)} if recipe.exclude else {}
    document["dem"] |= {"rounding": recipe.rounding} if recipe.rounding != "nearest" else {}
    document["dem"] |= {"vocabulary": recipe.vocabulary} if recipe.vocabulary != "refuse" else {}
    return strict_yaml.dump(document)


def _document(text: str) -> dict[str, Any]:
    """The keys and values of a recipe's text.

    Raises:
        RecipeError: for what is not YAML, is too long, or has no keys.
    """
    document = strict_yaml.parse(text)
    for fault in document.faults:
        match fault.kind:
            case "length":
                raise RecipeError(
                    f"a recipe of {fault.detail} characters; at most {strict_yaml.MAX_CHARACTERS:,} are read."
                )
            case "alias":
                raise RecipeError("YAML aliases (*name) are not read; write the value out.")
            case "duplicate":
                line = document.lines[fault.keys[:-1]]
                raise RecipeError(f"line {line}: the key {fault.detail!r} occurs twice.")
            case "key":
                raise RecipeError(f"not valid YAML: line {fault.line} has a key that is no text.")
            case "syntax":
                raise RecipeError(f"not valid YAML: {fault.detail}")
            case _:
                raise RecipeError(f"not a recipe: {fault.detail}")
    if not isinstance(document.value, dict):
        raise RecipeError(
            f"a recipe is keys and values (merge_method, base_model, models); found {str(document.value)[:80]!r}."
        )
    return document.value


def _fields(text: str) -> dict[str, Any]:
    """The fields of a recipe from YAML text, every key known.

    Raises:
        RecipeError: for an unknown key, with the nearest known one; for a value that cannot be.
    """
    document = _document(text)
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
    extra = fields.mapping(document.get("dem"), "dem")
    for key in extra:
        if key not in _DEM_KEYS:
            raise RecipeError(f"dem: unknown key {key!r}; {nearest(str(key), _DEM_KEYS)}")
    if extra.get("format", FORMAT) != FORMAT:
        raise RecipeError(
            f"dem.format is {extra['format']!r}, this version reads {FORMAT}: update to open it."
        )
    method = fields.text(document.get("merge_method"), "merge_method") or ""
    parameters = fields.mapping(document.get("parameters"), "parameters")
    base = fields.text(document.get("base_model"), "base_model")
    models: tuple[ModelEntry, ...]
    restacked: tuple[Slice, ...] = ()
    if "slices" in document:
        if "models" in document:
            raise RecipeError(
                "models and slices are both given, and a recipe has one of them. Remove the other."
            )
        models, restacked = slices.read_slices(document["slices"], extra.get("names"), base)
    else:
        models = _sources(document.get("models"), extra.get("names"))
        base, models = _placed(method, base, models, parameters)
    return {
        "base": base or fields.text(extra.get("base"), "dem.base"),
        "models": models,
        "method": method,
        "parameters": parameters,
        "dtype": document.get("dtype"),
        "out_dtype": document.get("out_dtype"),
        "seed": extra.get("seed", 0),
        "inputs": {
            str(key): str(value)
            for key, value in fields.mapping(extra.get("inputs"), "dem.inputs").items()
        },
        "allow_unrelated": extra.get("allow_unrelated") is True,
        "include": fields.parts(extra.get("include"), "dem.include"),
        "exclude": fields.parts(extra.get("exclude"), "dem.exclude"),
        "rounding": extra.get("rounding", "nearest"),
        "revision": fields.text(extra.get("revision"), "dem.revision") or "",
        "vocabulary": extra.get("vocabulary", "refuse"),
        "slices": restacked,
    }


def _sources(models: Any, names: Any) -> tuple[ModelEntry, ...]:
    if not isinstance(models, list) or not models:
        raise RecipeError(
            f"models is {models!r}, expected a list of {{model: folder, parameters: {{weight: ω}}}}."
        )
    if names is not None and not (
        isinstance(names, list)
        and len(names) == len(models)
        and all(isinstance(name, str) and name for name in names)
    ):
        raise RecipeError(
            f"dem.names is {names!r}, expected {len(models)} names, one for each of models."
        )
    sources: list[ModelEntry] = []
    for number, entry in enumerate(models):
        where = f"models[{number}]"
        entry = fields.mapping(entry, where)
        for key in entry:
            if key not in ("model", "parameters"):
                hint = (
                    "it belongs under parameters"
                    if key == methods.WEIGHT
                    else nearest(str(key), ["model", "parameters"])
                )
                raise RecipeError(f"{where}: unknown key {key!r}; {hint}")
        path, _, lora = (fields.text(entry.get("model"), f"{where}.model") or "").partition("+")
        if not path:
            raise RecipeError(f"{where}.model is missing, expected the folder of a checkpoint.")
        name = (
            names[number]
            if names
            else fields.unique(Path(lora or path).name, [source.name for source in sources])
        )
        sources.append(
            ModelEntry(
                path,
                name,
                fields.mapping(entry.get("parameters"), f"{where}.parameters"),
                lora or None,
            )
        )
    return tuple(sources)


def _placed(
    method: str, base: str | None, models: tuple[ModelEntry, ...], parameters: Mapping[str, Any]
) -> tuple[str | None, tuple[ModelEntry, ...]]:
    """A file's base and models as mergekit understands them."""
    role, listed_there = (
        methods.load(method).base_role,
        [source for source in models if source.location == base],
    )
    if base is not None and role in ("origin", "optional", "operand"):
        # The base may stand among the models, without a weight; its difference from itself is 0.
        models = tuple(
            source
            for source in models
            if source not in listed_there or methods.WEIGHT in source.parameters
        )
    if base is not None and role == "unused" and not listed_there and methods.WEIGHT in parameters:
        models = (
            *models,
            ModelEntry(base, fields.unique("base", [source.name for source in models])),
        )
    return base, models
