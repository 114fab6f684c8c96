"""Writes the model card of a converted GGUF file: where it comes from, and what it lost."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from merging.version import __version__


def model_card(
    facts: Mapping[str, Any], file: str, sha256: str, dtype: str, quantised: bool
) -> str:
    """Returns the model card as Markdown with YAML front matter.

    Args:
        facts: what the reader says about the file.
        file: name of the file.
        sha256: of the file.
        dtype: of the weights that were written.
        quantised: whether weights were stored in fewer than 16 bits.
    """
    license = _plain(facts["license"])
    front = ["---", "library_name: transformers"]
    # Only an identifier: other texts could be anything, and would be YAML here.
    if re.fullmatch(r"[a-z0-9][a-z0-9.-]*", license):
        front.append(f"license: {license}")
    front.append("---")
    total = facts["parameters"]
    stored = ", ".join(
        f"{name} {count:,}" for name, count in sorted(facts["types"].items(), key=lambda x: -x[1])
    )
    loss = (
        "**The inputs were quantised.** The weights are the dequantised values, so the precision "
        "that was lost is not restored, and a distribution vector between this model and one that "
        "was not quantised contains the difference."
        if quantised
        else "The weights were not quantised."
    )
    lines = [
        *front,
        "",
        f"# {_plain(facts['name']) or _plain(file)}",
        "",
        f"Converted from the GGUF file `{_plain(file)}` by the DEM workbench {__version__}.",
        "",
        loss,
        "",
        f"- Architecture in the file: `{_plain(facts['architecture'])}`",
        f"- Weights: {total:,}, written in {dtype}; in the file: {stored}",
        f"- SHA-256 of the file: `{sha256}`",
        *(f"- {_plain(note)}" for note in facts["notes"]),
        "",
    ]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Returns a text of the file without anything that is markup."""
    return re.sub(r"[^\w .,:;'()+-]", "", " ".join(text.split()))[:200].strip()
