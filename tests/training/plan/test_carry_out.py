"""Plans carried out: shared steps once, k = 0 is mixed sequential, resuming, refusals before anything is trained."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from corpus import tokens
from training.errors import TrainingError, TrainingStopped
from training.plan.carry_out import run_plan
from training.plan.estimate import estimate
from training.plan.faults import PlanError
from training.plan.plan_file import parse_plan, read_plan
from training.run import record as facts
from training.run.base import Base

SETTINGS = "{epochs: 1, rate: 3e-3, batch: 4, precision: fp32, device: cpu}"
DMT = "{kind: dmt, special: [math, code], general: [general], k: %s}"


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(one, other):
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def written(out):
    """When the weights of each step were written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in out.glob("*/model.safetensors")}


@pytest.mark.slow
def test_without_replay_dmt_is_mixed_sequential_bit_for_bit(plan, tmp_path):
    mixed = "{kind: mixed_sequential, special: [code, math], general: [general]}"
    one = run_plan(plan(DMT % 0), tmp_path / "dmt")
    other = run_plan(plan(mixed), tmp_path / "mixed")
    assert [made.ready.name for made in one] == [made.ready.name for made in other]
    assert [made.ready.name for made in one] == ["code.math", "code.math--general"]
    for made, its in zip(one, other, strict=True):
        assert same(made.folder, its.folder)
    assert not same(one[0].folder, one[1].folder)
    records = [
        json.loads((tmp_path / name / "plan.json").read_text("utf-8"))["steps"]
        for name in ("dmt", "mixed")
    ]
    assert [step["identity"] for step in records[0].values()] == [
        step["identity"] for step in records[1].values()
    ]


@pytest.mark.slow
def test_a_plan_encodes_each_record_once_and_reads_an_unchanged_base_once(
    plan, home, tmp_path, monkeypatch
):
    encoded, reads = [], []
    encode, load = tokens._examples, Base.load
    monkeypatch.setattr(
        tokens, "_examples", lambda record, *rest: encoded.append(record) or encode(record, *rest)
    )
    monkeypatch.setattr(
        Base, "load", lambda base, dtype: reads.append(base.folder) or load(base, dtype)
    )

    def carry_out(name, schedule, more=""):
        encoded.clear()
        reads.clear()
        settings = "{steps: 1, batch: 4, precision: fp32, device: cpu" + more + "}"
        validation = "validation: {math: held/math.jsonl, code: held/code.jsonl}\n"
        return run_plan(plan(schedule, settings, validation), tmp_path / name)

    made = carry_out("full", "{kind: sequential, order: [math, code, general]}")
    assert len(made) == 3
    assert len(encoded) == len(set(encoded)) == 96 + 14  # sources and validation sets
    # The check and the first step share the base; the others start from what the last one wrote.
    assert reads == [home / "base", made[0].folder, made[1].folder]
    carry_out("adapters", "{kind: experts}", ", lora: 2")
    assert len(encoded) == len(set(encoded)) == 96 + 14
    assert reads == [home / "base"]
    carry_out("experts", "{kind: experts}")
    assert reads == [home / "base"] * 3


@pytest.mark.slow
def test_what_two_plans_share_is_trained_once(plan, tmp_path):
    first = run_plan(
        plan("{kind: mixed_sequential, special: [math, code], general: [general]}"), tmp_path
    )
    times = written(tmp_path)
    second = run_plan(plan(DMT % "[0, 1/4, 1/8]"), tmp_path)
    assert [made.new for made in first] == [True, True]
    assert [made.new for made in second] == [False, False, True, True]
    assert {name: written(tmp_path)[name] for name in times} == times
    assert second[0].spent == first[0].spent and second[0].curve == first[0].curve
    record = json.loads((tmp_path / "plan.json").read_text("utf-8"))["steps"]
    assert set(record) == {made.ready.name for made in second}
    assert read_plan(tmp_path / "plan.yml").steps == plan(DMT % "[0, 1/4, 1/8]").steps
    eighth = record["code.math--code-1of8.general.math-1of8"]
    assert (
        eighth["examples"] == {"code": 3, "general": 32, "math": 5}
        and eighth["parent"] == "code.math"
    )
    identities = [step["identity"] for step in record.values()]
    assert len(set(identities)) == 4


@pytest.mark.slow
def test_a_second_stage_starts_from_the_first_with_a_fresh_optimiser(home, text, plan, tmp_path):
    """As a plan that has only the second stage, from the first one's folder as base, makes it."""
    made = run_plan(plan("{kind: sequential, order: [math, general]}"), tmp_path / "whole")
    alone = text("{kind: experts, sources: [general]}").replace(
        "base: base", f"base: {made[0].folder}"
    )
    again = run_plan(parse_plan(alone, home=home), tmp_path / "alone")
    assert same(again[0].folder, made[1].folder)
    document = json.loads((made[1].folder / "training.json").read_text("utf-8"))
    assert document["base"]["identity"] == facts.identity(made[0].folder)


@pytest.mark.slow
def test_a_step_trains_on_what_its_name_says(plan, tmp_path):
    made = run_plan(plan(DMT % "1/4"), tmp_path)[1]
    stage = made.ready.stage
    replayed = [example for example in stage.examples if example.label != "chat"]
    assert [example.label for example in replayed] == ["hex"] * 6 + [
        example.label for example in replayed[6:]
    ]
    assert len(replayed) == 6 + 10 and len(set(replayed)) == 16
    counts = json.loads((made.folder / "training.json").read_text("utf-8"))["counts"]["examples"]
    assert counts["examples"] == 32 + 6 + 10 == sum(made.ready.taken.values())
    less = estimate(plan(DMT % "1/8"))[1].stage.examples
    assert {example for example in less if example.label != "chat"} < set(replayed)


def test_the_estimate_is_what_is_spent(plan, tmp_path):
    expected = estimate(plan(DMT % "1/4"))
    made = run_plan(plan(DMT % "1/4"), tmp_path)
    for ready, one in zip(expected, made, strict=True):
        assert ready.stage == one.ready.stage
        assert (ready.examples, ready.tokens, ready.supervised) == (
            one.spent.examples, one.spent.tokens, one.spent.supervised,
        )  # fmt: skip
        assert one.curve[-1].step == ready.steps
    assert [ready.steps for ready in expected] == [64 // 4, 48 // 4]


def test_progress_goes_from_nothing_to_all(plan, tmp_path):
    moments, points, steps = [], [], []
    run_plan(
        plan("{kind: experts}"), tmp_path, moments.append,
        on_log=lambda name, point: points.append((name, point.step)), on_step=steps.append,
    )  # fmt: skip
    shares = [moment.share for moment in moments]
    assert shares == sorted(shares) and 0 < shares[0] < shares[-1] == 1
    assert {(moment.step, moment.number, moment.of) for moment in moments} == {
        ("math", 1, 3), ("code", 2, 3), ("general", 3, 3),
    }  # fmt: skip
    assert {name for name, _ in points} == {"math", "code", "general"}
    assert [made.ready.name for made in steps] == ["math", "code", "general"]


@pytest.mark.slow
def test_stopped_and_resumed_it_gives_the_same_and_trains_nothing_twice(plan, tmp_path):
    whole = run_plan(plan(DMT % "1/4"), tmp_path / "whole")
    asked = iter(range(1000))
    with pytest.raises(TrainingStopped):
        run_plan(plan(DMT % "1/4"), tmp_path / "cut", should_stop=lambda: next(asked) == 22)
    before = written(tmp_path / "cut")
    assert set(before) == {"code.math"}
    with pytest.raises(PlanError, match="was begun there and not finished. Resume it"):
        run_plan(plan(DMT % "1/4"), tmp_path / "cut")
    with pytest.raises(
        PlanError,
        match=r"the unfinished step there has other settings or data: rate was 0.003, is 0.002",
    ):
        run_plan(plan(DMT % "1/4", SETTINGS.replace("3e-3", "2e-3")), tmp_path / "cut", resume=True)
    rest = run_plan(plan(DMT % "1/4"), tmp_path / "cut", resume=True)
    assert [made.new for made in rest] == [False, True]
    assert written(tmp_path / "cut")["code.math"] == before["code.math"]
    for one, other in zip(whole, rest, strict=True):
        assert same(one.folder, other.folder)


@pytest.mark.slow
def test_stopped_between_two_steps_nothing_is_half(plan, tmp_path):
    done = []
    with pytest.raises(TrainingStopped, match="stopped before step 2 of 3, code"):
        run_plan(
            plan("{kind: experts}"), tmp_path, should_stop=lambda: bool(done), on_step=done.append
        )
    assert [made.new for made in run_plan(plan("{kind: experts}"), tmp_path)] == [False, True, True]


@pytest.mark.slow
def test_killed_and_resumed_it_gives_the_same(home, text, plan, tmp_path):
    schedule = DMT % "1/4"
    whole = run_plan(plan(schedule), tmp_path / "whole")
    (home / "plan.yml").write_text(
        text(schedule, SETTINGS.replace("}", ", save_every: 2}")), "utf-8"
    )
    process = start(home / "plan.yml", tmp_path / "cut")
    second = tmp_path / "cut" / "code.math--code-1of4.general.math-1of4.training"
    while not list(second.glob("checkpoint-*/whole.json")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    rest = run_plan(read_plan(home / "plan.yml"), tmp_path / "cut", resume=True)
    assert [made.new for made in rest] == [False, True]
    assert all(same(one.folder, other.folder) for one, other in zip(whole, rest, strict=True))


def start(file, out, **environment):
    code = (
        "import sys; from pathlib import Path; import torch; torch.set_num_threads(1)\n"
        "from training.plan.carry_out import run_plan; from training.plan.plan_file import read_plan\n"
        "made = run_plan(read_plan(sys.argv[1]), Path(sys.argv[2]))\n"
        "torch.distributed.is_initialized() and torch.distributed.destroy_process_group()\n"
        "print(*(one.spent.processes for one in made))\n"
    )
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, str(file), str(out)],
        cwd=Path(__file__).parents[3], env=os.environ | environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.mark.slow
def test_two_processes_carry_out_one_plan(home, text, plan, tmp_path):
    halved = SETTINGS.replace("batch: 4", "batch: 2")
    (home / "two.yml").write_text(text("{kind: sequential, order: [math, code]}", halved), "utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    both = [
        start(
            home / "two.yml", tmp_path / "two", RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2",
            LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port,
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0] and all(
        one.endswith("2 2\n") for one in said
    ), said
    record = json.loads((tmp_path / "two" / "plan.json").read_text("utf-8"))["steps"]
    assert [step["updates"] for step in record.values()] == [10, 6]
    # a batch of 4 in one process is the same step: what the two made is used again
    assert [
        made.new
        for made in run_plan(plan("{kind: sequential, order: [math, code]}"), tmp_path / "two")
    ] == [False] * 2


@pytest.mark.slow
def test_a_parent_that_is_trained_anew_must_come_out_the_same(plan, tmp_path):
    schedule = "{kind: sequential, order: [math, code]}"
    made = run_plan(plan(schedule), tmp_path)
    shutil.rmtree(made[0].folder)
    assert [one.new for one in run_plan(plan(schedule), tmp_path)] == [
        True,
        False,
    ]  # the same bits, so the child holds
    shutil.rmtree(made[0].folder)
    document = json.loads((made[1].folder / "training.json").read_text("utf-8"))
    document["base"]["identity"] = "another"
    (made[1].folder / "training.json").write_text(json.dumps(document), "utf-8")
    with pytest.raises(TrainingError, match="was trained from other weights than"):
        run_plan(plan(schedule), tmp_path)
