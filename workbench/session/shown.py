"""The recipes that pages show, by digest: a page's tabs name their recipe by it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from workbench.errors import SessionError

if TYPE_CHECKING:
    from merging.recipe import Recipe

MOST = 2_000
"""How many recipes are remembered; those that were settled longest ago are forgotten."""


class ShownRecipes:
    """The recipes that were settled since the models were opened. May be used from any thread."""

    def __init__(self) -> None:
        self._recipes: OrderedDict[str, Recipe] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, recipe: Recipe) -> None:
        """Remembers a recipe."""
        with self._lock:
            self._recipes[recipe.digest] = recipe
            self._recipes.move_to_end(recipe.digest)
            while len(self._recipes) > MOST:
                self._recipes.popitem(last=False)

    def clear(self) -> None:
        """Forgets all recipes, because other models are open now."""
        with self._lock:
            self._recipes.clear()

    def get(self, digest: str) -> Recipe:
        """Returns the recipe with this digest.

        Raises:
            SessionError: no page showed it since these models were opened.
        """
        recipe = self._recipes.get(digest)
        if recipe is None:
            raise SessionError(
                f"recipe {digest} belongs to other models than those that are open. "
                "Show the open models first: the button is above the sliders."
            )
        return recipe
