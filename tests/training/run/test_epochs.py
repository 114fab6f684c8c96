"""Checkpoints of epochs: the weights of that update, the optimiser's averages, the mean rate."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, get_scheduler

from training.adapter import Lora
from training.batching.order import pass_ends
from training.errors import TrainingStopped
from training.run.finetune import run
from training.run.saved_state import State

PLAIN = {"schedule": "constant", "warmup": 0.0, "decay": 0.0, "clip": None}


@pytest.fixture
def kept(stage):
    """Two passes of seven updates, with a checkpoint for each."""
    return replace(stage, steps=None, epochs=2, keep_epochs=True)


def files(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def facts(folder, number):
    return json.loads((folder / "epochs" / str(number) / "epoch.json").read_text("utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, Lora(4)])
def test_an_epoch_is_what_a_run_of_so_many_updates_writes(kept, tmp_path, lora):
    asked = replace(kept, lora=lora, **PLAIN)
    made = run(asked, tmp_path / "out").folder
    assert sorted(path.name for path in (made / "epochs").iterdir()) == ["1", "2"]
    name = "model.safetensors" if lora is None else "adapter_model.safetensors"
    short = run(replace(asked, epochs=None, steps=7, keep_epochs=False), tmp_path / "short").folder
    for number, folder in ((1, short), (2, made)):
        ours, theirs = load_file(made / "epochs" / str(number) / name), load_file(folder / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
        # All other files are those of a finished run too, but for its record.
        beside = {path.name for path in folder.iterdir() if path.is_file()} - {"training.json"}
        written = {path.name for path in (made / "epochs" / str(number)).iterdir()}
        assert written == beside | {"optimiser.safetensors", "epoch.json"}
        for same in beside - {name}:
            epoch = made / "epochs" / str(number) / same
            assert epoch.read_bytes() == (folder / same).read_bytes(), same
    if lora is None:
        AutoModelForCausalLM.from_pretrained(made / "epochs" / "1")


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, Lora(4)])
def test_the_averages_after_one_update_are_those_of_its_gradient(kept, tmp_path, lora):
    """A step of SGD gives the gradient g: the averages are (1 - β1) g and (1 - β2) g²."""
    one = replace(kept, lora=lora, epochs=1, batch=35, rate=0.5, beta1=0.8, beta2=0.9, **PLAIN)
    made = run(one, tmp_path / "adam").folder
    averages = load_file(made / "epochs" / "1" / "optimiser.safetensors")
    steps = replace(one, optimiser="sgd", keep_epochs=False)
    # An adapter has no file before its first update, so two rates show the gradient.
    name = "model.safetensors" if lora is None else "adapter_model.safetensors"
    far, near = (
        load_file(run(replace(steps, rate=rate), tmp_path / str(rate)).folder / name)
        for rate in (1.0, 0.5)
    )
    gradients = {key: (near[key].double() - far[key].double()) / 0.5 for key in far}
    names = {key.partition("/")[2] for key in averages}
    assert len(names) == len(gradients)
    for parameter in names:
        key = parameter
        if lora is not None:
            key = "base_model.model." + parameter.replace(".default", "")
        g = gradients[key]
        assert averages[f"step/{parameter}"].tolist() == [1]
        torch.testing.assert_close(
            averages[f"exp_avg/{parameter}"].double(), 0.2 * g, rtol=1e-2, atol=1e-6
        )
        torch.testing.assert_close(
            averages[f"exp_avg_sq/{parameter}"].double(), 0.1 * g**2, rtol=1e-2, atol=1e-8
        )


def test_the_mean_rate_is_that_of_the_updates_of_the_epoch(kept, tmp_path):
    asked = replace(kept, warmup=0.3, rate=1e-3)
    made = run(asked, tmp_path / "out").folder
    optimiser = torch.optim.SGD([torch.zeros(1)], 1e-3)
    plain, rates = get_scheduler("cosine", optimiser, round(0.3 * 14), 14), []
    for _ in range(14):
        rates.append(plain.get_last_lr()[0])
        optimiser.step()
        plain.step()
    for number, updates in ((1, slice(0, 7)), (2, slice(7, 14))):
        found = facts(made, number)
        assert found["mean_rate"] == pytest.approx(sum(rates[updates]) / 7, rel=1e-12)
        assert found["updates"] == [updates.start + 1, updates.stop]
        assert (found["betas"], found["eps"], found["epoch"]) == ([0.9, 0.95], 1e-8, number)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [3, 7, 8, 13])
def test_a_stopped_run_keeps_the_same_epochs(kept, tmp_path, stop):
    whole = run(kept, tmp_path / "whole").folder
    steps, out = iter(range(1, 99)), tmp_path / "stopped"
    with pytest.raises(TrainingStopped):
        run(kept, out, should_stop=lambda: next(steps) == stop)
    # As a process leaves them that is killed while it writes, or after the last saved state.
    state = State(out)
    (state.folder / "epoch-2.partial").mkdir()
    (state.folder / "epoch-2").mkdir()
    (state.folder / "epoch-2" / "old").write_text("old", "utf-8")
    run(kept, out, resume=True)
    assert files(out / "epochs") == files(whole / "epochs")
    assert not state.folder.exists()


def test_optimisers_without_averages_leave_the_rest(kept, tmp_path):
    made = run(replace(kept, optimiser="sgd"), tmp_path / "out").folder
    assert load_file(made / "epochs" / "2" / "optimiser.safetensors") == {}
    assert facts(made, 2)["betas"] is None and facts(made, 2)["optimiser"] == "sgd"


@pytest.mark.parametrize(
    ("change", "processes", "ends"),
    [
        ({}, 1, [7, 14]),
        ({"batch": 4}, 1, [9, 18]),  # 8.75 and 17.5 updates
        ({"batch": 4, "epochs": 1.5}, 1, [9]),
        ({"batch": 4, "accumulation": 2}, 2, [3, 5]),
        ({"steps": 20, "epochs": None}, 1, [7, 14]),
        ({"steps": 6, "epochs": None}, 1, []),
        ({"groups": (0,) * 32 + (1,) * 3}, 1, [8, 16]),  # 7 blocks and one that is filled up
    ],
)
def test_the_ends_of_passes_by_hand(stage, change, processes, ends):
    from training.batching.order import order

    asked = replace(stage, **{"steps": None, "epochs": 2} | change)
    groups = list(asked.groups or ())
    steps = order(asked, [8] * 35, [], groups, processes).steps
    assert pass_ends(asked, 35, groups, processes, steps) == ends


def test_replay_does_not_shorten_a_pass(stage, replay):
    asked = replace(stage, batch=5, replay=replay, replay_share=0.4, steps=30)
    assert pass_ends(asked, 35, [], 1, 30) == [12, 24]  # 3 of 5 are the stage's own
