"""The advanced settings: every field writes its own key, shows what a plan says, and has Stage's default."""

import dataclasses

import pytest

from training.plan.plan_file import parse_plan
from training.stage import Stage
from workbench.page.tabs import train_advanced
from workbench.page.tabs.train_advanced import ADVANCED
from workbench.plans import plan_text

PLAN = """base: b
sources: {math: data/math}
settings: {epochs: 3, rate: 1e-3, warmup: 0.1}
schedule: {kind: experts}
"""
OTHER = {
    "schedule": "linear", "warmup": 0.2, "optimiser": "adafactor", "decay": 0.5, "noise": 5,
    "max_length": 256, "too_long": "cut", "order": "by_length", "packing": True,
    "checkpointing": True, "base_dtype": "float32", "attention": "eager", "beta1": 0.8,
    "beta2": 0.99, "leftover": "mix", "save_dtype": "bfloat16", "save_every": 50,
    "report_to": ["tensorboard"], "keep": "best", "patience": 3, "keep_epochs": True, "liger": True,
}  # fmt: skip
KEYS = [field.key for field in ADVANCED]


def settings(text):
    return plan_text.document(text)["settings"]


def test_every_field_has_another_value_here():
    defaults = {each.name: each.default for each in dataclasses.fields(Stage)}
    assert list(OTHER) == KEYS
    defaults["report_to"] = []  # what a list of nothing is on the page
    assert all(OTHER[key] != defaults[key] for key in KEYS)
    assert list(train_advanced.values({})) == [defaults[key] for key in KEYS]


@pytest.mark.parametrize("key", KEYS)
def test_a_field_writes_its_key_and_leaves_the_rest(key):
    before = settings(PLAN)
    written = train_advanced.write(PLAN, key, OTHER[key])
    assert settings(written) == before | {key: OTHER[key]}
    read = parse_plan(written).settings[key]
    assert (list(read) if isinstance(read, tuple) else read) == OTHER[key]
    shown = dict(zip(KEYS, train_advanced.values(settings(written)), strict=True))
    assert shown[key] == OTHER[key]
    # The default is written by leaving the key out; so is an empty box.
    default = next(field.default for field in ADVANCED if field.key == key)
    back = settings(train_advanced.write(written, key, default))
    assert back == {name: value for name, value in before.items() if name != key}


def test_a_number_box_gives_whole_numbers():
    assert settings(train_advanced.write(PLAN, "max_length", 256.0))["max_length"] == 256
    assert settings(train_advanced.write(PLAN, "warmup", 0.25))["warmup"] == 0.25


@pytest.mark.parametrize("value", ["x", 3, None, [], {}, True, "cut"])
def test_a_value_that_a_field_cannot_show_is_shown_as_the_default(value):
    shown = train_advanced.values(dict.fromkeys(KEYS, value))
    for field, each in zip(ADVANCED, shown, strict=True):
        if field.several:
            assert each == []
        elif field.choices:
            assert each in field.choices
        elif field.hint is bool:
            assert isinstance(each, bool)
        else:
            assert each is None or (isinstance(each, int | float) and not isinstance(each, bool))
