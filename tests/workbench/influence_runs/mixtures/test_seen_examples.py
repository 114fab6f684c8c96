"""What experts and mixtures have seen: records, stated numbers, sources; chains and selections."""

import json
import shutil
from dataclasses import replace

import pytest

from corpus import Chosen, Source, write_selection
from merging import read_recipe
from training.plan.plan_file import read_plan
from workbench.errors import SessionError
from workbench.influence_runs.mixtures.seen_examples import Seen, expert_examples, plan_ends


@pytest.fixture
def recipe(world):
    return read_recipe(world / "recipe.yml")


def recorded(recipe, folder, document):
    """The recipe with an expert ada whose training.json is this."""
    shutil.copytree(recipe.models[0].path, folder)
    (folder / "training.json").write_text(json.dumps(document))
    ada = replace(recipe.models[0], path=str(folder))
    return replace(recipe, models=(ada, *recipe.models[1:]), inputs={})


def test_each_source_of_the_number(recipe, mix_plan, tmp_path):
    """320 examples in batches of 32, of which 8 are replayed: 240 of its own."""
    settings = {"batch": 32, "replay_share": 0.25}
    known = recorded(recipe, tmp_path / "ada", {"settings": settings, "spent": {"examples": 320}})
    seen = expert_examples(known, [read_plan(mix_plan())], {"bob": 77}, ["ada", "bob", "lora"])
    assert seen == {
        "ada": Seen(240, "training.json"),
        "bob": Seen(77, "--seen"),
        "lora": Seen(23, "one pass over the plan's source"),
    }
    # What was stated goes before what was recorded.
    assert expert_examples(known, [], {"ada": 5}, []) == {"ada": Seen(5, "--seen")}


def test_bad_numbers_are_refused_by_name(recipe, mix_plan, tmp_path):
    plan = read_plan(mix_plan())
    with pytest.raises(SessionError, match=r"--seen names adda.*did you mean 'ada'"):
        expert_examples(recipe, [plan], {"adda": 5}, [])
    with pytest.raises(SessionError, match="--seen ada=0: expected a number of examples above 0"):
        expert_examples(recipe, [plan], {"ada": 0}, [])
    alone = replace(plan, sources={"ada": plan.sources["ada"]})
    with pytest.raises(SessionError, match="expert bob has seen is not known.*--seen bob=N"):
        expert_examples(recipe, [alone], {}, ["ada", "bob"])
    assert list(expert_examples(recipe, [alone], {}, ["ada"])) == ["ada"]
    broken = recorded(recipe, tmp_path / "ada", {"settings": {}})
    with pytest.raises(SessionError, match="training.json is no record of a training"):
        expert_examples(broken, [plan], {}, ["ada"])


def test_a_mixture_by_hand(mix_plan):
    """3 updates of 4 examples, half ada, a quarter each of the others."""
    plan = read_plan(mix_plan("{kind: mixing, parts: {ada: 2, bob: 1, lora: 1}, examples: 40}"))
    [end] = plan_ends(plan)
    assert end.amounts == pytest.approx({"ada": 6, "bob": 3, "lora": 3}) and end.examples == 40


def test_the_stages_of_dmt_add_up(mix_plan):
    """First 12 of ada; then 12 of 46 of bob and lora and 11 of ada (k = 1/2)."""
    schedule = "{kind: dmt, special: [ada], general: [bob, lora], k: [1/2, 0]}"
    half, none = plan_ends(read_plan(mix_plan(schedule)))
    assert half.label == "DMT, k = 1/2" and none.label == "mixed sequential"
    assert half.amounts == pytest.approx(
        {"ada": 12 + 12 * 11 / 57, "bob": 12 * 23 / 57, "lora": 12 * 23 / 57}
    )
    assert none.amounts == pytest.approx({"ada": 12, "bob": 6, "lora": 6})


def test_replayed_examples_count_for_nobody(mix_plan):
    """One of the 4 in each batch is replayed."""
    plan = read_plan(mix_plan("{kind: mixing, shares: {bob: 1, lora: 1}}"))
    settings = dict(plan.settings) | {"replay": ("ada",), "replay_share": 0.25}
    [end] = plan_ends(replace(plan, settings=settings))
    assert end.amounts == pytest.approx({"bob": 4.5, "lora": 4.5})


def test_a_selection_counts_for_where_its_records_are_from(world, mix_plan, tmp_path):
    """LESS's proposal: 6 records of ada and 2 of lora, so 9 and 3 of 12."""
    sources = {
        name: Source(name, f"{world}/data/{name}/validation.jsonl") for name in ("ada", "lora")
    }
    chosen = [Chosen("ada", number, 1.0) for number in range(6)]
    chosen += [Chosen("lora", number, 1.0) for number in range(2)]
    file = tmp_path / "best.selection.json"
    write_selection(file, sources, chosen)
    plan = read_plan(mix_plan("{kind: mixing, shares: {ada: 1}}"))
    best = replace(plan, sources={"ada": Source("ada", str(file))})
    [end] = plan_ends(best)
    assert end.amounts == pytest.approx({"ada": 9, "lora": 3})
