"""Contender: a model that can be compared, one row of a comparison."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from workbench.session.keys import weights_key

if TYPE_CHECKING:
    from merging.recipe import Recipe

Kind = Literal["base", "checkpoint", "current", "recipe", "export", "model"]
"""Where a contender comes from: the base; one vector alone at ω = 1; the standing of the page;
another composition of the open models; an export of the workdir; another model folder."""


@dataclass(frozen=True)
class Contender:
    """One row of a comparison.

    Attributes:
        name: how the row is called.
        kind: where the contender comes from.
        recipe: gives its weights; for a folder, the recipe that gives exactly the folder's weights.
        identity: key of its losses in the cache; see LossCache.get.
        folder: the folder it is loaded from, or None if it is composed from the open models.
    """

    name: str
    kind: Kind
    recipe: Recipe
    identity: str
    folder: Path | None = None

    @property
    def key(self) -> str:
        """The key of its weights in runs and ledger, equal for equal weights; see weights_key."""
        return weights_key(self.recipe)
