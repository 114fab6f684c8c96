"""The model card of an export: what it is made of, the formula, and the command that makes it again."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from merging.inputs.checkpoint import Checkpoint
from merging.inputs.vector import Vector
from merging.recipe.formula import formula

if TYPE_CHECKING:
    from merging.recipe import Recipe


def card(
    recipe: "Recipe",
    base: Checkpoint,
    vectors: Mapping[str, Vector],
    command: str,
    computed: str = "",
) -> str:
    """Markdown with the front matter that model hubs read; `computed` says where, if not on a processor alone."""
    from merging.version import __version__

    front = {"library_name": "transformers", "tags": ["merge", "distribution-edited-model"]}
    omegas = {name: "–" if omega is None else str(omega) for name, omega in recipe.omegas.items()}
    rows = [
        f"| {plain(source.name)} | {plain(Path(source.location).name)} | {plain(omegas[source.name])} | "
        f"`{vectors[source.name].digest[:12]}` |"
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
        f"Base Θ: {plain(_named(recipe.base, base))}, digest `{base.digest[:12]}`. "
        f"Made by dem-workbench {__version__}, recipe `{recipe.digest}` (`recipe.yml`, and in the header of each weight file).",
        *([f"\n{plain(computed[:1].upper() + computed[1:])}"] if computed else []),
        "",
        "| vector | checkpoint | ω | digest |",
        "|---|---|---|---|",
        *rows,
        "",
        "To make it again:",
        "",
        f"    {command or 'dem merge recipe.yml OUT'}",
        "",
        "To check that the files are what was written:",
        "",
        "    dem verify FOLDER",
        "",
    ]
    return "\n".join(lines)


def _named(reference: str | None, base: Checkpoint) -> str:
    """A hub id as it was given, with its commit; of a folder only the last part, which is nobody's home."""
    if base.path.parent.name == "snapshots":
        return f"{(reference or '').partition('@')[0]}, commit {base.path.name}"
    return base.path.resolve().name


def plain(text: str) -> str:
    """Text that cannot break out of a table cell."""
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
