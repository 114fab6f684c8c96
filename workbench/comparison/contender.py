"""Contender, Kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from workbench.session.keys import weights_key

if TYPE_CHECKING:
    from merging.recipe import Recipe

Kind = Literal["base", "checkpoint", "current", "recipe", "export", "model"]


@dataclass(frozen=True)
class Contender:
    """One row of a comparison."""

    name: str
    kind: Kind
    recipe: Recipe
    """What makes its weights; of a folder the recipe that gives back exactly what is in it."""
    identity: str
    """The key of its losses in the book."""
    folder: Path | None = None
    """Where it is loaded from; None where it is composed from what is open."""

    @property
    def key(self) -> str:
        """The name of its weights in runs and ledger."""
        return weights_key(self.recipe)
