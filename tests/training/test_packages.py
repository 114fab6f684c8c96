"""Optional packages: named where they are missing, and used where they are there."""

from dataclasses import replace
from typing import get_args

import pytest

from training.adapter import Lora
from training.choices import OF_BITSANDBYTES, Tracker
from training.errors import TrainingError
from training.packages import check_packages
from training.stage import Stage

FOUR_BIT = {"base_dtype": "nf4", "lora": Lora(2)}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    from corpus import Example

    return Stage(base=tmp_path_factory.mktemp("base"), examples=(Example("a", " b"),), steps=1)


@pytest.mark.parametrize(
    ("change", "package"),
    [
        *[({"optimiser": name}, "bitsandbytes") for name in OF_BITSANDBYTES],
        *[({"report_to": (name,)}, name) for name in get_args(Tracker)],
        (FOUR_BIT, "bitsandbytes"),
        ({"liger": True}, "liger-kernel"),
    ],
)
def test_a_missing_package_is_named_with_its_setting(plain, monkeypatch, change, package):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    setting = next(iter(change))
    with pytest.raises(
        TrainingError, match=f"{setting} .*{package}.*pip install {package}.*, or .* out|give"
    ):
        check_packages(replace(plain, **change), "cuda:0", sharded=False)


def test_all_missing_packages_are_named_at_once(plain, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    asked = replace(plain, **FOUR_BIT, optimiser="lion_8bit", report_to=("trackio", "wandb"))
    with pytest.raises(TrainingError) as error:
        check_packages(asked, "cpu", sharded=False)
    for words in ('optimiser is "lion_8bit"', 'base_dtype is "nf4"', "trackio", "wandb"):
        assert words in str(error.value)


def test_liger_is_refused_on_a_cpu(plain):
    with pytest.raises(TrainingError, match="liger is true.*accelerators only.*Leave liger out"):
        check_packages(replace(plain, liger=True), "cpu", sharded=False)


def test_four_bits_are_refused_under_fsdp(plain):
    stage = replace(plain, **FOUR_BIT)
    check_packages(stage, "cpu", sharded=False)
    with pytest.raises(TrainingError, match=r"nf4.*FSDP.*cannot split.*base_dtype=\"bfloat16\""):
        check_packages(stage, "cpu", sharded=True)


def test_four_bits_are_refused_where_bitsandbytes_cannot_run(plain, monkeypatch):
    monkeypatch.setattr("bitsandbytes.supported_torch_devices", {"abacus"})
    with pytest.raises(TrainingError, match=r'(?s)"nf4".*cannot run here.*Give base_dtype="bfl'):
        check_packages(replace(plain, **FOUR_BIT), "cpu", sharded=False)
