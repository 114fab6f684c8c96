"""Reads and writes a recipe as mergekit's YAML with a `dem:` block."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from merging.errors import RecipeError
from merging.methods import _contract as methods
from merging.paths import exists
from merging.recipe import fields
from merging.recipe import slices_yaml as slices
from merging.recipe.document import FORMAT, check_tokenizer, parse_document
from merging.recipe.parts import ModelEntry, Slice
from merging.recipe.recipe import Recipe
from merging.recipe.reference import (
    IsFolder,
    Reference,
    is_folder_from,
    read_base,
    read_reference,
    write_reference,
)
from merging.recipe.settings import Setting
from merging.version import __version__
from plumbing import strict_yaml
from plumbing.suggest import nearest


def read_recipe(path: str | Path) -> Recipe:
    """Reads a recipe from a file.

    Relative paths in it are looked up in the working directory, then in the recipe's own folder.

    Raises:
        RecipeError: the file cannot be read or is no recipe; names the file and the key.
    """
    file = Path(path)
    if not (exists(file) and file.is_file()):
        raise RecipeError(
            f"{file} is not a file. Give a recipe, a YAML file with merge_method and models."
        )
    # Before the file is read: it may be a model's weights, given by mistake.
    if file.stat().st_size > strict_yaml.MAX_CHARACTERS:
        raise RecipeError(
            f"{file} has {file.stat().st_size:,} bytes; "
            f"a recipe has at most {strict_yaml.MAX_CHARACTERS:,}."
        )
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise RecipeError(f"{file} is not UTF-8 text.") from None
    except OSError as error:
        raise RecipeError(f"{file} cannot be read: {error.strerror}.") from None
    if not text.strip():
        raise RecipeError(
            f"{file} is empty. Give a recipe, a YAML file with merge_method and models."
        )
    try:
        return relative_to(parse_recipe(text, file.parent), file.parent)
    except RecipeError as error:
        raise RecipeError(f"{file}: {error}") from None


def parse_recipe(text: str, folder: Path | None = None) -> Recipe:
    """Reads a recipe from YAML text and checks every key and value.

    Args:
        text: the YAML.
        folder: the recipe's own folder, if it has one. A model whose name has a + may be a folder
            there or in the working directory; see merging.recipe.reference.

    Raises:
        RecipeError: not YAML, an unknown key (the message names the nearest known one), or a value
            that the key does not take.
    """
    return Recipe(**_fields(text, is_folder_from(folder)))


def relative_to(recipe: Recipe, folder: Path) -> Recipe:
    """Returns the recipe with relative paths made paths from the working directory.

    A relative path that exists in the working directory stays as it is; otherwise one that exists
    in `folder` gets `folder` in front; all others, such as hub ids, stay.
    """

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
    """Returns the recipe as mergekit's YAML with a `dem:` block; `parse_recipe` reads it back."""
    document: dict[str, Any] = {"merge_method": recipe.method}
    unused = recipe.definition.base_role == "unused" and not recipe.lists_base
    names_only = recipe.base is not None and unused and not recipe.slices
    if recipe.base is not None and not names_only:
        document["base_model"] = write_reference(Reference(recipe.base))
    models = [
        {
            "model": write_reference(Reference(source.path, source.lora)),
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
    # mergekit would average a base_model as one more model, but the base only gives names and files
    # here. So it is written where mergekit does not look.
    document["dem"] |= {"base": recipe.base} if names_only else {}
    document["dem"] |= {"revision": recipe.revision} if recipe.revision else {}
    document["dem"] |= {"inputs": dict(recipe.inputs)} if recipe.inputs else {}
    document["dem"] |= {"allow_unrelated": True} if recipe.allow_unrelated else {}
    document["dem"] |= {"include": list(recipe.include)} if recipe.include else {}
    document["dem"] |= {"exclude": list(recipe.exclude)} if recipe.exclude else {}
    document["dem"] |= {"rounding": recipe.rounding} if recipe.rounding != "nearest" else {}
    document["dem"] |= {"vocabulary": recipe.vocabulary} if recipe.vocabulary != "refuse" else {}
    return strict_yaml.dump(document)


def _fields(text: str, is_folder: IsFolder) -> dict[str, Any]:
    """Returns the arguments of Recipe from YAML text; Recipe itself checks most values."""
    document, dem = parse_document(text)
    method = fields.text(document.get("merge_method"), "merge_method") or ""
    parameters = fields.mapping(document.get("parameters"), "parameters")
    base = read_base(document.get("base_model"), "base_model", is_folder)
    models: tuple[ModelEntry, ...]
    restacked: tuple[Slice, ...] = ()
    if "slices" in document:
        if "models" in document:
            raise RecipeError(
                "models and slices are both given, and a recipe has one of them. Remove one."
            )
        models, restacked = slices.read_slices(
            document["slices"], dem.get("names"), base, is_folder
        )
    else:
        models = _read_models(document.get("models"), dem.get("names"), is_folder)
        base, models = _place_base(method, base, models, parameters)
    check_tokenizer(document, base or models[0].path, is_folder)
    return {
        "base": base or fields.text(dem.get("base"), "dem.base"),
        "models": models,
        "method": method,
        "parameters": parameters,
        "dtype": document.get("dtype"),
        "out_dtype": document.get("out_dtype"),
        "seed": dem.get("seed", 0),
        "inputs": {
            str(key): str(value)
            for key, value in fields.mapping(dem.get("inputs"), "dem.inputs").items()
        },
        # Only true itself: a text such as 'no' must not switch the check off.
        "allow_unrelated": dem.get("allow_unrelated") is True,
        "include": fields.parts(dem.get("include"), "dem.include"),
        "exclude": fields.parts(dem.get("exclude"), "dem.exclude"),
        "rounding": dem.get("rounding", "nearest"),
        "revision": fields.text(dem.get("revision"), "dem.revision") or "",
        "vocabulary": dem.get("vocabulary", "refuse"),
        "slices": restacked,
    }


def _read_models(models: Any, names: Any, is_folder: IsFolder) -> tuple[ModelEntry, ...]:
    """Reads the list `models`.

    Args:
        models: as YAML gives it.
        names: as YAML gives dem.names, one per model; None to name each after its folder.
        is_folder: see read_reference.
    """
    if not isinstance(models, list) or not models:
        raise RecipeError(
            f"models is {models!r}, expected a list of "
            "{model: folder, parameters: {weight: ω}}."
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
        at = f"models[{number}]"
        entry = fields.mapping(entry, at)
        for key in entry:
            # A weight beside `model`, which mergekit ignores (its issue 470), gets its own hint.
            if key not in ("model", "parameters"):
                hint = (
                    "it belongs under parameters"
                    if key == methods.WEIGHT
                    else nearest(str(key), ["model", "parameters"])
                )
                raise RecipeError(f"{at}: unknown key {key!r}; {hint}")
        path, lora = read_reference(entry.get("model"), f"{at}.model", is_folder)
        name = (
            names[number]
            if names
            else fields.unique_name(Path(lora or path).name, [source.name for source in sources])
        )
        sources.append(
            ModelEntry(
                path,
                name,
                fields.mapping(entry.get("parameters"), f"{at}.parameters"),
                lora,
            )
        )
    return tuple(sources)


def _place_base(
    method: str, base: str | None, models: tuple[ModelEntry, ...], parameters: Mapping[str, Any]
) -> tuple[str | None, tuple[ModelEntry, ...]]:
    """Returns base and models as mergekit understands them."""
    role = methods.load(method).base_role
    listed = [source for source in models if source.location == base]
    if base is not None and role in ("origin", "optional", "operand"):
        # mergekit's recipes may list the base among the models, without a weight. It adds nothing,
        # since its difference from itself is 0.
        models = tuple(
            source
            for source in models
            if source not in listed or methods.WEIGHT in source.parameters
        )
    # If the recipe gives one weight for all models, mergekit averages the base as one more model.
    if base is not None and role == "unused" and not listed and methods.WEIGHT in parameters:
        models = (
            *models,
            ModelEntry(base, fields.unique_name("base", [source.name for source in models])),
        )
    return base, models
