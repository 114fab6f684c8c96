"""Reads the keys of a recipe's YAML text and refuses unknown ones; values are checked later.

Faults of the text are worded here, for the person whose recipe it is.
"""

from pathlib import Path
from typing import Any

from merging.errors import RecipeError
from merging.recipe import fields
from merging.recipe.reference import IsFolder, read_reference
from plumbing import strict_yaml
from plumbing.suggest import nearest

FORMAT = 1
"""The format of the `dem:` block that this version reads and writes."""

_KEYS = (
    "merge_method",
    "base_model",
    "models",
    "slices",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "tokenizer",
    "name",
    "dem",
)
"""The keys of a recipe, mergekit's and `dem`."""

_MOE = (
    "it makes a mixture of experts (mergekit-moe), a model of another architecture than its "
    "inputs; make it with mergekit and name its folder here"
)
_UNSUPPORTED = {
    "modules": (
        "this version cannot merge the modules of a multi-modal model separately; "
        "give models: or slices:"
    ),
    "experts": _MOE,
    "shared_experts": _MOE,
    "experts_per_token": _MOE,
    "gate_mode": _MOE,
    "chat_template": "the base's chat template is used as it is",
}
"""Keys of mergekit that are not supported -> why, and what to do instead."""

_DEM_KEYS = (
    "format", "version", "seed", "names", "base", "revision", "inputs", "allow_unrelated",
    "include", "exclude", "rounding", "vocabulary",
)  # fmt: skip
"""The keys of the `dem:` block."""


def parse_document(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the keys and values of a recipe's text, and those of its `dem:` block.

    Raises:
        RecipeError: the text is not YAML, too long or empty, or a key is unknown, is read by other
            versions only, or belongs to a feature of mergekit that is not supported.
    """
    document = _keys_and_values(text)
    # mergekit ignores unknown keys, so a weight that is beside `model:` or misspelt changes nothing
    # there, without a word (arcee-ai/mergekit#470).
    for key in document:
        if key in _UNSUPPORTED:
            raise RecipeError(f"{key!r} is not read: {_UNSUPPORTED[key]}.")
        if key not in _KEYS:
            raise RecipeError(f"unknown key {key!r}; {nearest(str(key), _KEYS)}")
    dem = fields.mapping(document.get("dem"), "dem")
    for key in dem:
        if key not in _DEM_KEYS:
            raise RecipeError(f"dem: unknown key {key!r}; {nearest(str(key), _DEM_KEYS)}")
    if dem.get("format", FORMAT) != FORMAT:
        raise RecipeError(
            f"dem.format is {dem['format']!r}, this version reads {FORMAT}: update to open it."
        )
    return document, dem


def check_tokenizer(document: dict[str, Any], base: str, is_folder: IsFolder) -> None:
    """Refuses every tokenizer but that of the model whose files the export gets.

    Args:
        document: the recipe's keys and values.
        base: that model as the recipe names it: the base, or the first model if there is none.
        is_folder: see read_reference.

    Raises:
        RecipeError: another tokenizer is asked for.
    """

    def is_base(source: Any, key: str) -> bool:
        if source == "base":
            return True
        # 'union' is mergekit's other word; as it does, a word is not taken for a folder.
        if source is None or source == "union":
            return False
        path, lora = read_reference(source, key, is_folder)
        return lora is None and Path(path) == Path(base)

    source = document.get("tokenizer_source")
    if source is not None and not is_base(source, "tokenizer_source"):
        raise RecipeError(
            f"tokenizer_source is {source!r}; only the base's tokenizer is used. Remove the key, "
            "or write base."
        )
    if document.get("tokenizer") is None:
        return
    # `tokenizer: {source: base}` asks for what is done anyway. Without `source`, and so with no
    # key at all, mergekit builds the union of all tokenizers.
    tokenizer = fields.mapping(document["tokenizer"], "tokenizer")
    others = [key for key, value in tokenizer.items() if key != "source" and value]
    if others or not is_base(tokenizer.get("source"), "tokenizer.source"):
        what = f"{others[0]} is {tokenizer[others[0]]!r}: " if others else ""
        raise RecipeError(
            f"'tokenizer' is not read: {what}no tokenizer is built from several models, the base's "
            "is used; remove the key, or write tokenizer_source: base."
        )


def _keys_and_values(text: str) -> dict[str, Any]:
    """Parses YAML text into a dict, and words everything that YAML itself can get wrong."""
    document = strict_yaml.parse(text)
    for fault in document.faults:
        match fault.kind:
            case "length":
                raise RecipeError(
                    f"the recipe has {fault.detail} characters; "
                    f"at most {strict_yaml.MAX_CHARACTERS:,} are read."
                )
            case "alias":
                raise RecipeError("YAML aliases (*name) are not read; write the value out.")
            case "duplicate":
                line = document.lines[fault.keys[:-1]]
                raise RecipeError(f"line {line}: the key {fault.detail!r} occurs twice.")
            case "key":
                raise RecipeError(f"not valid YAML: line {fault.line} has a key that is not text.")
            case "syntax":
                raise RecipeError(f"not valid YAML: {fault.detail}")
            case _:
                raise RecipeError(f"not a recipe: {fault.detail}")
    if document.value is None:
        raise RecipeError("the recipe is empty. Write merge_method, base_model and models.")
    if not isinstance(document.value, dict):
        raise RecipeError(
            "a recipe is keys and values (merge_method, base_model, models); "
            f"found {str(document.value)[:80]!r}."
        )
    return document.value
