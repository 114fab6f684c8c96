"""`slices:` of a recipe: which layers of which models stand in the output, one run of layers after another.

    slices:
      - sources:
          - {model: models/a, layer_range: [0, 3]}
      - sources:
          - {model: models/a, layer_range: [1, 3], parameters: {weight: 0.7}}
          - {model: models/b, layer_range: [1, 3], parameters: {weight: 0.3}}
        parameters: {normalize: true}

The grammar is mergekit's: a range begins at 0 and ends before its second number, all sources of a slice have as many
layers, and the output's layers are numbered through. Here the file becomes values and back; `restack` says what they mean.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from merging.errors import RecipeError
from merging.recipe.fields import unique
from merging.recipe.parts import ModelEntry, Slice, SliceSource
from merging.recipe.recipe import Recipe
from plumbing.suggest import nearest

_SLICE_KEYS = ("sources", "base_model", "parameters")


_SOURCE_KEYS = ("model", "layer_range", "parameters")


def read_slices(
    given: Any, names: Any, base: str | None
) -> tuple[tuple[ModelEntry, ...], tuple[Slice, ...]]:
    """What stands under `slices` in a file: the models that it names, each once, and the slices.

    Args:
        given: as YAML gives it.
        names: what dem.names says, one for each model in the order in which they first occur; None for folder names.
        base: the recipe's base_model.

    Raises:
        RecipeError: naming the key and what was expected.
    """
    if not isinstance(given, list) or not given:
        raise RecipeError(
            f"slices is {given!r}, expected a list of {{sources: [{{model: folder, layer_range: [0, 3]}}]}}."
        )
    slices = [_slice(entry, f"slices[{number}]") for number, entry in enumerate(given)]
    references = list(dict.fromkeys(source.model for part in slices for source in part.sources))
    if names is not None and not (
        isinstance(names, list)
        and len(names) == len(references)
        and all(isinstance(name, str) for name in names)
    ):
        raise RecipeError(
            f"dem.names is {names!r}, expected {len(references)} names, one for each model that the slices name."
        )
    called: dict[str, str] = {}
    sources = []
    for number, reference in enumerate(references):
        path, _, lora = reference.partition("+")
        # dem.inputs calls the base 'base', so that only the base may be called so
        taken = [*called.values(), *([] if reference == base else ["base"])]
        called[reference] = names[number] if names else unique(Path(lora or path).name, taken)
        sources.append(ModelEntry(path, called[reference], {}, lora or None))
    return tuple(sources), tuple(_renamed(part, called.__getitem__) for part in slices)


def slices_yaml(recipe: Recipe) -> list[dict[str, Any]]:
    """The slices of a recipe as mergekit's YAML has them; `read` gives them back."""
    paths = {
        source.name: source.path + (f"+{source.lora}" if source.lora else "")
        for source in recipe.models
    }
    document = []
    for part in recipe.slices:
        sources = [
            {"model": paths[source.model], "layer_range": [source.start, source.stop]}
            | ({"parameters": dict(source.parameters)} if source.parameters else {})
            for source in part.sources
        ]
        entry: dict[str, Any] = {"sources": sources}
        entry |= {"base_model": paths[part.base]} if part.base else {}
        entry |= {"parameters": dict(part.parameters)} if part.parameters else {}
        document.append(entry)
    return document


def _slice(given: Any, where: str) -> Slice:
    """One entry of `slices`, models still under the references that the file gives them."""
    if isinstance(given, dict) and given.get("residual_weight") is not None:
        raise RecipeError(
            f"{where}.residual_weight is not read: mergekit 0.1.5 accepts the key and does nothing with it. "
            "Remove it; to scale a slice, give it parameters: {scale: …} under passthrough."
        )
    entry = _entry(given, where, (*_SLICE_KEYS, "residual_weight"))
    listed = entry.get("sources")
    if not isinstance(listed, list) or not listed:
        raise RecipeError(
            f"{where}.sources is {listed!r}, expected a list of {{model: folder, layer_range: [0, 3]}}."
        )
    sources = tuple(_source(one, f"{where}.sources[{number}]") for number, one in enumerate(listed))
    lengths = [source.stop - source.start for source in sources]
    if len(set(lengths)) > 1:
        raise RecipeError(
            f"{where}: its sources have {lengths} layers; all sources of a slice need equally many."
        )
    models = [source.model for source in sources]
    if twice := [model for model in models if models.count(model) > 1]:
        raise RecipeError(
            f"{where}: {twice[0]!r} is a source twice. A model may stand once in a slice; merge other layers of it in a "
            "slice of their own, or name a copy of the folder."
        )
    base = entry.get("base_model")
    if base is not None and base not in models:
        raise RecipeError(
            f"{where}.base_model is {base!r}, which is not one of its sources: {', '.join(models)}."
        )
    return Slice(sources, _mapping(entry.get("parameters"), f"{where}.parameters"), base)


def _source(given: Any, where: str) -> SliceSource:
    entry = _entry(given, where, _SOURCE_KEYS)
    model, span = entry.get("model"), entry.get("layer_range")
    if not (isinstance(model, str) and model.partition("+")[0] and "\0" not in model):
        raise RecipeError(f"{where}.model is {model!r}, expected the folder of a checkpoint.")
    if (
        not (isinstance(span, list) and len(span) == 2 and all(type(end) is int for end in span))
        or not 0 <= span[0] <= span[1]
    ):
        raise RecipeError(
            f"{where}.layer_range is {span!r}, expected [first, last + 1] counted from 0: [0, 3] is layers 0, 1 and 2."
        )
    return SliceSource(
        model, span[0], span[1], _mapping(entry.get("parameters"), f"{where}.parameters")
    )


def _renamed(part: Slice, name: Callable[[str], str]) -> Slice:
    sources = tuple(replace(source, model=name(source.model)) for source in part.sources)
    return replace(part, sources=sources, base=part.base and name(part.base))


def _entry(given: Any, where: str, known: tuple[str, ...]) -> dict[Any, Any]:
    entry = _mapping(given, where)
    for key in entry:
        if key not in known:
            raise RecipeError(f"{where}: unknown key {key!r}; {nearest(str(key), known)}")
    return entry


def _mapping(given: Any, where: str) -> dict[Any, Any]:
    if given is not None and not isinstance(given, dict):
        raise RecipeError(f"{where} is {given!r}, expected keys and values.")
    return given or {}
