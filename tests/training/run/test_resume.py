"""A run that is killed, wherever, and goes on gives the bits of one that was not."""

import json
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from training.run.finetune import Lora, TrainingStopped, run
from training.run.saved_state import WHOLE, State

pytestmark = pytest.mark.slow  # each test needs runs in processes that are killed

ROOT = Path(__file__).parents[3]
SCRIPT = Path(__file__).with_name("breaking_off.py")
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def broken_off(runs, folder):
    """Runs each (stage, out, moment, step) until it is killed; what is left of it is in its folder."""
    (folder / "runs").write_bytes(pickle.dumps(runs))
    words = [sys.executable, "-W", "ignore", str(SCRIPT), str(folder / "runs")]
    done = subprocess.run(
        words, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert [int(line) for line in done.stdout.split()] == [-signal.SIGKILL] * len(runs), (
        done.stderr[-3000:]
    )


def tensors(folder):
    return load_file(next(folder.glob("*.safetensors")))


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def stages(stage, replay):
    """By name: shapes of a run in which something could be lost."""
    long = replace(stage, steps=11, batch=4, save_every=3)
    thirds = tuple(number % 3 for number in range(35))
    watched = {
        "validation": {"say": replay},
        "evaluate_every": 2,
        "keep": "best",
        "rate": 0.02,
        "schedule": "constant",
    }
    return {
        "passes": replace(long, steps=None, epochs=1.5),  # a pass ends in the middle of step 9
        "dropout": replace(long, lora=Lora(2, dropout=0.3), accumulation=2, precision="bf16"),
        "by_length": replace(long, order="by_length", replay=replay, replay_share=0.25, steps=19),
        "groups": replace(long, groups=thirds, batch=2, accumulation=2),
        "best": replace(long, **watched),
    }


KILLS = {
    "passes": [("at_step", 8), ("at_step", 11)],  # saved at 6 and 9; killed twice
    "dropout": [("at_step", 7), ("while_saving", 9)],
    "by_length": [("at_step", 2), ("before_removing", 6), ("before_sealing", 18)],
    "groups": [("at_step", 10), ("while_writing", 0)],
    "best": [("at_step", 5), ("at_step", 9)],  # the best of step 8 is not yet named by a state
}


@pytest.fixture(scope="module")
def left(stages, tmp_path_factory):
    """The folder in which all of KILLS happened."""
    folder = tmp_path_factory.mktemp("killed")
    runs = [(stages[name], folder / name, *kill) for name, kills in KILLS.items() for kill in kills]
    passes = stages["passes"]
    runs += [(passes, folder / "torn", "while_saving", 6), (passes, folder / "begun", "at_step", 2)]
    broken_off(runs, folder)
    return folder


@pytest.mark.parametrize("name", KILLS)
def test_a_killed_run_goes_on_to_the_same_bits(name, stages, left, tmp_path):
    assert not (left / name).exists()
    saved = State(left / name).newest()
    seen = []
    made = run(stages[name], left / name, lambda *call: seen.append(call[0]), resume=True)
    whole = run(stages[name], tmp_path / "whole")
    assert same(tensors(made.folder), tensors(whole.folder))
    assert seen[:1] == [State.step(saved) + 1]
    assert [point[:3] for point in made.curve] == [point[:3] for point in whole.curve]
    assert made.spent.tokens == whole.spent.tokens
    facts = [
        json.loads((folder / "training.json").read_text("utf-8"))
        for folder in (made.folder, whole.folder)
    ]
    assert facts[0]["kept_step"] == facts[1]["kept_step"]
    assert not (left / f"{name}.training").exists() and not (left / f"{name}.partial").exists()


def test_only_whole_states_count(left):
    state = State(left / "torn")
    assert (state.folder / "checkpoint-6").is_dir()
    assert state.newest() == state.folder / "checkpoint-3"
    (state.folder / "checkpoint-3" / "scheduler.pt").write_bytes(
        b""
    )  # its size is not the one that was declared
    assert state.newest() is None


def test_nothing_saved_is_nothing_to_resume(stages, left):
    assert State(left / "begun").folder.is_dir()
    run(
        replace(stages["passes"], epochs=None, steps=2), left / "begun"
    )  # neither refused nor confused
    assert not list(left.glob("begun.*"))


class Touch:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_state_that_a_stranger_changed_runs_no_code(stage, tmp_path, name):
    """A state's pickles are our own, and are read as tensors and plain values only.

    Its weights are safetensors; a pickle of weights beside them is not looked at.
    """
    asked = iter(range(100))
    with pytest.raises(TrainingStopped):
        run(replace(stage, steps=4), tmp_path / "out", should_stop=lambda: next(asked) == 1)
    newest = State(tmp_path / "out").newest()
    for changed in (name, "pytorch_model.bin", "adapter_model.bin"):
        torch.save(Touch(tmp_path / "opened"), newest / changed)
    files = {path.name: path.stat().st_size for path in newest.iterdir() if path.name != WHOLE}
    whole = json.loads((newest / WHOLE).read_text())
    (newest / WHOLE).write_text(json.dumps(whole | {"files": files}))
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        run(replace(stage, steps=4), tmp_path / "out", resume=True)
    assert not (tmp_path / "opened").exists()
