"""What came out of a search: the best ω on each dataset, and how well the losses are predicted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench.plots.bullets import Gain, gain
from workbench.search.paired import squared_errors
from workbench.search.screening import few_of
from workbench.search.wanted import aim_value
from workbench.session.loss_on_axis import FULL

if TYPE_CHECKING:
    from evaluation.search import Trial
    from evaluation.search.objective import Objective
    from merging.recipe import Recipe
    from workbench.search.running import Search
    from workbench.session.models import Models
    from workbench.session.session import Session


def gains_on(session: Session, models: Models, recipe: Recipe, split: str = "") -> list[Gain]:
    """Returns what a composition gives on each dataset, between base and expert.

    Args:
        session: the session; what it measured before is read.
        models: its open models.
        recipe: the composition.
        split: the examples that are measured; "" for those that are open.

    Raises:
        CorpusError: no dataset has this split.
    """
    from workbench.session.opening import open_data

    if split:
        assert models.data_folder is not None
        # Quick losses are not asked for here, so the model's speed is not measured for them.
        data = open_data(models.data_folder, models.loaded, split, quick=few_of)
        models = replace(models, data=data)
    ends = session.measuring.ends(models, FULL)
    here = session.measuring.on_all(models, recipe, FULL)
    return [gain(name, loss, *ends[name]) for name, loss in here.items()]


class Leaning(NamedTuple):
    """How far a search relied on its surrogates."""

    steps: int
    """Steps to where the surrogates expected the best."""
    short: int
    """Those that went half as far, because a surrogate was weak."""
    weak: tuple[str, ...]
    """The datasets whose surrogates were weak at such a step."""


def leaning(search: Search) -> Leaning | None:
    """Returns how far a search relied on its surrogates; None if it had none."""
    from evaluation.search.staged import StagedSearch
    from evaluation.search.surrogate import SurrogateSearch

    parts = (
        search.searcher.parts if isinstance(search.searcher, StagedSearch) else [search.searcher]
    )
    steps = [each for part in parts if isinstance(part, SurrogateSearch) for each in part.weak]
    if not steps:
        return None
    return Leaning(len(steps), sum(map(bool, steps)), tuple(dict.fromkeys(chain(*steps))))


def left_out_r2(search: Search) -> dict[str, float]:
    """Returns, by dataset, the R² of the surrogates for points that were left out of their fits.

    They are fitted to the trials and to what was known before. R² is NaN where fewer than three
    points, or points with equal losses, tell nothing.
    """
    from evaluation.search.surrogate import fit

    if search.searcher is None:
        return {}
    # A point may have been known and measured again with its derivatives.
    told = {
        tuple(trial.point.values()): trial
        for trial in (*search.known, *search.searcher.trials)
        if trial.measured is not None
    }
    if not told:
        return {}
    models = fit(search.searcher.space.names, list(told.values()))
    return {dataset: model.r2() for dataset, model in models.items()}


def front_of(search: Search) -> list[Trial]:
    """Returns the trials that no other one beats on every dataset, the best score first.

    Those on which a dataset is worse than its limit are left out.
    """
    from evaluation.search.front import front

    objective, searcher = search.objective, search.searcher
    if objective is None or searcher is None:
        return []
    plain = _without_limits(objective)
    # A limit that is broken adds a penalty to the score.
    kept = [
        trial
        for trial in searcher.trials
        if trial.measured and trial.score == plain.score(trial.measured.losses)
    ]
    datasets = list(kept[0].measured.losses) if kept and kept[0].measured else []
    return sorted(front(kept, datasets), key=lambda trial: trial.score)


def _without_limits(objective: Objective) -> Objective:
    from evaluation.search.objective import Limited

    return objective.objective if isinstance(objective, Limited) else objective


def trial_row(search: Search, trial: Trial) -> dict[str, Any] | None:
    """Returns a trial for a table of a page; None if it failed, or was given up.

    Args:
        search: the search, which has begun.
        trial: one of its trials.

    Returns:
        "score": see Trial; "value": the aim, see aim_value; "error": the standard error of its
        difference from the base's, None if not known; "allowed": whether all limits on losses are
        kept; "omegas": vector -> group of layers -> ω; "parameters": those that are searched;
        "digest" and "recipe": of the composition.
    """
    from merging.recipe import recipe_yaml

    assert search.objective is not None
    if trial.measured is None:
        return None
    losses, coordinates = trial.measured.losses, search.region.coordinates
    recipe, plain = search.recipe_of(trial), _without_limits(search.objective)
    errors = search.points.errors_to_base(recipe)
    score, error, aim = plain.score(losses), None, search.wanted.aim
    if errors is not None:
        error = math.sqrt(sum(squared_errors(plain.slope(losses), errors).values()))
    return {
        "score": trial.score,
        "value": aim_value(aim, score),
        "error": None if error is None else abs(aim_value(aim, error)),
        "allowed": trial.score == score,
        "omegas": coordinates.omegas(trial.point),
        "parameters": {name: trial.point[name] for name in coordinates.parameters},
        "digest": recipe.digest,
        "recipe": recipe_yaml(recipe),
    }


def as_data(search: Search) -> list[dict[str, Any]]:
    """Returns all trials for JSON, in the order in which they were measured.

    One that was given up after a few examples has an expected score and no losses; one that failed
    has neither.
    """
    assert search.searcher is not None
    return [
        {
            "omegas": trial.point,
            "score": trial.score if trial.score < math.inf else None,
            "losses": dict(trial.measured.losses) if trial.measured else None,
            "gradients": trial.measured.gradients if trial.measured else None,
        }
        for trial in search.searcher.trials
    ]


def on_other_split(result: Mapping[str, Any]) -> str:
    """Returns what the best gives on the split that the search never saw; "" without one.

    Args:
        result: what `dem search --json` wrote.
    """
    for name, rows in result["splits"].items():
        if name == "validation":
            continue
        shares = [row["share"] for row in rows if row["share"] is not None]
        mean = sum(row["loss"] for row in rows) / len(rows)
        share = f"mean share {100 * sum(shares) / len(shares):.1f} %, " if shares else ""
        return f"; on {name}: {share}mean loss {mean:.4f}"
    return ""
