"""Two processes, started as `accelerate launch` starts them: one checkpoint, the same steps as one process with accumulation 2."""

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from training.adapter import Lora
from training.run.finetune import run

ROOT = Path(__file__).parents[3]


def launched(stage, out, *, resume=False, stop_at=0):
    """What each process says at its end."""
    file = out.with_suffix(".pickle")
    file.write_bytes(pickle.dumps((stage, out, resume, stop_at)))
    # What accelerate launch calls for several GPUs; for several processes on CPUs it would look for MPI
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    words += [str(Path(__file__).with_name("run_stage.py")), str(file)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-W", "ignore", *words]
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [Path(f"{file}.{rank}").read_text("utf-8") for rank in range(2)]


@pytest.fixture(scope="module")
def pair(stage, replay):
    watched = {"validation": {"say": replay}, "evaluate_every": 3, "save_every": 3}
    return replace(
        stage, steps=8, batch=2, groups=tuple(number % 3 for number in range(35)), **watched
    )


@pytest.mark.slow
def test_two_processes_make_one_checkpoint_and_go_on_after_a_stop(pair, tmp_path):
    assert launched(pair, tmp_path / "two", stop_at=5) == ["stopped", "stopped"]
    said = launched(pair, tmp_path / "two", resume=True)
    assert said == ["told 3 examples 32 processes 2", "told 0 examples 32 processes 2"]
    alone = run(replace(pair, accumulation=2), tmp_path / "one")
    two, one = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "two", alone.folder)
    )
    assert all(torch.allclose(two[name], one[name], atol=2e-6, rtol=0) for name in one)
    moved = load_file(pair.base / "model.safetensors")
    assert (
        max((one[name] - moved[name]).abs().max() for name in one) > 1e-3
    )  # the tolerance is small beside it
    assert not (tmp_path / "two.training").exists()


@pytest.mark.slow
def test_two_processes_train_one_adapter_on_a_base_in_four_bits(stage, tmp_path):
    four = replace(
        stage, steps=4, batch=2, lora=Lora(2), base_dtype="nf4", precision="fp32", save_every=2
    )
    assert launched(four, tmp_path / "two", stop_at=3) == ["stopped", "stopped"]
    assert len(launched(four, tmp_path / "two", resume=True)) == 2
    alone = run(replace(four, accumulation=2), tmp_path / "one")
    two, one = (
        load_file(folder / "adapter_model.safetensors")
        for folder in (tmp_path / "two", alone.folder)
    )
    assert all(torch.allclose(two[name], one[name], atol=2e-5, rtol=0) for name in one)
