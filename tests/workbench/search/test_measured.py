"""The list of measured compositions: whoever measured them, complete ones only, and after a restart."""

import math

import pytest

from workbench.search.measured import measured_points, plain_points, slopes_of
from workbench.search.points import Points
from workbench.session.loss_on_axis import FULL, QUICK
from workbench.session.session import Session
from workbench.session.standing import Choice

ADA = {"ada": 0.4, "bob": 0.0, "lora": 0.7}


def found(session):
    return measured_points(session.book, session.models)


def test_a_composition_is_listed_once_all_its_losses_are_known(session):
    before = {point.key for point in found(session)}
    recipe = session.recipe({"ada": 0.31, "bob": 0.17})
    key = session.models.identity(recipe)
    assert key not in before
    session.losses(recipe, QUICK)
    assert key not in {point.key for point in found(session)}
    losses = session.losses(recipe, FULL)
    (point,) = [each for each in found(session) if each.key == key]
    assert point.omegas == {"ada": 0.31, "bob": 0.17, "lora": 0.0}
    assert point.losses == {name: loss.value for name, loss in losses.items()}
    assert point.mean == pytest.approx(sum(point.losses.values()) / len(point.losses))
    assert session.models.identity(point.recipe(session.models)) == key


def test_the_lowest_mean_comes_first_and_what_is_not_finite_is_left_out(session):
    for omega in (0.05, 0.5, 0.9):
        session.losses(session.recipe({"ada": omega}), FULL)
    means = [point.mean for point in found(session)]
    assert means == sorted(means) and len(means) >= 3
    broken = found(session)[0]
    key = next(iter(session.models.data.values())).keys[FULL]
    entry = session.book.get(broken.key, key)
    session.book.put(broken.key, key, entry._replace(value=math.nan))
    assert broken.key not in {point.key for point in found(session)}
    session.book.put(broken.key, key, entry)


def test_other_methods_are_listed_and_are_no_plain_sums(session):
    recipe = session.recipe(ADA, Choice("ties", {"density": 0.5}))
    session.losses(recipe, FULL)
    key = session.models.identity(recipe)
    (point,) = [each for each in found(session) if each.key == key]
    assert point.choice == Choice("ties", {"density": 0.5})
    assert session.models.identity(point.recipe(session.models)) == key
    assert key not in {each.key for each in plain_points(found(session))}


def test_a_method_without_weights_keeps_its_members(session):
    recipe = session.recipe({"ada": 1.0, "lora": 1.0}, Choice("model_stock"))
    session.losses(recipe, FULL)
    key = session.models.identity(recipe)
    (point,) = [each for each in found(session) if each.key == key]
    assert {name for name, omega in point.omegas.items() if omega} == {"ada", "lora"}
    assert session.models.identity(point.recipe(session.models)) == key


def test_derivatives_are_known_once_they_were_measured_on_all_datasets(session):
    points, omegas = Points(session, session.models), {"ada": 0.21, "bob": 0.1, "lora": 0.3}
    key = session.models.identity(points.recipe(omegas))
    assert slopes_of(session.book, session.models, key) is None
    for _ in points.slope_steps(omegas, lambda: False):
        pass
    slopes = slopes_of(session.book, session.models, key)
    assert slopes.keys() == session.models.data.keys()
    assert all(row.keys() == set(session.models.names) for row in slopes.values())
    assert points.has_slopes(omegas)
    # Nothing is left to measure, so there is no step.
    assert list(points.slope_steps(omegas, lambda: False)) == []


def test_the_list_is_there_again_after_a_restart_and_for_fewer_vectors(world, tmp_path):
    first = Session([], tmp_path / "work", demo=world)
    first.open_demo()
    try:
        whole = first.recipe({"ada": 0.4, "lora": 0.2})
        part = first.recipe({"ada": 0.6})
        for recipe in (whole, part):
            first.losses(recipe, FULL)
        keys = {first.models.identity(recipe) for recipe in (whole, part)}
        assert keys <= {point.key for point in found(first)}
    finally:
        first.close()
    again = Session([], tmp_path / "work", demo=world)
    again.open_demo()
    try:
        assert keys <= {point.key for point in found(again)}
        again.remove("lora")
        listed = {point.key for point in found(again)}
        assert again.models.identity(again.recipe({"ada": 0.6})) in listed
        assert not any("lora" in point.omegas for point in found(again))
        assert first.models.identity(whole) not in listed
    finally:
        again.close()


def test_a_file_of_an_older_version_describes_what_is_asked_for_again(session):
    recipe = session.recipe({"ada": 0.77})
    session.losses(recipe, FULL)
    key = session.models.identity(recipe)
    with session.book._database.writing() as connection:
        connection.execute("DELETE FROM compositions WHERE composition = ?", (key,))
    session.measuring._described.discard(key)
    assert key not in {point.key for point in found(session)}
    session.losses(recipe, FULL)
    assert key in {point.key for point in found(session)}


def test_derivatives_are_the_same_when_others_use_the_module_between_the_steps(session):
    import torch

    from evaluation.landscape.omega_gradient import SlopeSweep
    from evaluation.landscape.slope_paths import SlopePaths

    omegas, models = {"ada": 0.33, "bob": -0.1, "lora": 0.6}, session.models
    points = Points(session, models)
    others = iter(range(1, 1000))
    for _ in points.slope_steps(omegas, lambda: False):
        session.compose(session.recipe({"ada": 0.001 * next(others)}))
    found = slopes_of(session.book, models, models.identity(points.recipe(omegas)))
    with session.composed(models, points.recipe(omegas)) as module:
        paths = SlopePaths(module, models.loaded.views, list(models.vectors.values()))
        for name, data in models.data.items():
            (dataset,) = data.prepared[FULL].datasets
            sweep = SlopeSweep(paths, dataset)
            while not sweep.done:
                sweep.step()
            gradient = sweep.slope().gradient
            assert torch.tensor(list(found[name].values())) == pytest.approx(gradient)
    # Nothing of the module's own requires gradients afterwards.
    assert not any(each.requires_grad for each in models.loaded.module.parameters())
