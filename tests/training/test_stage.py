"""What a stage refuses when it is made, in the words that its maker reads."""

from dataclasses import replace
from pathlib import Path

import pytest

from corpus import Example
from training.adapter import Lora
from training.stage import Stage, TrainingError

ONE = (Example("a", " b"),)
GROUPS = {"groups": (0,) * 35}


def test_the_smallest_stage_has_the_defaults_of_its_signature():
    stage = Stage(base=Path("base"), examples=ONE, epochs=2)
    assert (stage.steps, stage.precision, stage.save_dtype, stage.keep) == (
        None,
        "bf16",
        "float32",
        "last",
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"examples": ()}, "needs examples"),
        (
            {"adapter": Path("first")},
            "adapter is first and lora is None, so no adapter would be trained",
        ),
        ({"replay_share": 1.0}, "below 1, got 1.0"),
        ({"replay_share": 0.5}, "replay is empty"),
        (
            {"replay_share": 0.9, "replay": ONE, "batch": 4},
            "leaves no place for the stage's own examples",
        ),
        ({"epochs": 1.0}, "steps is 3 and epochs is 1.0; expected exactly one"),
        ({"steps": None}, "steps is None and epochs is None; expected exactly one"),
        ({"steps": 0}, "steps is 0; expected a whole number"),
        ({"steps": True}, "steps is True; expected a whole number"),
        ({"steps": None, "epochs": 0}, "epochs is 0; expected a number above 0"),
        ({"steps": None, "epochs": float("inf")}, "epochs is inf"),
        ({"batch": 0}, "batch is 0; expected a whole number, 1 or more"),
        ({"accumulation": 2.0}, "accumulation is 2.0; expected a whole number"),
        ({"save_every": True}, "save_every is True"),
        ({"seed": -1}, "seed is -1; expected a whole number, 0 or more"),
        ({"max_length": 1}, "max_length is 1; expected a whole number, 2 or more"),
        ({"rate": 0.0}, "rate is 0.0; expected a number above 0"),
        ({"rate": float("nan")}, "rate is nan"),
        ({"warmup": 1.5}, "warmup is 1.5; expected a number at least 0 and at most 1"),
        ({"decay": -0.1}, "decay is -0.1; expected a number at least 0"),
        ({"beta2": 1.0}, "beta2 is 1.0; expected a number at least 0 and below 1"),
        ({"precision": "fp16"}, "precision is 'fp16'; expected one of: fp32, bf16"),
        ({"order": "sorted"}, "order is 'sorted'; expected one of: shuffle, by_length"),
        ({"device": "tpu"}, "expected one of: auto, cpu, cuda"),
        ({"groups": (0, 1)}, "there are 35 examples and 2 group numbers"),
        ({"group_weights": (1.0,)}, "group_weights are given but groups are not"),
        ({**GROUPS, "order": "by_length"}, "sorting by length would mix the groups of a step"),
        ({**GROUPS, "replay_share": 0.2, "replay": ONE}, "replay would mix into every step"),
        ({"keep": "best"}, 'keep is "best" but validation is not given'),
        (
            {"keep": "best", "validation": {"v": ONE}},
            'keep is "best" but evaluate_every is not given',
        ),
        ({"evaluate_every": 2}, "evaluate_every is given but validation is empty"),
        ({"validation": {"v": ()}}, 'validation "v" holds no examples'),
    ],
)
def test_stages_that_cannot_run_are_refused(stage, change, words):
    with pytest.raises(TrainingError, match=words):
        replace(stage, **change)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rank": 0}, "rank of a LoRA adapter is 0"),
        ({"rank": 2, "alpha": 0.0}, "alpha of a LoRA adapter is 0.0"),
        ({"rank": 2, "dropout": 1.0}, "dropout of a LoRA adapter is 1.0"),
    ],
)
def test_adapters_that_cannot_be_are_refused(settings, words):
    with pytest.raises(TrainingError, match=words):
        Lora(**settings)


def test_limits_that_are_allowed(stage):
    replace(stage, warmup=1.0, decay=0.0, beta2=0.0, seed=0, batch=1, steps=None, epochs=0.01)
    assert Lora(1, alpha=0.5, dropout=0.0).targets == ()
