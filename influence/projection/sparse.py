"""Sparse projection: every coordinate goes to s of the d rows, each with a random sign.

A sparse Johnson–Lindenstrauss transform with one entry ±1/√s in each of s blocks of d/s rows (Kane
and Nelson, "Sparser Johnson-Lindenstrauss transforms", 2014, the block construction). An example
costs s operations for each coordinate.

Rows are not drawn one by one. The coordinates of a parameter are cut into chunks of d/s, and each
chunk, shuffled, is written to each block from a random row on, wrapping around. Two coordinates of
one chunk then never meet; two of different chunks meet in a block with probability s/d, as with
independent rows, so the variance is not larger. The shuffle, the same for all chunks, breaks up
what is regular in a gradient, such as one large input feature: without it, whole chunks of such
gradients met at once, and the error depended more on the seed (2.5 times its spread). The s entries
of a coordinate share one sign. This makes two blocks dependent only where the same two coordinates
meet in both, and adds s(s−1)/d to the relative variance (0.15 % at s = 4, d = 8192).

Adding contiguous pieces is what makes it fast. With buckets at hand, torch's index_add_ and its
sparse product took about ten times as long.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from influence.projection.signs import WORD, draw_bits, signs_of, stream

CHUNKS = 8
"""Chunks that are added at once on the CPU. Multiples of 8 begin at a whole byte of signs."""
EXAMPLES = 16
"""Examples that are added at once on the CPU: 16 × 8 chunks of 8 kB are 1 MB, a core's cache."""
GATHERED = 2**24
"""Numbers that are gathered at once on an accelerator, 64 MB in float32."""


def add_sparse(sums: Tensor, gradients: Tensor, seed: int, name: str, rows: int) -> None:
    """Adds the sparse projection of one parameter's gradients.

    Args:
        sums: the projected gradients (examples, d), which this changes. d is a multiple of `rows`.
        gradients: the gradients (examples, size), of the same dtype and device.
        seed: the seed of the projection.
        name: the parameter's name.
        rows: rows that each coordinate goes to, s.
    """
    examples, size = gradients.shape
    chunk = sums.shape[1] // rows
    bits = draw_bits(stream(seed, name, "signs"), -(-size // WORD))
    drawn = stream(seed, name, "rows").random_raw(-(-size // chunk) * rows).reshape(-1, rows)
    first = (drawn % chunk).astype(np.int64)
    blocks = sums.view(examples, rows, chunk)
    add = add_by_slices if sums.device.type == "cpu" else add_by_gather
    add(blocks, gradients, bits, first, shuffle(seed, chunk))


@lru_cache(maxsize=8)
def shuffle(seed: int, chunk: int) -> np.ndarray:
    """Returns the order in which every chunk is written (chunk,)."""
    return stream(seed, "", f"order of {chunk}").random_raw(chunk).argsort(kind="stable")


def shuffled(order: np.ndarray, size: int) -> np.ndarray:
    """Returns the order of the coordinates of several chunks, of which the last may be shorter.

    >>> shuffled(np.array([2, 0, 1]), 8)
    array([2, 0, 1, 5, 3, 4, 6, 7])
    """
    chunks, rest = divmod(size, len(order))
    whole = order + len(order) * np.arange(chunks)[:, None]
    return np.concatenate([whole.ravel(), order[order < rest] + chunks * len(order)])


def add_by_slices(
    blocks: Tensor, gradients: Tensor, bits: np.ndarray, first: np.ndarray, order: np.ndarray
) -> None:
    """Adds each chunk as two contiguous pieces: up to the last row of the block, and the rest.

    Args:
        blocks: the projected gradients (examples, s, chunk), which this changes; on the CPU.
        gradients: the gradients (examples, size).
        bits: the signs as bits, in the order in which coordinates are written.
        first: the row of each block from which each chunk is written (chunks, s).
        order: the order in which the coordinates of a chunk are written (chunk,).
    """
    out, values = blocks.numpy(), gradients.numpy()
    (examples, rows, chunk), size = out.shape, values.shape[1]
    first_rows = first.tolist()
    scratch = np.empty((min(EXAMPLES, examples), min(CHUNKS * chunk, size)), out.dtype)
    for start in range(0, size, CHUNKS * chunk):
        width = min(CHUNKS * chunk, size - start)
        coordinates = shuffled(order, width)
        signs = signs_of(bits[start // 8 : -(-(start + width) // 8)], rows**-0.5, out.dtype)
        for example in range(0, examples, EXAMPLES):
            few = values[example : example + EXAMPLES, start : start + width]
            signed = scratch[: len(few), :width]
            # Indices are in range; with mode="raise" numpy would copy the result once more.
            np.take(few, coordinates, axis=1, out=signed, mode="clip")
            signed *= signs[:width]
            for block in range(rows):
                target = out[example : example + EXAMPLES, block]
                for at in range(0, width, chunk):
                    piece = signed[:, at : at + chunk]
                    row = first_rows[(start + at) // chunk][block]
                    fits = min(chunk - row, piece.shape[1])
                    target[:, row : row + fits] += piece[:, :fits]
                    target[:, : piece.shape[1] - fits] += piece[:, fits:]


def add_by_gather(
    blocks: Tensor, gradients: Tensor, bits: np.ndarray, first: np.ndarray, order: np.ndarray
) -> None:
    """Adds many chunks at once, row by row; for accelerators, with the arguments of the other.

    An accelerator takes as long to start an operation as to add a thousand chunks.
    """
    (examples, rows, chunk), size = blocks.shape, gradients.shape[1]
    device, dtype = blocks.device, np.float64 if blocks.dtype == torch.float64 else np.float32
    at_once = max(1, GATHERED // (examples * chunk) // 8) * 8
    column = torch.arange(chunk, device=device)
    for begin in range(0, len(first), at_once):
        start, stop = begin * chunk, min((begin + at_once) * chunk, size)
        coordinates = torch.from_numpy(shuffled(order, stop - start)).to(device)
        signs = signs_of(bits[start // 8 : -(-stop // 8)], rows**-0.5, dtype)[: stop - start]
        some = torch.from_numpy(first[begin : begin + at_once]).to(device)
        signed = blocks.new_zeros(examples, len(some) * chunk)
        signed[:, : stop - start] = gradients[:, start:stop].index_select(1, coordinates)
        signed[:, : stop - start] *= torch.from_numpy(signs).to(device)
        for block in range(rows):
            source = (column - some[:, block, None]) % chunk
            source += chunk * torch.arange(len(some), device=device)[:, None]
            moved = signed.index_select(1, source.view(-1))
            blocks[:, block] += moved.view(examples, -1, chunk).sum(1)
