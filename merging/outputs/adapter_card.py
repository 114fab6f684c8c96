"""The model card of an adapter that was made here: what it is, what it misses per layer, how it is loaded."""

from typing import NamedTuple

import yaml

from merging.inputs.checkpoint import Checkpoint
from merging.outputs.adapter_fit import Fit, LeftOut
from merging.outputs.card import plain
from merging.recipe import Recipe


class About(NamedTuple):
    """What the folder says of itself."""

    title: str
    text: str
    """How it came about: a formula, or a sentence."""
    base: str
    """How base_model_name_or_path names the base: a folder, or org/name@revision."""
    command: str = ""
    recipe: Recipe | None = None
    left_out: tuple[LeftOut, ...] = ()


def card(fit: Fit, base: Checkpoint, about: About) -> str:
    """The model card: what the adapter is, what it misses per layer, how it is loaded."""
    from merging.version import __version__

    front = yaml.safe_dump(
        {"library_name": "peft", "tags": ["lora", "distribution-edited-model"]}, sort_keys=False
    )
    rows = [
        f"| {layer.layer} | {layer.tensors} | {layer.ranks[0]} to {layer.ranks[1]} | {layer.norm:.4g} | {layer.error:.2e} |"
        for layer in fit.by_layer()
    ]
    parts = [
        f"Not in the adapter: {part.kind} (tensors: {part.tensors}, {fit.share(part):.2%} of ‖Δ‖²)."
        for part in fit.left_out
    ]
    lines = [
        *("---", front.strip(), "---", ""),
        *(f"# {plain(about.title)}", "", f"    {about.text}", ""),
        f"Base Θ: {plain(base.path.resolve().name)}, digest `{base.digest[:12]}`. Made by dem-workbench {__version__}.",
        f"Rank {fit.rank} at most, relative error of Δ in the adapter {fit.error:.2e} (Frobenius norm).",
        *parts,
        "",
        "| layer | tensors | rank | ‖Δ‖ | relative error |",
        "|---|---|---|---|---|",
        *rows,
        *("", "To load it:", "", "    PeftModel.from_pretrained(base_model, FOLDER)", ""),
        *(("To make it again:", "", f"    {about.command}", "") if about.command else ()),
        *("To check that the files are what was written:", "", "    dem verify FOLDER", ""),
    ]
    return "\n".join(lines)
