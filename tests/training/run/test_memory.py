"""Bytes that a step takes: counted, measured on the model, and refused with the numbers."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from plumbing.units import size
from training.adapter import Lora
from training.errors import TrainingError
from training.run.lora import add_adapter
from training.run.memory import (
    PROBES,
    _left_in_group,
    activations,
    check,
    estimate,
    free_bytes,
    interpolate,
    weights_on_disk,
)


@pytest.fixture
def model(tiny):
    return AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)


def test_weights_gradients_and_averages_are_counted(model, tiny):
    numel = sum(one.numel() for one in model.parameters())
    need = estimate(model, 2, 10, bf16=False)
    assert need[:3] == (4 * numel, 4 * numel, 8 * numel)
    assert weights_on_disk(tiny) == 4 * numel
    assert weights_on_disk(tiny.parent) == 0
    halves = estimate(model, 2, 10, bf16=False, shards=2)
    assert halves[:3] == (2 * numel, 2 * numel, 4 * numel)
    assert need.total == sum(need)


def test_an_adapter_needs_no_gradients_of_the_base(model):
    add_adapter(model, Lora(2))
    trained = sum(one.numel() for one in model.parameters() if one.requires_grad)
    need = estimate(model, 2, 10, bf16=False)
    assert (need.gradients, need.optimiser) == (4 * trained, 8 * trained)
    assert need.weights > 10 * need.gradients


@pytest.mark.parametrize("length", [50, 200])
def test_three_short_rows_tell_what_a_long_one_keeps(model, length):
    """The polynomial against autograd's own count at that length."""
    told = interpolate(length, [activations(model, probe, bf16=False) for probe in PROBES])
    assert told == pytest.approx(activations(model, length, bf16=False), rel=0.02)


def test_a_polynomial_by_hand():
    """L + L² + 5 at 8, 16, 32 is 77, 277, 1061."""
    assert interpolate(64, (77, 277, 1061)) == 64 + 64 * 64 + 5
    assert interpolate(0, (77, 277, 1061)) == 5
    assert interpolate(0, (8, 24, 56)) == 0  # never below nothing


def test_rows_count_once_each_and_cast_weights_once_in_all(model):
    need = [estimate(model, rows, 40, bf16=True).activations for rows in (1, 2, 5)]
    assert need[2] - need[1] == 3 * (need[1] - need[0])
    cast = need[0] - (need[1] - need[0])
    linear = sum(one.numel() for name, one in model.named_parameters() if "norm" not in name)
    assert 0 < cast <= 2.2 * linear


def test_checkpointing_needs_less(model):
    plain, saving = (
        estimate(model, 8, 200, bf16=False, checkpointing=on).activations for on in (False, True)
    )
    assert saving < 0.7 * plain


def test_measuring_draws_no_random_number_and_leaves_the_mode(model):
    model.eval()
    before = torch.get_rng_state()
    add = Lora(2, dropout=0.5)
    add_adapter(model, add)
    torch.set_rng_state(before)
    estimate(model, 2, 10, bf16=True)
    assert torch.equal(torch.get_rng_state(), before)
    assert not model.training
    assert all(one.grad is None for one in model.parameters())


def test_what_does_not_fit_is_refused_with_the_numbers():
    check(10, 10, "this", "Take less.")
    with pytest.raises(
        TrainingError, match=r"^this takes about 2\.0 GB, and 1\.5 MB are free\. Take less\.$"
    ):
        check(2 * 10**9, 1_500_000, "this", "Take less.")


def test_the_refusal_of_a_step_names_each_part(stage, tmp_path):
    from training.run.finetune import run

    parts = r"a step of 100000000 examples of up to \d+ tokens \(weights .*, gradients .*, optimiser .*, activations .* TB\) on cpu"
    with pytest.raises(TrainingError, match=parts):
        run(replace(stage, batch=10**8), tmp_path / "out")


def test_what_is_free_regards_a_containers_limit(tmp_path):
    assert free_bytes("cpu") > 0
    assert _left_in_group(tmp_path) == []
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 150\nactive_file 50\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert _left_in_group(tmp_path) == []
    (tmp_path / "memory.max").write_text("1000\n")
    assert _left_in_group(tmp_path) == [450]
    (tmp_path / "memory.max").write_text("500\n")
    assert _left_in_group(tmp_path) == [0]


def test_sizes_in_words():
    assert [size(nbytes) for nbytes in (0, 999, 1500, 2_000_000, 3_100_000_000, 4 * 10**12)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "2.0 MB",
        "3.1 GB",
        "4.0 TB",
    ]
