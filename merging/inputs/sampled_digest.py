"""The digests of earlier versions, which cover headers and samples, not every tensor.

They are read in old recipes (dem.inputs), saved vectors, statistics and records of trainings, and
compared with the same samples of what is opened. Otherwise they only rule out equality cheaply.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from merging.inputs.digest_cache import FileFacts
from merging.inputs.header import read_header

SAMPLES, SAMPLE_BYTES = 64, 4096
"""Number and size of the samples of each file."""
PIECES = 16
"""Number of the samples of each file in an identity of training.json; they have the same size."""


class HasDigests(Protocol):
    """A checkpoint, a vector, or anything else with both digests."""

    @property
    def digest(self) -> str:
        """See Checkpoint.digest."""

    @property
    def sampled_digest(self) -> str:
        """See Checkpoint.sampled_digest."""


def is_sampled(digest: str) -> bool:
    """Returns whether a digest is of the old kind: the SHA-256 of samples, 64 hex digits."""
    return len(digest) == 64


def digest_like(digest: str, subject: HasDigests) -> str:
    """Returns the digest of a subject of the kind of another digest, to be compared with it."""
    return subject.sampled_digest if is_sampled(digest) else subject.digest


def same_weights(one: HasDigests, other: HasDigests) -> bool:
    """Returns whether two digests are equal; they are taken only if the samples are equal.

    Weights of equal values in other shards count as different here.
    """
    return one.sampled_digest == other.sampled_digest and one.digest == other.digest


def sampled_digest(
    shards: Sequence[Path],
    files: Sequence[FileFacts],
    read: Callable[[int, int, memoryview], None],
) -> str:
    """Returns the SHA-256 over the headers and sizes of all shards and SAMPLES samples of each.

    Args:
        shards: the files.
        files: their facts.
        read: fills memory from a shard, given by its number, from a byte on.
    """
    digest = hashlib.sha256()
    for shard, file in zip(shards, files, strict=True):
        digest.update(read_header(shard).raw + file.size.to_bytes(8, "little"))
    for number, file in enumerate(files):
        for sample in range(SAMPLES):
            # From the first byte to the last at equal distances.
            piece = bytearray(min(SAMPLE_BYTES, file.size))
            read(number, (file.size - len(piece)) * sample // (SAMPLES - 1), memoryview(piece))
            digest.update(piece)
    return digest.hexdigest()


def sampled_identity(folder: Path) -> str:
    """Returns the identity that earlier versions wrote into training.json for a folder.

    It is a SHA-256 over the name, the size and PIECES pieces of each safetensors file.
    """
    sha = hashlib.sha256()
    # Sorted, because file systems list their files in different orders.
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        sha.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as opened:
            # Spread evenly from the first byte, which is the header, to the last.
            for number in range(PIECES):
                opened.seek(max(0, size - SAMPLE_BYTES) * number // (PIECES - 1))
                sha.update(opened.read(SAMPLE_BYTES))
    return sha.hexdigest()
