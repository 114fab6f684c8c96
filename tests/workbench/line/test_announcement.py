"""What a page is told while the demo is being opened, against what it is told once it is open."""

import json
import shutil

import pytest

from workbench.line.announcement import announcement
from workbench.line.contract import standing_of
from workbench.line.description import description
from workbench.line.page_states import PageStates
from workbench.session.session import Session, demo_checkpoints

PAGE = "page-of-a-test"


@pytest.fixture
def starting(world, tmp_path):
    """A session that has begun to open a copy of the little world, and not ended."""
    made = Session([], tmp_path / "workdir", demo=shutil.copytree(world, tmp_path / "world"))
    made.announced = demo_checkpoints(made.demo, made.folders)
    yield made
    made.close()


@pytest.fixture
def states(tmp_path):
    made = PageStates(tmp_path / "pages.sqlite")
    yield made
    made.close()


def test_all_that_is_announced_is_true_once_the_models_are_open(starting, states):
    early = announcement(starting, states)
    assert early["models"] == "" and early["loading"]
    assert json.loads(json.dumps(early, allow_nan=False)) == early
    starting.open_demo()
    late = description(starting, states)
    for key in set(early) - {"models", "loading", "problem", "presets"}:
        assert early[key] == late[key], key
    # The best composition is told only when the losses that were measured can be asked for.
    assert early["presets"] == late["presets"][:2]
    standing_of(early["state"], starting.models)


def test_a_page_comes_back_to_its_state_and_its_recipe_while_the_models_are_opened(
    starting, states
):
    begin = announcement(starting, states)["state"]
    composition = {"method": "ties", "parameters": {"density": 0.3}}
    kept = {**composition, "omegas": {**begin["omegas"], "ada": 0.77}, "models": "some"}
    states.keep(PAGE, {**kept, "past": [begin], "future": [], "prompt": "2 + 2 ="}, "beef", kept)
    back = announcement(starting, states, PAGE)["state"]
    assert back["omegas"]["ada"] == 0.77 and back["method"] == "ties" and back["past"] == [begin]
    assert announcement(starting, states, "other-page", "beef")["state"]["omegas"]["ada"] == 0.77
    for page, recipe in (("other-page", ""), ("no page!", ""), (PAGE, "0123"), ("", "")):
        assert announcement(starting, states, page, recipe)["state"] == begin
    # A state of other vectors has sliders that are not there.
    states.keep(PAGE, {**kept, "omegas": {"eve": 0.5}}, "beef", {**kept, "omegas": {"eve": 0.5}})
    assert announcement(starting, states, PAGE, "beef")["state"] == begin


@pytest.mark.parametrize("damage", ["no recipe", "no YAML", "other names", "no data", "bad order"])
def test_a_damaged_demo_is_announced_as_far_as_it_can_be_read(starting, states, damage):
    demo, whole = starting.demo, announcement(starting, states)
    recipe, data = demo / "recipe.yml", demo / "data"
    if damage == "no recipe":
        recipe.unlink()
    elif damage == "no YAML":
        recipe.write_text("models: [")
    elif damage == "other names":
        recipe.write_text(recipe.read_text().replace("[ada,", "[eve,"))
    elif damage == "no data":
        shutil.rmtree(data)
    else:
        (data / "order.json").write_text("{")
    early = announcement(starting, states)
    assert early["vectors"] == whole["vectors"]
    broken = damage in ("no data", "bad order")
    assert early["data"] == ([] if broken else whole["data"])
    assert early["state"]["omegas"] == (
        whole["state"]["omegas"] if broken else dict.fromkeys(whole["state"]["omegas"], 0.0)
    )


def test_nothing_is_announced_before_after_or_without_a_demo(starting, states, tmp_path):
    bare = Session([], tmp_path / "bare")
    nothing = {"models": "", "loading": True, "problem": ""}
    assert announcement(bare, states) == nothing
    bare.open_demo()
    assert announcement(bare, states) == nothing | {"loading": False}
    bare.close()
    shutil.rmtree(starting.demo / "base")
    starting.open_demo()
    failed = announcement(starting, states)
    assert not failed["loading"] and "could not be opened" in failed["problem"]
    assert "vectors" not in failed
