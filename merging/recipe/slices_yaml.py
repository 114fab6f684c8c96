"""Reads and writes `slices:` of a recipe: the runs of layers that make the output.

    slices:
      - sources:
          - {model: models/a, layer_range: [0, 3]}
      - sources:
          - {model: models/a, layer_range: [1, 3], parameters: {weight: 0.7}}
          - {model: models/b, layer_range: [1, 3], parameters: {weight: 0.3}}
        parameters: {normalize: true}

The grammar is mergekit's: layers are counted from 0, a range ends before its second number, all
sources of a slice have equally many layers, and the output's layers are numbered from first to
last. merging.engine.restack says what slices mean for each tensor.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from merging.errors import RecipeError
from merging.recipe.fields import mapping, unique_name
from merging.recipe.parts import ModelEntry, Slice, SliceSource
from merging.recipe.recipe import Recipe
from merging.recipe.reference import IsFolder, Reference, read_reference, write_reference
from plumbing.suggest import nearest

_SLICE_KEYS = ("sources", "base_model", "parameters")
_SOURCE_KEYS = ("model", "layer_range", "parameters")


class _Run(NamedTuple):
    """A run of layers as the file has it: with a reference instead of a name."""

    model: Reference
    start: int
    stop: int
    parameters: dict[Any, Any]


class _Part(NamedTuple):
    """A slice as the file has it."""

    runs: tuple[_Run, ...]
    parameters: dict[Any, Any]
    base: Reference | None


def read_slices(
    raw: Any, names: Any, base: str | None, is_folder: IsFolder
) -> tuple[tuple[ModelEntry, ...], tuple[Slice, ...]]:
    """Returns the models that `slices` names, each once, and the slices.

    Args:
        raw: `slices` as YAML gives it.
        names: dem.names as YAML gives it, one per model in the order in which they first occur;
            None to name each after its folder.
        base: the recipe's base_model.
        is_folder: see merging.recipe.reference.read_reference.

    Raises:
        RecipeError: an unknown key or a wrong value; names the key and what was expected.
    """
    if not isinstance(raw, list) or not raw:
        raise RecipeError(
            f"slices is {raw!r}, expected a list of "
            "{sources: [{model: folder, layer_range: [0, 3]}]}."
        )
    slices = [_slice(entry, f"slices[{number}]", is_folder) for number, entry in enumerate(raw)]
    references = list(dict.fromkeys(run.model for part in slices for run in part.runs))
    if names is not None and not (
        isinstance(names, list)
        and len(names) == len(references)
        and all(isinstance(name, str) for name in names)
    ):
        raise RecipeError(
            f"dem.names is {names!r}, expected {len(references)} names, one for each model that "
            "the slices name."
        )
    called: dict[Reference, str] = {}
    sources = []
    for number, reference in enumerate(references):
        path, lora = reference
        # dem.inputs calls the base 'base', so no other model may have that name.
        taken = [*called.values(), *([] if reference == Reference(base or "") else ["base"])]
        called[reference] = names[number] if names else unique_name(Path(lora or path).name, taken)
        sources.append(ModelEntry(path, called[reference], {}, lora))
    return tuple(sources), tuple(_with_names(part, called) for part in slices)


def slices_yaml(recipe: Recipe) -> list[dict[str, Any]]:
    """Returns a recipe's slices as mergekit's YAML has them; `read_slices` reads them back."""
    references = {
        source.name: write_reference(Reference(source.path, source.lora))
        for source in recipe.models
    }
    document = []
    for part in recipe.slices:
        sources = [
            {"model": references[source.model], "layer_range": [source.start, source.stop]}
            | ({"parameters": dict(source.parameters)} if source.parameters else {})
            for source in part.sources
        ]
        entry: dict[str, Any] = {"sources": sources}
        entry |= {"base_model": references[part.base]} if part.base else {}
        entry |= {"parameters": dict(part.parameters)} if part.parameters else {}
        document.append(entry)
    return document


def _slice(raw: Any, key: str, is_folder: IsFolder) -> _Part:
    """Reads one slice."""
    if isinstance(raw, dict) and raw.get("residual_weight") is not None:
        raise RecipeError(
            f"{key}.residual_weight is not read: mergekit 0.1.5 accepts the key and does nothing "
            "with it. Remove it; to scale a slice, use passthrough and give the slice "
            "parameters: {scale: …}."
        )
    # `residual_weight: null` asks for nothing, so the key itself is allowed.
    entry = _entry(raw, key, (*_SLICE_KEYS, "residual_weight"))
    listed = entry.get("sources")
    if not isinstance(listed, list) or not listed:
        raise RecipeError(
            f"{key}.sources is {listed!r}, expected a list of "
            "{model: folder, layer_range: [0, 3]}."
        )
    runs = tuple(
        _source(source, f"{key}.sources[{number}]", is_folder)
        for number, source in enumerate(listed)
    )
    lengths = [run.stop - run.start for run in runs]
    if len(set(lengths)) > 1:
        raise RecipeError(
            f"{key}: its sources have {lengths} layers; all sources of a slice need equally many."
        )
    models = [run.model for run in runs]
    # ω and vectors are kept by the model's name, so a second run would have no ω of its own.
    if twice := [model for model in models if models.count(model) > 1]:
        raise RecipeError(
            f"{key}: {str(twice[0])!r} is a source twice. A slice can have a model only once; "
            "merge other layers of it in another slice, or name a copy of the folder."
        )
    base = entry.get("base_model")
    if base is not None:
        base = read_reference(base, f"{key}.base_model", is_folder)
        if base not in models:
            raise RecipeError(
                f"{key}.base_model is {str(base)!r}, which is not one of its sources: "
                f"{', '.join(map(str, models))}."
            )
    return _Part(runs, mapping(entry.get("parameters"), f"{key}.parameters"), base)


def _source(raw: Any, key: str, is_folder: IsFolder) -> _Run:
    """Reads one source of a slice."""
    entry = _entry(raw, key, _SOURCE_KEYS)
    model = read_reference(entry.get("model"), f"{key}.model", is_folder)
    span = entry.get("layer_range")
    # `type(end) is int`, because True and False are ints for isinstance.
    if (
        not (isinstance(span, list) and len(span) == 2 and all(type(end) is int for end in span))
        or not 0 <= span[0] <= span[1]
    ):
        raise RecipeError(
            f"{key}.layer_range is {span!r}, expected [first, last + 1] counted from 0: "
            "[0, 3] is layers 0, 1 and 2."
        )
    return _Run(model, span[0], span[1], mapping(entry.get("parameters"), f"{key}.parameters"))


def _with_names(part: _Part, called: Mapping[Reference, str]) -> Slice:
    """Returns a slice whose models have their names in the recipe."""
    sources = tuple(
        SliceSource(called[run.model], run.start, run.stop, run.parameters) for run in part.runs
    )
    return Slice(sources, part.parameters, None if part.base is None else called[part.base])


def _entry(raw: Any, key: str, known: tuple[str, ...]) -> dict[Any, Any]:
    """Checks for a mapping of known keys."""
    entry = mapping(raw, key)
    for name in entry:
        if name not in known:
            raise RecipeError(f"{key}: unknown key {name!r}; {nearest(str(name), known)}")
    return entry
