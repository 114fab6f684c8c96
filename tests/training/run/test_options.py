"""Settings that a stage passes on: what each does to a short run, and what is refused before it."""

import json
from dataclasses import replace
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import get_scheduler

from training.adapter import Lora
from training.choices import OF_BITSANDBYTES, Optimiser, Schedule
from training.errors import TrainingError, TrainingStopped
from training.run import memory
from training.run.finetune import run
from training.run.saved_state import State
from training.run.setup import quiet, set_up

OPTIONS = {
    "cosine_with_min_lr": {"min_lr_rate": 0.1},
    "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1},
    "cosine_with_restarts": {"num_cycles": 2},
    "polynomial": {"power": 2.0},
    "warmup_stable_decay": {"num_decay_steps": 2},
}
IN_TORCH = [name for name in get_args(Optimiser) if name not in OF_BITSANDBYTES]


def weights(folder):
    return load_file(folder / "model.safetensors")


def losses(made):
    return [point.loss for point in made.curve]


@pytest.mark.slow
@pytest.mark.parametrize("schedule", get_args(Schedule))
def test_the_rates_are_those_of_the_schedule(stage, tmp_path, schedule):
    options = OPTIONS.get(schedule, {})
    asked = replace(
        stage, steps=6, warmup=1 / 3, schedule=schedule, schedule_options=options, rate=1e-3
    )
    made = run(asked, tmp_path / "out")
    optimiser = torch.optim.SGD([torch.zeros(1)], 1e-3)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    plain = get_scheduler(name, optimiser, 2, 6, options)
    expected = []
    for _ in range(6):
        expected.append(plain.get_last_lr()[0])
        optimiser.step()
        plain.step()
    rates = [point.rate for point in made.curve]
    assert rates == pytest.approx(expected, abs=1e-12) or rates == pytest.approx(
        [*expected[1:], plain.get_last_lr()[0]], abs=1e-12
    )


@pytest.mark.parametrize(
    ("schedule", "options", "words"),
    [
        ("cosine_with_min_lr", {}, "schedule_options none"),
        ("cosine", {"min_lr": 1e-5}, "min_lr"),
        ("warmup_stable_decay", {}, "num_decay_steps"),
    ],
)
def test_options_that_a_schedule_does_not_take_or_lacks_are_refused(
    stage, schedule, options, words
):
    with quiet(), pytest.raises(TrainingError, match=f"(?s){schedule}.*{words}.*Give the options"):
        set_up(replace(stage, schedule=schedule, schedule_options=options))


@pytest.mark.slow
def test_every_optimiser_of_torch_takes_its_own_steps(stage, tmp_path):
    made = {
        name: weights(run(replace(stage, optimiser=name), tmp_path / name).folder)
        for name in IN_TORCH
    }
    different = {
        name: tuple(tensors["model.norm.weight"].tolist()) for name, tensors in made.items()
    }
    # The two AdamW compute the same.
    assert len({different[name] for name in IN_TORCH if name != "adamw_torch"}) == len(IN_TORCH) - 1
    torch.testing.assert_close(made["adamw_torch"], made["adamw_torch_fused"], rtol=1e-4, atol=1e-6)


def test_sgd_is_the_rate_times_the_clipped_gradient(stage, tmp_path):
    """A plain loop of one step: the update has the length rate · clip."""
    one = replace(
        stage, steps=1, optimiser="sgd", warmup=0.0, schedule="constant", rate=0.5, decay=0.0
    )
    before = weights(stage.base)
    made = {
        clip: weights(run(replace(one, clip=clip), tmp_path / str(clip)).folder)
        for clip in (None, 1e9, 0.01, 0.02)
    }

    def moved(clip):
        return {name: (made[clip][name] - before[name]).double() for name in before}

    def length(clip):
        return float(torch.stack([delta.norm() for delta in moved(clip).values()]).norm())

    assert all(torch.equal(made[None][name], made[1e9][name]) for name in before)
    assert length(0.01) == pytest.approx(0.5 * 0.01, rel=1e-3)
    assert length(0.02) == pytest.approx(0.5 * 0.02, rel=1e-3)
    assert length(None) > 0.1


def test_the_averages_of_optimisers_in_bytes_per_weight():
    known = {
        "adamw_torch_fused": 8, "sgd": 0, "adafactor": 0, "rmsprop": 4, "adamw_bnb_8bit": 2,
        "paged_adamw_32bit": 8, "paged_adamw_8bit": 2, "lion_8bit": 1, "paged_lion_32bit": 4,
        "ademamix": 12, "ademamix_8bit": 3,
    }  # fmt: skip
    assert {name: memory.averages(name) for name in known} == known


def test_noise_is_in_the_training_and_not_in_the_validation(stage, tmp_path):
    one = replace(stage, steps=1, validation={"v": stage.examples[:5]}, rate=1e-12)
    plain, noisy = (run(replace(one, noise=noise), tmp_path / str(noise)) for noise in (0.0, 50.0))
    assert noisy.curve[0].loss != plain.curve[0].loss
    assert noisy.curve[-1].validation["v"] == pytest.approx(
        plain.curve[-1].validation["v"], rel=1e-5
    )


def test_the_first_average_counts(stage, tmp_path):
    made = [run(replace(stage, beta1=beta), tmp_path / str(beta)) for beta in (0.9, 0.5)]
    # Adam's first update is the gradient's sign for every β1, up to rounding.
    assert losses(made[0])[:2] == pytest.approx(losses(made[1])[:2], rel=1e-5)
    assert losses(made[0])[2:] != pytest.approx(losses(made[1])[2:], rel=1e-5)


def test_implementations_of_attention_agree(stage, tmp_path):
    made = [run(replace(stage, attention=name), tmp_path / name) for name in ("sdpa", "eager")]
    assert losses(made[0]) == pytest.approx(losses(made[1]), rel=1e-4)
    config = json.loads((made[1].folder / "config.json").read_text("utf-8"))
    assert "eager" not in json.dumps(config)  # the checkpoint does not choose for its reader


def test_an_implementation_of_attention_that_is_missing_is_refused(stage):
    with (
        quiet(),
        pytest.raises(TrainingError, match=r'"flash_attention_2", which cannot.*Give "sdpa"'),
    ):
        set_up(replace(stage, attention="flash_attention_2"))


@pytest.fixture
def low(tiny, tmp_path):
    """The tiny base with weights in bfloat16."""
    import shutil

    folder = tmp_path / "low"
    shutil.copytree(tiny, folder)
    halves = {name: tensor.bfloat16() for name, tensor in weights(tiny).items()}
    save_file(halves, folder / "model.safetensors", {"format": "pt"})
    return folder


def dtypes(model):
    return {
        "lora" if "lora" in name else "base": parameter.dtype
        for name, parameter in model.named_parameters()
    }


@pytest.fixture(params=[True, False], ids=["quick halves", "slow halves"])
def halves_are_quick(request, monkeypatch):
    """Whether the CPU has instructions for bfloat16."""
    monkeypatch.setattr("torch.ops.mkldnn._is_mkldnn_bf16_supported", lambda: request.param)
    return request.param


def test_where_halves_are_slow_a_stage_computes_in_float32(stage, tmp_path, halves_are_quick):
    made = {name: run(replace(stage, precision=name), tmp_path / name) for name in ("bf16", "fp32")}
    assert (losses(made["bf16"]) == losses(made["fp32"])) is not halves_are_quick
    told = {
        name: json.loads((each.folder / "training.json").read_text("utf-8"))["computed_in"]
        for name, each in made.items()
    }
    assert told == {"bf16": "bfloat16" if halves_are_quick else "float32", "fp32": "float32"}


def test_a_frozen_base_is_held_as_its_files_are(stage, low, halves_are_quick):
    adapter = replace(stage, lora=Lora(2), precision="bf16")
    by_default = replace(adapter, base=low)
    cases = {
        torch.bfloat16: [replace(adapter, base_dtype="bfloat16"), *[by_default] * halves_are_quick],
        torch.float32: [
            adapter,
            *[by_default] * (not halves_are_quick),
            replace(adapter, base=low, precision="fp32"),
            replace(adapter, base=low, base_dtype="float32"),
            replace(stage, base=low, precision="bf16"),
        ],
    }
    with quiet():
        for dtype, stages in cases.items():
            for each in stages:
                found = dtypes(set_up(each).model)
                assert found.pop("base") == dtype
                assert set(found.values()) <= {torch.float32}


@pytest.mark.slow
def test_an_adapter_on_a_half_base_learns_as_on_a_whole_one(stage, low, tmp_path):
    adapter = replace(
        stage, base=low, lora=Lora(4), precision="bf16", steps=40, rate=2e-2,
        validation={"v": stage.examples},
    )  # fmt: skip
    half, whole = (
        run(replace(adapter, base_dtype=dtype), tmp_path / dtype)
        for dtype in ("bfloat16", "float32")
    )
    first, last = half.curve[0].loss, half.curve[-1].validation["v"]
    assert last == pytest.approx(whole.curve[-1].validation["v"], rel=0.02) and last < 0.7 * first
    saved = load_file(half.folder / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}


def test_a_half_base_takes_half_of_the_memory(stage, low):
    adapter = replace(stage, base=low, lora=Lora(2), precision="bf16")
    with quiet():
        need = {
            dtype: memory.estimate(
                set_up(replace(adapter, base_dtype=dtype)).model, 4, 64, bf16=True
            )
            for dtype in ("bfloat16", "float32")
        }
    adapters = need["float32"].gradients
    assert need["bfloat16"].weights - adapters == (need["float32"].weights - adapters) / 2
    assert need["bfloat16"].total < need["float32"].total


@pytest.fixture
def waiting(stage):
    """A stage that is soon past its best, and may wait for two measurements."""
    return replace(
        stage, steps=60, rate=3e-2, schedule="constant", warmup=0.0, keep="best", patience=2,
        evaluate_every=2, validation={"v": stage.examples[:3]}, examples=stage.examples[3:],
        save_every=3,
    )  # fmt: skip


@pytest.mark.slow
def test_a_run_that_gets_no_better_ends_early_and_keeps_its_best(waiting, tmp_path):
    made = run(waiting, tmp_path / "out")
    measured = {point.step: point.validation["v"] for point in made.curve if point.validation}
    best = min(measured, key=measured.__getitem__)
    assert max(measured) == best + 2 * 2 < 60
    document = json.loads((made.folder / "training.json").read_text("utf-8"))
    assert document["kept_step"] == best
    assert not State(tmp_path / "out").folder.exists()
    # It may have been stopped anywhere: the end and the weights are the same.
    for stop in (1, best + 1, best + 4):
        steps = iter(range(1, 99))
        out = tmp_path / f"stopped at {stop}"
        try:
            run(waiting, out, should_stop=lambda steps=steps, stop=stop: next(steps) == stop)
        except TrainingStopped:
            again = run(waiting, out, resume=True)
            assert [point.step for point in again.curve] == [point.step for point in made.curve]
        ours, theirs = weights(out), weights(made.folder)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_examples_may_be_cut_off(stage, tmp_path):
    short = replace(stage, max_length=8)
    dropped, cut = (run(replace(short, too_long=how), tmp_path / how) for how in ("drop", "cut"))
    assert dropped.counts["examples"].dropped_too_long > 0 == dropped.counts["examples"].cut
    counts = cut.counts["examples"]
    assert counts.dropped_too_long == 0
    assert counts.cut == dropped.counts["examples"].dropped_too_long
    assert counts.tokens == dropped.counts["examples"].tokens + 8 * counts.cut


def test_tensorboard_gets_the_curve(stage, tmp_path):
    """The files stay beside the run, and a continued run goes on in them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told = replace(
        stage, report_to=("tensorboard",), validation={"v": stage.examples[:5]}, save_every=1
    )
    asked = []
    with pytest.raises(TrainingStopped):
        run(told, tmp_path / "out", should_stop=lambda: asked.append(1) or len(asked) == 2)
    made = run(told, tmp_path / "out", resume=True)
    read = EventAccumulator(str(tmp_path / "out.tensorboard")).Reload()
    shown = {point.step: point.value for point in read.Scalars("train/loss")}
    assert shown == pytest.approx({point.step: point.loss for point in made.curve if point.loss})
    last = read.Scalars("train/validation/v")[-1]
    assert (last.step, last.value) == (3, pytest.approx(made.curve[-1].validation["v"]))


def test_a_tracker_that_refuses_is_named(stage, tmp_path, monkeypatch):
    """Such as wandb where nobody has logged in: an error of its own class ends the first step."""
    from transformers.integrations import TensorBoardCallback

    refusal = type("UsageError", (Exception,), {"__module__": "tensorboard.errors"})

    def refuse(*_, **__):
        raise refusal("No API key configured.")

    monkeypatch.setattr(TensorBoardCallback, "on_train_begin", refuse)
    with pytest.raises(TrainingError, match="names tensorboard, which refuses: No API key"):
        run(replace(stage, report_to=("tensorboard",)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_report_to_is_no_part_of_what_a_run_is(stage, tmp_path):
    """An unfinished run may be continued without it."""
    asked = []
    with pytest.raises(TrainingStopped):
        run(stage, tmp_path / "out", should_stop=lambda: asked.append(1) or len(asked) == 2)
    told = replace(stage, report_to=("tensorboard",))
    assert run(told, tmp_path / "out", resume=True).folder.is_dir()


@pytest.mark.parametrize(
    ("value", "words"), [("wandb", "expected a tuple"), (("wand",), "is 'wand'; expected one of")]
)
def test_trackers_that_are_none_are_refused(stage, value, words):
    with pytest.raises(TrainingError, match=f"report_to .*{words}"):
        replace(stage, report_to=value)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
@pytest.mark.parametrize("name", OF_BITSANDBYTES)
def test_every_optimiser_of_bitsandbytes_lowers_the_loss_and_continues(stage, tmp_path, name):
    longer = replace(stage, optimiser=name, steps=6, save_every=2, keep_epochs=True, rate=3e-3)
    whole = run(longer, tmp_path / "whole")
    assert losses(whole)[-1] < losses(whole)[0]
    asked = []
    with pytest.raises(TrainingStopped):
        run(longer, tmp_path / "cut", should_stop=lambda: asked.append(1) or len(asked) == 3)
    resumed = run(longer, tmp_path / "cut", resume=True)
    assert all(
        torch.equal(weights(resumed.folder)[key], tensor)
        for key, tensor in weights(whole.folder).items()
    )
