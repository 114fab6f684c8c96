"""Regions beyond one ω for each vector: groups of layers, numbers of a method, limits."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from evaluation.search.objective import mean_loss
from merging.recipe.yaml_file import parse_recipe, recipe_yaml
from tests.workbench.conftest import finite_differences
from workbench.errors import SessionError
from workbench.search.points import Points
from workbench.search.region import Region
from workbench.search.running import Search
from workbench.search.wanted import Wanted
from workbench.session.loss_on_axis import FULL
from workbench.session.standing import Choice

GROUPS = Wanted(aim="loss", limited=False, groups="depth", budget=36)
TIES = Choice("ties", {"density": 0.5})


def test_every_vector_has_an_omega_in_each_group_that_it_changes(session):
    region = Region.of(session.models, GROUPS)
    # The base has two layers, so no third in the middle; the adapter is in its layers only.
    assert region.space.names == (
        *(f"ada in {group}" for group in ("embeddings", "early layers", "middle layers", "head")),
        *(f"bob in {group}" for group in ("embeddings", "early layers", "middle layers", "head")),
        *("lora in early layers", "lora in middle layers"),
    )
    geometry = session.models.measured_geometry()
    shares = dict.fromkeys(region.coordinates.order, 0.0)
    for row, name in enumerate(geometry.tensors):
        shares[region.coordinates.groups[name]] += (
            np.diagonal(geometry.grams[row]) / np.diagonal(geometry.grams.sum(0))
        ).sum()
    assert list(region.coordinates.order) == sorted(shares, key=shares.get, reverse=True)
    assert set(region.first.values()) == {0.33}


@pytest.mark.parametrize("by", ["depth", "part"])
def test_a_point_of_groups_is_the_sum_with_these_factors(session, by):
    """The oracle is a plain loop over the tensors."""
    models = session.models
    region = Region.of(models, replace(GROUPS, groups=by))
    chance = np.random.default_rng(3)
    point = {name: float(round(chance.uniform(-1, 1), 3)) for name in region.space.names}
    recipe = region.coordinates.recipe(models, point)
    base, vectors = models.reopened()
    with session.composed(models, recipe) as module:
        found = module.state_dict()
        for name, view in models.loaded.views.items():
            if name not in region.coordinates.groups or name not in base:
                continue
            group, wanted = region.coordinates.groups[name], base[name].double()
            for vector, delta in vectors.items():
                omega = region.coordinates.by_vector[vector].get(group)
                if name in delta and omega is not None:
                    size = base[name].numel()
                    values = delta.block(name, 0, size).double().view(base[name].shape)
                    wanted = wanted + point[omega] * values
            torch.testing.assert_close(found[view.parameter].double(), wanted, rtol=0, atol=2e-6)
    # A file of the recipe gives the same composition.
    read = parse_recipe(recipe_yaml(recipe))
    assert models.identity(replace(recipe, models=read.models)) == models.identity(recipe)


def test_equal_omegas_are_the_composition_of_sliders(session):
    region = Region.of(session.models, GROUPS)
    point = {name: 0.4 if name.startswith("ada") else 0.0 for name in region.space.names}
    plain = session.recipe({"ada": 0.4})
    found = region.coordinates.recipe(session.models, point)
    assert session.models.identity(found) == session.models.identity(plain)


def test_derivatives_by_groups_are_finite_differences(session):
    region = Region.of(session.models, GROUPS)
    points = Points(session, session.models, region.coordinates)
    chance = np.random.default_rng(1)
    here = {name: float(round(chance.uniform(0, 0.8), 3)) for name in region.space.names}
    measured = points.measure(here, True, lambda: False)
    for name, wanted in finite_differences(points, here).items():
        found = [row[name] for row in measured.gradients.values()]
        assert found == pytest.approx(wanted, rel=1e-2, abs=2e-4)
    # What was measured with groups is known for whole vectors too.
    assert points.measured == 1 + 2 * len(here)
    whole = Points(session, session.models)
    uniform = dict.fromkeys(region.space.names, 0.25)
    points.measure(uniform, True, lambda: False)
    assert whole.has_slopes(dict.fromkeys(session.models.names, 0.25))


def test_groups_find_a_lower_loss_than_whole_vectors(session):
    wanted = replace(GROUPS, low=-1.0, budget=48)
    found = Search(session, session.models, wanted)
    steps = list(found.steps())

    def is_whole(trial):
        vectors = found.region.coordinates.by_vector.values()
        return all(len({trial.point[name] for name in own.values()}) == 1 for own in vectors)

    tied = [trial for trial in found.searcher.trials if is_whole(trial)]
    assert 3 <= len(tied) < len(steps)
    assert found.best.score < min(trial.score for trial in tied)
    # The search reads all that it has measured when it is run again.
    again = Search(session, session.models, wanted)
    assert [step.trial for step in again.steps()] == [step.trial for step in steps]
    assert again.points.measured == 0


def test_numbers_of_a_method_are_searched_with_the_omegas(session):
    wanted = Wanted(
        aim="loss", method="grid", levels=2, limited=False, merge=TIES, frozen=("bob", "lora"),
        start={"bob": 0.5, "lora": 0.5}, vary={"density": (0.2, 0.8)}, budget=20,
    )  # fmt: skip
    found = Search(session, session.models, wanted)
    points = [step.trial.point for step in found.steps()]
    assert sorted((point["ada"], point["density"]) for point in points) == [
        (0.0, 0.2), (0.0, 0.8), (1.0, 0.2), (1.0, 0.8),
    ]  # fmt: skip
    recipe = found.recipe_of(found.best)
    assert recipe.method == "ties"
    assert recipe.parameters == {"density": found.best.point["density"]}
    losses = session.losses(recipe, FULL)
    assert found.best.score == pytest.approx(np.mean([loss.value for loss in losses.values()]))
    assert not found.points.has_gradients


def test_a_method_without_omega_has_only_its_numbers(session):
    wanted = Wanted(
        aim="loss", method="grid", levels=3, limited=False, merge=Choice("sce"),
        vary={"select_topk": (0.1, 0.9)}, budget=9,
    )  # fmt: skip
    found = Search(session, session.models, wanted)
    points = [step.trial.point for step in found.steps()]
    assert points == [{"select_topk": 0.1}, {"select_topk": 0.5}, {"select_topk": 0.9}]
    with pytest.raises(SessionError, match="sce has no ω. Name a number of it to search"):
        Region.of(session.models, replace(wanted, vary={}))


def test_limits_are_kept_and_the_norm_is_that_of_the_composition(session):
    models, limits = session.models, {"highest_sum": 0.6, "highest_norm": 0.02}
    for groups in ("", "depth"):
        wanted = replace(GROUPS, groups=groups, **limits)
        region = Region.of(models, wanted)
        point = region.space.inside(dict.fromkeys(region.space.names, 0.9))
        geometry = models.measured_geometry()
        squares = 0.0
        for row, name in enumerate(geometry.tensors):
            group = region.coordinates.groups.get(name, "")
            values = [
                point.get(own.get(group, ""), 0.0) for own in region.coordinates.by_vector.values()
            ]
            squares += values @ geometry.grams[row] @ np.array(values)
        norm = (squares / geometry.base_squares.sum()) ** 0.5
        sums = {}
        for own in region.coordinates.by_vector.values():
            for group, name in own.items():
                sums[group] = sums.get(group, 0.0) + point[name]
        assert max(sums.values()) <= 0.6 + 1e-9 and norm <= 0.02 + 1e-9
        # One of the two is what stopped it.
        assert max(sums.values()) > 0.59 or norm > 0.0199


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (Wanted(groups="depth", highest_sum=0.5, low=0.3), "no point is left"),
        (Wanted(merge=TIES, vary={"densty": None}), r"called 'densty'; did you mean 'density'\?"),
        (Wanted(merge=TIES, vary={"density": (0.5, 3.0)}), "density is searched from 0.5 to 3"),
        (Wanted(vary={"density": None}), "task_arithmetic has no number that is called 'density'"),
    ],
)
def test_what_does_not_fit_is_refused(session, wanted, words):
    with pytest.raises(SessionError, match=words):
        Search(session, session.models, wanted)


def test_a_parameter_with_the_name_of_a_vector_is_refused(session):
    from workbench.search.coordinates import whole_vectors, with_parameters

    whole = whole_vectors(session.models, TIES)
    named = replace(whole, by_vector={**whole.by_vector, "density": {"": "density"}})
    with pytest.raises(SessionError, match="'density' is a vector here and a parameter of ties"):
        with_parameters(named, {"density": None})


def test_settings_that_make_no_search(session):
    names = session.models.names
    goal = mean_loss(session.models.data)
    frozen = Wanted(method="cma", frozen=tuple(names[1:]))
    with pytest.raises(SessionError, match="CMA-ES needs two free ω or more, got 1"):
        Region.of(session.models, frozen).searcher(frozen, names, goal, [])
    simplex = Wanted(method="simplex", low=0.7)
    with pytest.raises(SessionError, match="no ω between"):
        Region.of(session.models, simplex).searcher(simplex, names, goal, [])


def test_the_trials_of_groups_are_data_for_json(session):
    from workbench.search.outcome import as_data, left_out_r2

    found = Search(session, session.models, replace(GROUPS, budget=12))
    list(found.steps())
    assert json.loads(json.dumps(as_data(found)))[0]["omegas"].keys() == set(
        found.region.space.names
    )
    assert left_out_r2(found).keys() == set(session.models.data)
