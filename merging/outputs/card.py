"""Writes the model card of an export: its inputs, its formula, and the command to make it again."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from merging.inputs.checkpoint import Checkpoint
from merging.inputs.vector import Vector
from merging.recipe.formula import formula
from merging.version import __version__

if TYPE_CHECKING:
    from merging.recipe import Recipe


VERIFY = ("To check that the files are what was written:", "", "    dem verify FOLDER", "")
"""The lines of every card that say how to check the folder."""


def again(command: str) -> tuple[str, ...]:
    """Returns the lines of a card with the command that made the folder; () if there is none."""
    # Its paths are as they were typed, because a full one may show a person's name.
    where = "To make it again, in the folder where the command was run:"
    return (where, "", f"    {command}", "") if command else ()


def card(
    recipe: "Recipe",
    base: Checkpoint,
    vectors: Mapping[str, Vector],
    command: str,
    computed: str = "",
) -> str:
    """Returns the model card as Markdown with the front matter that model hubs read.

    Args:
        recipe: the merge.
        base: Θ.
        vectors: the vectors that the recipe names.
        command: the command line that makes the export again; empty for the general one.
        computed: a sentence on the devices that computed it; empty if only the CPU did.
    """
    front = {"library_name": "transformers", "tags": ["merge", "distribution-edited-model"]}
    omegas = {name: "–" if omega is None else str(omega) for name, omega in recipe.omegas.items()}
    rows = [
        # Only the last part of a path, because the full one may show a person's name.
        f"| {escape_cell(source.name)} | {escape_cell(Path(source.location).name)} "
        f"| {escape_cell(omegas[source.name])} | `{vectors[source.name].digest[:12]}` |"
        for source in recipe.models
    ]
    method = recipe.definition
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False).strip(),
        "---",
        "",
        "# A merged model",
        "",
        f"    {formula(recipe)}",
        "",
        f"Method `{recipe.method}`: {method.formula} ({method.paper}).",
        f"Base Θ: {escape_cell(_base_name(recipe.base, base))}, digest `{base.digest[:12]}`. "
        f"Made by dem-workbench {__version__}, recipe `{recipe.digest}` (`recipe.yml`, and in the "
        "header of each weight file).",
        *([f"\n{escape_cell(computed[:1].upper() + computed[1:])}"] if computed else []),
        "",
        "| vector | checkpoint | ω | digest |",
        "|---|---|---|---|",
        *rows,
        "",
        *(again(command) or ("To make it again:", "", "    dem merge recipe.yml OUT", "")),
        *VERIFY,
    ]
    return "\n".join(lines)


def _base_name(reference: str | None, base: Checkpoint) -> str:
    """Returns the name of the base for the card: a hub id with its commit, or a folder's last part.

    A full path may show a person's name.
    """
    # The cache of the hub keeps each commit of a model in a folder snapshots/COMMIT.
    if base.path.parent.name == "snapshots":
        return f"{(reference or '').partition('@')[0]}, commit {base.path.name}"
    return base.path.resolve().name


def escape_cell(text: str) -> str:
    """Escapes text so that it cannot leave its cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
