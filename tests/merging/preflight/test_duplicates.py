"""Models that are given twice are found, and only equal samples make whole weights be read."""

import pytest
import torch
from safetensors.torch import save_file

from merging import Checkpoint, DistributionVector
from merging.preflight.duplicates import duplicates


@pytest.fixture
def opened(tmp_path):
    """A base, a copy of it, two fine-tunes and a copy of one, all with a norm between samples."""

    def folder(name, norm):
        tensors = {f"model.layers.{k}.w": torch.ones(64, 2**12) for k in range(5)}
        (tmp_path / name).mkdir()
        tensors["model.layers.2.norm"] = torch.full((1000,), norm)
        save_file(tensors, tmp_path / name / "model.safetensors")
        return Checkpoint(tmp_path / name)

    base = folder("base", 1.0)
    kinds = {"copy": 1.0, "one": 1.5, "other": 2.0, "same": 1.5}
    return base, {
        name: DistributionVector(name, base, folder(name, norm)) for name, norm in kinds.items()
    }


def test_weights_that_differ_in_a_norm_alone_are_no_duplicates(opened):
    base, vectors = opened
    assert len({base.sampled_digest, *(each.sampled_digest for each in vectors.values())}) == 1
    first, second = duplicates(base, vectors)
    assert (first.subject, second.subject) == ("copy", "same")
    assert "has the base's weights: its distribution vector is 0" in first.message
    assert "has the same weights as one" in second.message
    assert [each.subject for each in duplicates(base, vectors, differences=False)] == ["same"]


def test_weights_in_memory_are_not_compared():
    base = {"w": torch.ones(3)}
    vectors = {name: DistributionVector(name, base, {"w": torch.zeros(3)}) for name in "ab"}
    assert duplicates(vectors["a"], vectors, differences=False) == []


def test_other_samples_are_enough(tmp_path, write):
    folders = [write(tmp_path / str(k), {"w": torch.full((3,), float(k))}) for k in range(3)]
    base, *tuned = map(Checkpoint, folders)
    vectors = {str(k): DistributionVector(str(k), base, each) for k, each in enumerate(tuned)}
    assert duplicates(base, vectors) == []
    assert not any("digest" in vars(each) for each in (base, *tuned, *vectors.values()))
