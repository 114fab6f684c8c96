"""A step is taken as done only if it was trained from these very weights."""

import json
import shutil

import pytest

from merging.inputs.checkpoint import Checkpoint
from merging.inputs.sampled_digest import sampled_identity
from training.errors import TrainingError
from training.plan.carry_out import run_plan
from training.plan.estimate import estimate
from training.plan.faults import PlanError
from training.plan.plan_file import parse_plan
from training.run import record
from training.run.saved_state import RUN, State

SCHEDULE = "{kind: experts, sources: [code]}"


@pytest.fixture(scope="module")
def trained(home, tmp_path_factory):
    """A home of its own with a base, and the folder of a plan with one finished step on it."""
    place = shutil.copytree(home, tmp_path_factory.mktemp("trained") / "home")
    out = place.parent / "out"
    settings = "{epochs: 1, rate: 3e-3, batch: 4, precision: fp32, device: cpu}"
    text = f"base: base\nsources: {{code: code.jsonl}}\nsettings: {settings}\nschedule: {SCHEDULE}"
    plan = parse_plan(text, home=place)
    run_plan(plan, out)
    return plan, place / "base", out


@pytest.fixture
def copied(trained, tmp_path):
    """The same, for a test that changes the folder of the plan."""
    plan, base, out = trained
    return plan, base, shutil.copytree(out, tmp_path / "out")


def change_one_element_of_a_norm(base):
    """Flips the last bit of an element between the samples of the earlier identity.

    Returns how to undo it.
    """
    file, sampled = base / "model.safetensors", sampled_identity(base)
    before, checkpoint = file.read_bytes(), Checkpoint(base)
    for info in (checkpoint.info(name) for name in checkpoint if "norm" in name):
        content = bytearray(before)
        content[info.start + info.nbytes // 2] ^= 1
        file.write_bytes(content)
        if sampled_identity(base) == sampled:
            return lambda: file.write_bytes(before)
    raise AssertionError("the samples cover every norm of this base")


def test_a_step_from_weights_that_differ_in_one_element_is_not_taken(trained):
    plan, base, out = trained
    assert [ready.standing for ready in estimate(plan, out)] == ["done"]
    undo = change_one_element_of_a_norm(base)
    try:
        with pytest.raises(PlanError, match="code exists, and was trained from other weights"):
            estimate(plan, out)
        with pytest.raises(PlanError, match="code exists, and was trained from other weights"):
            run_plan(plan, out)
    finally:
        undo()
    assert [(made.new, made.ready.note) for made in run_plan(plan, out)] == [(False, "")]


def test_the_identity_is_that_of_merging_in_any_shards(trained, tmp_path):
    _, base, _ = trained
    assert record.identity(base) == Checkpoint(base).digest
    shutil.copytree(base, tmp_path / "renamed")
    (tmp_path / "renamed" / "model.safetensors").rename(tmp_path / "renamed" / "w.safetensors")
    assert record.identity(tmp_path / "renamed") == record.identity(base)
    with pytest.raises(TrainingError, match="holds no safetensors weights"):
        record.identity(tmp_path)


def rewrite(file, **changes):
    content = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps({**content, **changes}), "utf-8")
    return content


def test_a_record_of_an_earlier_version_is_taken_and_said_to_be_one(copied):
    plan, base, out = copied
    old = {"name": "base", "identity": sampled_identity(base)}
    rewrite(out / "code" / "training.json", base=old)
    (ready,) = estimate(plan, out)
    assert ready.standing == "done"
    assert ready.note.startswith("taken as done by a digest of an earlier version")
    assert "train it again in another folder" in ready.note
    assert [made.new for made in run_plan(plan, out)] == [False]
    rewrite(out / "code" / "training.json", base={**old, "identity": "0" * 64})
    with pytest.raises(PlanError, match="was trained from other weights"):
        estimate(plan, out)
    # A record of another program may hold anything.
    rewrite(out / "code" / "training.json", base={**old, "identity": 5})
    with pytest.raises(PlanError, match="was trained from other weights"):
        estimate(plan, out)


@pytest.mark.slow
def test_an_unfinished_step_of_an_earlier_version_goes_on(trained, tmp_path):
    from training.errors import TrainingStopped

    plan, base, _ = trained
    asked = iter(range(1000))
    with pytest.raises(TrainingStopped):
        run_plan(plan, tmp_path, should_stop=lambda: next(asked) == 2)
    state = State(tmp_path / "code")
    begun = rewrite(state.folder / RUN, base=sampled_identity(base))
    assert begun["base"] == record.identity(base)
    (ready,) = estimate(plan, tmp_path, resume=True)
    assert ready.standing == "begun" and "taken as begun by a digest" in ready.note
    undo = change_one_element_of_a_norm(base)
    try:
        rewrite(state.folder / RUN, base=begun["base"])
        with pytest.raises(PlanError, match="the unfinished step there started from another base"):
            estimate(plan, tmp_path, resume=True)
    finally:
        undo()
    rewrite(state.folder / RUN, base=sampled_identity(base))
    assert [made.new for made in run_plan(plan, tmp_path, resume=True)] == [True]
    document = json.loads((tmp_path / "code" / "training.json").read_text("utf-8"))
    assert document["base"]["identity"] == record.identity(base)
