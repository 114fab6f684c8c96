"""Schedules that train one adapter through all their steps, and those that mix adapters with whole weights."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from merging import Checkpoint
from merging.inputs.lora_vector import LoraVector
from merging.opening.open import open_vector
from training.errors import TrainingError, TrainingStopped
from training.plan.carry_out import run_plan
from training.plan.estimate import estimate
from training.plan.faults import PlanError
from training.plan.plan_file import parse_plan, read_plan
from training.plan.schedules import dmt, sequential
from training.plan.step_origin import StepOrigin, origins
from training.run import record
from training.run.finetune import run

pytestmark = pytest.mark.slow  # whole schedules are trained

SETTINGS = "{epochs: 1, rate: 1e-2, batch: 4, precision: fp32, device: cpu, lora: {rank: 2, alpha: 6, dropout: 0.1}%s}"
DMT = "{kind: dmt, special: [math, code], general: [general], k: %s}"
FOURTH = "code.math--code-1of4.general.math-1of4"


def tensors(folder):
    return load_file(next(folder.glob("*.safetensors")))


def same(one, other):
    a, b = tensors(one), tensors(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def document(folder):
    return json.loads((folder / "training.json").read_text("utf-8"))


def rewrite(path, **more):
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | more), "utf-8")


def refused(plan, out, words, **more):
    with pytest.raises(PlanError) as caught:
        run_plan(plan, out, **more)
    assert words in caught.value.faults[0], caught.value.faults
    assert len(caught.value.faults) == 1


@pytest.fixture
def lora(plan):
    """A plan of DMT with this k, of one adapter."""
    return lambda k, more="": plan(DMT % k, SETTINGS % more)


@pytest.fixture(scope="module")
def whole(home, tmp_path_factory):
    """DMT with k = 1/4 carried out without a break."""
    sources = "base: base\nsources: {math: math.jsonl, code: code.jsonl, general: general.jsonl}\n"
    text = f"{sources}settings: {SETTINGS % ''}\nschedule: {DMT % '1/4'}\n"
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    made = run_plan(parse_plan(text, home=home), tmp_path_factory.mktemp("whole"))
    torch.set_num_threads(before)
    return made


def test_without_replay_dmt_is_mixed_sequential_bit_for_bit(lora, plan, tmp_path):
    one = run_plan(lora(0), tmp_path / "dmt")
    mixed = "{kind: mixed_sequential, special: [code, math], general: [general]}"
    other = run_plan(plan(mixed, SETTINGS % ""), tmp_path / "mixed")
    assert [made.ready.name for made in one] == ["code.math", "code.math--general"]
    assert all(same(made.folder, its.folder) for made, its in zip(one, other, strict=True))
    assert not same(one[0].folder, one[1].folder)
    steps = [
        json.loads((tmp_path / name / "plan.json").read_text("utf-8"))["steps"]
        for name in ("dmt", "mixed")
    ]
    assert [step["identity"] for step in steps[0].values()] == [
        step["identity"] for step in steps[1].values()
    ]
    assert steps[0]["code.math--general"]["adapter of"] == "code.math"


def test_the_second_stage_is_a_stage_that_goes_on_from_the_firsts_adapter(whole, tmp_path):
    first, second = whole
    alone = run(replace(second.ready.stage, adapter=first.folder), tmp_path / "alone")
    assert same(alone.folder, second.folder)
    fresh = run(second.ready.stage, tmp_path / "fresh")
    assert not same(fresh.folder, second.folder)
    assert document(second.folder)["adapter"] == {
        "name": first.folder.as_posix(),
        "identity": record.identity(first.folder),
    }


def test_the_result_is_one_vector_on_the_plans_base(whole, home):
    base = Checkpoint(home / "base")
    first, second = (open_vector(made.folder, base) for made in whole)
    assert isinstance(second, LoraVector) and second.rank == 2
    assert list(second.targets) == list(first.targets)
    config = json.loads((whole[1].folder / "adapter_config.json").read_text("utf-8"))
    assert config["base_model_name_or_path"] == (home / "base").as_posix()
    assert document(whole[1].folder)["base"]["identity"] == record.identity(home / "base")
    assert all(made.ready.note == "" for made in whole)


def test_done_steps_are_used_again_and_another_adapter_is_none_of_them(whole, lora, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole[0].folder.parent, out)
    made = run_plan(lora("[1/4, 1/8]"), out)
    assert [one.new for one in made] == [False, False, True]
    shutil.rmtree(made[2].folder)
    rewrite(out / FOURTH / "training.json", adapter={"name": "elsewhere", "identity": "x"})
    refused(lora("1/4"), out, f"{FOURTH} exists, and was trained from another adapter (elsewhere)")
    rewrite(out / FOURTH / "training.json", adapter=None)
    refused(lora("1/4"), out, f"{FOURTH} exists, and was trained from another adapter (none)")


def test_a_parent_that_is_trained_anew_must_come_out_the_same(whole, lora, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole[0].folder.parent, out)
    shutil.rmtree(out / "code.math")
    assert [one.new for one in run_plan(lora("1/4"), out)] == [True, False]
    shutil.rmtree(out / "code.math")
    rewrite(out / FOURTH / "training.json", adapter={"name": "elsewhere", "identity": "x"})
    with pytest.raises(
        TrainingError, match=r"was trained from other weights than .*/code\.math now holds"
    ):
        run_plan(lora("1/4"), out)


def test_stopped_in_the_second_stage_and_resumed(whole, lora, tmp_path):
    asked = iter(range(1000))
    with pytest.raises(TrainingStopped):
        run_plan(lora("1/4"), tmp_path, should_stop=lambda: next(asked) == 22)
    state = tmp_path / f"{FOURTH}.training" / "run.json"
    begun = json.loads(state.read_text("utf-8"))
    assert begun["adapter"] == record.identity(tmp_path / "code.math")
    rewrite(state, adapter="x")
    refused(
        lora("1/4"), tmp_path, "the unfinished step there started from another adapter", resume=True
    )
    rewrite(state, adapter=begun["adapter"])
    rest = run_plan(lora("1/4"), tmp_path, resume=True)
    assert [made.new for made in rest] == [False, True]
    assert all(same(one.folder, other.folder) for one, other in zip(whole, rest, strict=True))


def test_killed_in_the_second_stage_and_resumed(whole, home, text, tmp_path):
    (home / "lora.yml").write_text(text(DMT % "1/4", SETTINGS % ", save_every: 2"), "utf-8")
    code = (
        "import sys; from pathlib import Path; import torch; torch.set_num_threads(1)\n"
        "from training.plan.carry_out import run_plan; from training.plan.plan_file import read_plan\n"
        "run_plan(read_plan(sys.argv[1]), Path(sys.argv[2]))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, str(home / "lora.yml"), str(tmp_path / "cut")],
        cwd=Path(__file__).parents[3], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    second = tmp_path / "cut" / f"{FOURTH}.training"
    while not list(second.glob("checkpoint-*/whole.json")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "cut" / FOURTH).exists()
    rest = run_plan(read_plan(home / "lora.yml"), tmp_path / "cut", resume=True)
    assert [made.new for made in rest] == [False, True]
    assert all(same(one.folder, other.folder) for one, other in zip(whole, rest, strict=True))


def test_an_adapter_on_whole_weights_is_relative_to_them(plan, home, tmp_path):
    """And a third step goes on with that adapter, on the same weights."""
    each = "each: {code: {lora: 2}, general: {lora: {rank: 2, dropout: 0.3}}}"
    schedule = f"{{kind: sequential, order: [math, code, general], {each}}}"
    ours = plan(schedule, "{epochs: 1, rate: 1e-2, batch: 4, precision: fp32, device: cpu}")
    assert [ready.note for ready in estimate(ours)] == [
        "",
        "an adapter on math: its vector is relative to that step, not to the plan's base",
        "an adapter on math: its vector is relative to that step, not to the plan's base",
    ]
    made = run_plan(ours, tmp_path)
    starts = [
        (document(one.folder)["base"]["identity"], document(one.folder)["adapter"]) for one in made
    ]
    math = record.identity(made[0].folder)
    assert starts[0] == (record.identity(home / "base"), None) and starts[1] == (math, None)
    assert starts[2] == (
        math,
        {"name": made[1].folder.as_posix(), "identity": record.identity(made[1].folder)},
    )
    notes = json.loads((tmp_path / "plan.json").read_text("utf-8"))["steps"]
    assert notes["math--code"]["note"].startswith("an adapter on math")
    assert [one.new for one in run_plan(ours, tmp_path)] == [False] * 3


def test_origins_by_hand():
    steps = sequential(["a", "b", "c", "d"])
    names = [step.name for step in steps]
    assert names == ["a", "a--b", "a--b--c", "a--b--c--d"]

    def found(*adapters):
        return list(origins(steps, dict(zip(names, adapters, strict=True))).values())

    assert found(0, 0, 0, 0) == [
        StepOrigin(),
        StepOrigin("a"),
        StepOrigin("a--b"),
        StepOrigin("a--b--c"),
    ]
    assert found(1, 1, 1, 1) == [
        StepOrigin(),
        StepOrigin(None, "a"),
        StepOrigin(None, "a--b"),
        StepOrigin(None, "a--b--c"),
    ]
    assert found(0, 1, 1, 1) == [
        StepOrigin(),
        StepOrigin("a"),
        StepOrigin("a", "a--b"),
        StepOrigin("a", "a--b--c"),
    ]
    assert found(0, 0, 1, 1)[2:] == [StepOrigin("a--b"), StepOrigin("a--b", "a--b--c")]
    first, *rest = dmt(["a"], ["b"], [Fraction(0), Fraction(1)])
    both = origins([first, *rest], {one.name: {"rank": 1} for one in (first, *rest)})
    assert [both[one.name] for one in rest] == [StepOrigin(None, "a")] * 2
