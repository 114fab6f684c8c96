"""What a page is told of the open models: enough to draw every slider, field and bar."""

import pytest

from merging.methods import _contract as methods
from tests.workbench.conftest import measuring
from workbench.line.contract import standing_of
from workbench.line.description import best_preset, description
from workbench.line.page_states import PageStates
from workbench.session.standing import live_methods


@pytest.fixture
def info(session, tmp_path):
    states = PageStates(tmp_path / "pages.sqlite")
    yield description(session, states)
    states.close()


def test_vectors_and_datasets_of_one_name_have_one_colour(info):
    assert [vector["name"] for vector in info["vectors"]] == ["ada", "bob", "lora"]
    colours = {vector["name"]: vector["colour"] for vector in info["vectors"]}
    assert {data["name"]: data["colour"] for data in info["data"]} == colours
    assert [vector["adapter"] for vector in info["vectors"]] == [False, False, True]


def test_the_page_is_told_whether_the_base_has_a_chat_template(
    session, info, tmp_path, monkeypatch
):
    assert info["template"] is False
    monkeypatch.setattr(session.models.tokenizer(), "chat_template", "{{ messages }}")
    states = PageStates(tmp_path / "more.sqlite")
    assert description(session, states)["template"] is True
    states.close()


def test_every_live_method_comes_with_a_field_for_each_parameter(info):
    assert [method["name"] for method in info["methods"]] == live_methods(3)
    for method in info["methods"]:
        params = [param for param in methods.load(method["name"]).parameters if not param.file]
        assert [field["name"] for field in method["parameters"]] == [param.name for param in params]
        for field, param in zip(method["parameters"], params, strict=True):
            assert field["default"] == param.default
            assert field["kind"] == (
                "word" if param.choices else "tick" if param.type is bool else "number"
            )
    assert info["elsewhere"] == ["fisher", "regmean"]


def test_every_preset_is_a_state_that_can_be_composed(session, info):
    labels = [preset["label"] for preset in info["presets"]]
    assert labels == ["base", "uniform", "best"]
    for preset in info["presets"]:
        state = {"method": "task_arithmetic", "parameters": {}, **preset["to"]}
        session.settle(standing_of(state, session.models))


def test_the_best_is_the_lowest_mean_loss_that_was_measured(session, tmp_path):
    models = session.models
    before = best_preset(session)
    assert before["to"]["omegas"] == dict(models.best)
    assert "not measured here yet" in before["about"]
    tried = [session.recipe(omegas) for omegas in ((0.2, 0.0, 0.0), (0.5, 0.5, 0.5))]
    for recipe in tried:
        list(measuring(session, recipe))
        session.workdir.save_recipe(recipe)
    named = [models.recipe({}), *(models.recipe({name: 1.0}) for name in models.names), *tried]
    means = [sum(loss.value for loss in session.losses(recipe).values()) for recipe in named]
    best = best_preset(session)
    assert models.recipe(best["to"]["omegas"]) == named[means.index(min(means))]
    assert f"{min(means) / len(models.data):.3f}" in best["about"]
    assert "validation" in best["about"]


def test_the_description_is_json(info):
    import json

    assert json.loads(json.dumps(info, allow_nan=False)) == info
