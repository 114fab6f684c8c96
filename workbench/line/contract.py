"""The messages of the live line: what a page sends, and what the server answers.

A page sends a whole state, never a change, so a lost or late message cannot leave page and server
apart. docs/page.md describes the protocol; assets/live/state.js is its other side.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench.errors import SessionError, is_user_error
from workbench.plots.bullets import Gain, gain
from workbench.session.keys import weights_key
from workbench.session.standing import Choice, Standing

if TYPE_CHECKING:
    from merging.recipe import Recipe
    from workbench.session.loss_on_axis import LossOnAxis
    from workbench.session.models import Models

MOST_BYTES = 262_144
"""The largest message of a page."""
MOST_VECTORS = 1_000
_PAGE = re.compile(r"[A-Za-z0-9_-]{8,64}")
_PROMPT = 20_000


class ProtocolError(SessionError):
    """A message that no page of ours sends; the answer is status 400."""


@dataclass(frozen=True)
class Wish:
    """The state that a page wants to see composed.

    Attributes:
        page: identifies the page (a tab of a browser).
        turn: counts the page's wishes; a higher one makes the lower ones stale.
        models: Models.key of the models that the page shows.
        method: name of the merge method.
        parameters: parameter -> value as the field holds it; None is an empty field.
        omegas: vector -> ω.
        held: whether the hand still holds a slider, so that the next wish is near.
        prompt: the question, as the person wrote it; "" for none.
        plain: whether the question is sent as plain text, without the chat template.
    """

    page: str
    turn: int
    models: str
    method: str
    parameters: Mapping[str, Any]
    omegas: Mapping[str, float]
    held: bool = False
    prompt: str = ""
    plain: bool = False


def wish_of(document: Any) -> Wish:
    """Reads a wish from a parsed JSON document.

    The values of ω and parameters are checked later, by the core, so that each way in refuses the
    same. Here only the types are checked.

    Raises:
        ProtocolError: the document is no wish; the message names the key.
    """
    kinds: dict[str, tuple[type, ...]] = {
        "page": (str,),
        "turn": (int,),
        "models": (str,),
        "method": (str,),
        "parameters": (dict,),
        "omegas": (dict,),
        "held": (bool,),
        "prompt": (str,),
        "plain": (bool,),
    }
    if not isinstance(document, dict):
        raise ProtocolError(f"the message is {_short(document)}, expected an object.")
    if unknown := sorted(set(document) - set(kinds)):
        raise ProtocolError(f"the message has an unknown key {_short(unknown[0])}.")
    for key, types in kinds.items():
        if key not in document:
            if key in ("held", "prompt", "plain"):
                continue
            raise ProtocolError(f"the message has no {key}.")
        # By type(), because for Python true is the whole number 1.
        if type(document[key]) not in types:
            raise ProtocolError(f"{key} is {_short(document[key])}, expected {types[0].__name__}.")
    page_of(document["page"])
    if not 0 <= document["turn"] < 2**53:
        raise ProtocolError(f"turn is {_short(document['turn'])}, expected a count from 0.")
    if len(document["omegas"]) > MOST_VECTORS or len(document["parameters"]) > MOST_VECTORS:
        raise ProtocolError(f"the message has more than {MOST_VECTORS} ω or parameters.")
    if len(document.get("prompt", "")) > _PROMPT:
        raise ProtocolError(f"the prompt is longer than {_PROMPT:,} characters.")
    return Wish(**document)


def page_of(value: Any) -> str:
    """Returns the name of a page, checked.

    Raises:
        ProtocolError: it is no name of 8 to 64 letters, digits, `-` and `_`.
    """
    if not (isinstance(value, str) and _PAGE.fullmatch(value)):
        raise ProtocolError(f"page is {_short(value)}, expected 8 to 64 letters and digits.")
    return value


def standing_of(document: Mapping[str, Any], models: Models) -> Standing:
    """Returns the standing that a state of a page describes, checked against the open models.

    Args:
        document: method, parameters and omegas, as a Wish has them.
        models: the open models.

    Raises:
        SessionError: an ω is not a number in range, or a name is not open.
        RecipeError: the method or a parameter is unknown, empty or out of range.
    """
    omegas = models.omegas(document["omegas"])
    return Standing(omegas, Choice.of(document["method"], document["parameters"]))


def state_of(standing: Standing, models: Models) -> dict[str, Any]:
    """Returns a standing as a state of a page; the reverse of `standing_of`."""
    return {
        "method": standing.choice.method,
        "parameters": dict(standing.choice.parameters),
        "omegas": dict(zip(models.names, standing.omegas, strict=True)),
    }


def standing_of_recipe(recipe: Recipe, models: Models) -> Standing | None:
    """Returns the standing whose sliders and fields give the weights of a recipe, or None."""
    weights = recipe.omegas
    try:
        if all(isinstance(weights.get(name, 0.0), int | float) for name in models.names):
            omegas = tuple(float(weights.get(name, 0.0)) for name in models.names)
        else:  # a method without ω
            omegas = tuple(float(name in weights) for name in models.names)
        standing = Standing(omegas, Choice.of(recipe.method, dict(recipe.parameters)))
        # Composed again and compared, because a recipe can say more than the page can show:
        # dtypes, filters, a seed.
        again = models.recipe(standing.omegas, standing.choice)
        return standing if weights_key(again) == weights_key(recipe) else None
    # No slider or field can show ω with gradients or filters, or parameters per layer.
    except Exception as error:
        if not is_user_error(error):
            raise
        return None


def point_message(dataset: str, point: LossOnAxis) -> dict[str, Any]:
    """Returns the loss of one dataset as the bars show it.

    A number that is not finite is None, because JSON has none. Without the ends of the axis there
    is no share yet.
    """
    if point.base is None:
        loss, stderr = finite(point.loss.value), finite(point.loss.stderr)
        nothing = dict.fromkeys(("base", "expert", "share", "share_stderr"))
        return {"loss": loss, "stderr": stderr, "n": point.loss.n, **nothing, **_known(point)}
    row: Gain = gain(dataset, point.loss, point.base, point.expert)
    return {
        "loss": finite(row.loss),
        "stderr": finite(row.stderr),
        "n": row.n,
        "base": finite(row.base),
        "expert": finite(row.expert),
        "share": finite(row.share),
        "share_stderr": finite(row.share_stderr),
        **_known(point),
    }


def _known(point: LossOnAxis) -> dict[str, bool]:
    return {"quick": point.quick, "ends": point.base is not None}


def mean_message(points: Mapping[str, LossOnAxis], datasets: int) -> dict[str, Any] | None:
    """Returns the mean loss over the datasets with its standard error.

    None while a loss is missing, or some are quick and others full: their mean would be of neither.
    """
    if len(points) < datasets or not points or len({point.quick for point in points.values()}) > 1:
        return None
    losses = [point.loss for point in points.values()]
    return {
        "value": finite(sum(loss.value for loss in losses) / len(losses)),
        "stderr": finite(math.sqrt(sum(loss.stderr**2 for loss in losses)) / len(losses)),
        "n": sum(loss.n for loss in losses),
        "datasets": len(losses),
    }


def finite(value: float | None) -> float | None:
    """Returns the value, or None if it is NaN or infinite."""
    return value if value is not None and math.isfinite(value) else None


def _short(value: Any) -> str:
    return repr(value)[:80]
