"""Writes the model card of an adapter: what it is, its error per layer, and how to load it."""

from typing import NamedTuple

import yaml

from merging.inputs.checkpoint import Checkpoint
from merging.outputs.adapter_fit import Fit, LeftOut
from merging.outputs.card import VERIFY, again, escape_cell
from merging.recipe import Recipe
from merging.version import __version__


class About(NamedTuple):
    """The description of an adapter for its model card and its configuration."""

    title: str
    text: str
    """What it was made from: a formula, or a sentence."""
    base: str
    """The base for base_model_name_or_path: a folder, or org/name@revision."""
    command: str = ""
    """The command line that makes it again; empty to leave it out."""
    recipe: Recipe | None = None
    left_out: tuple[LeftOut, ...] = ()
    generates: bool = True
    """Whether the base's class writes text; PEFT is told no task if not."""


def card(fit: Fit, base: Checkpoint, about: About) -> str:
    """Returns the model card as Markdown with YAML front matter.

    Args:
        fit: the errors of the adapter.
        base: Θ.
        about: title, origin and command.
    """
    front = yaml.safe_dump(
        {"library_name": "peft", "tags": ["lora", "distribution-edited-model"]}, sort_keys=False
    )
    rows = [
        f"| {layer.layer} | {layer.tensors} | {layer.ranks[0]} to {layer.ranks[1]} "
        f"| {layer.norm:.4g} | {layer.error:.2e} |"
        for layer in fit.by_layer()
    ]
    parts = [
        f"Not in the adapter, {fit.share(part):.2%} of ‖Δ‖²: {escape_cell(part.label)}."
        for part in fit.left_out
    ]
    lines = [
        *("---", front.strip(), "---", ""),
        *(f"# {escape_cell(about.title)}", "", f"    {about.text}", ""),
        # The folder's last part only: its full path may show a person's name.
        f"Base Θ: {escape_cell(base.path.resolve().name)}, digest `{base.digest[:12]}`. "
        f"Made by dem-workbench {__version__}.",
        f"Rank {fit.rank} at most, relative error of Δ in the adapter {fit.error:.2e} "
        "(Frobenius norm).",
        *parts,
        "",
        "| layer | tensors | rank | ‖Δ‖ | relative error |",
        "|---|---|---|---|---|",
        *rows,
        *("", "To load it:", "", "    PeftModel.from_pretrained(base_model, FOLDER)", ""),
        *again(about.command),
        *VERIFY,
    ]
    return "\n".join(lines)
