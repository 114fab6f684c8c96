"""with_frozen: gives a job a module of its own, so that the sliders stay usable meanwhile."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import psutil

if TYPE_CHECKING:
    from merging.recipe import Recipe
    from workbench.session.models import Models
    from workbench.session.session import Session

T = TypeVar("T")


def with_frozen(session: Session, models: Models, recipe: Recipe, work: Callable[[Any], T]) -> T:
    """Returns the result of work on a copy of the module, composed to exactly this recipe.

    If the copy would take more than half of the available memory, the work runs on the live module,
    and the sliders wait for it.
    """
    size = sum(p.numel() * p.element_size() for p in models.loaded.module.parameters())
    fits = size < psutil.virtual_memory().available / 2
    with session.composed(models, recipe) as module:
        if not fits:
            return work(module)
        module = copy.deepcopy(module)
    return work(module)
