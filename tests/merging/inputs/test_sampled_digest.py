"""The digests of earlier versions, kept to read what they wrote."""

import hashlib

import torch

from merging import Checkpoint
from merging.inputs.sampled_digest import (
    digest_like,
    is_sampled,
    same_weights,
    sampled_identity,
)


def samples(content, count):
    """So many pieces of 4096 bytes, evenly from the first byte to the last."""
    return [
        content[at : at + 4096]
        for at in (max(0, len(content) - 4096) * number // (count - 1) for number in range(count))
    ]


def test_it_is_what_earlier_versions_wrote(tmp_path, write):
    path = write(tmp_path / "m", {"w": torch.randn(300, 401), "v": torch.arange(7)})
    content = (path / "model.safetensors").read_bytes()
    header = content[: 8 + int.from_bytes(content[:8], "little")]
    whole = [header, len(content).to_bytes(8, "little"), *samples(content, 64)]
    assert Checkpoint(path).sampled_digest == hashlib.sha256(b"".join(whole)).hexdigest()


def test_the_identity_of_trainings_is_what_earlier_versions_wrote(tmp_path, write):
    path = write(tmp_path / "m", {"w": torch.randn(300, 401)})
    write(tmp_path / "n", {"w": torch.ones(3)})
    (tmp_path / "n" / "model.safetensors").rename(path / "a.safetensors")
    parts = []
    for name in ("a.safetensors", "model.safetensors"):
        content = (path / name).read_bytes()
        parts += [f"{name} {len(content)}\n".encode(), *samples(content, 16)]
    assert sampled_identity(path) == hashlib.sha256(b"".join(parts)).hexdigest()


def test_a_digest_is_compared_with_its_own_kind(tmp_path, write):
    checkpoint = Checkpoint(write(tmp_path / "m", {"w": torch.ones(3)}))
    old, new = checkpoint.sampled_digest, checkpoint.digest
    assert is_sampled(old) and not is_sampled(new)
    assert (digest_like(old, checkpoint), digest_like(new, checkpoint)) == (old, new)


def test_only_equal_samples_make_whole_digests_needed(tmp_path, write):
    one, same, other = (
        Checkpoint(write(tmp_path / name, {"w": torch.full((3,), value)}))
        for name, value in (("one", 1.0), ("same", 1.0), ("other", 2.0))
    )
    assert not same_weights(one, other) and "digest" not in vars(one)
    assert same_weights(one, same)
