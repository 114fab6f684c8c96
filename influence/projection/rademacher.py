"""Dense projection: every coordinate goes to all d rows, each with a random sign.

The matrix has entries ±1/√d (Achlioptas, 2003). It is drawn in blocks of coordinates and never
held whole. An example costs d operations for each coordinate.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from influence.projection.signs import WORD, draw_bits, signs_of, stream

BLOCK = 2**20
"""Entries of the matrix that are held at once, 4 MB in float32."""


def add_rademacher(sums: Tensor, gradients: Tensor, seed: int, name: str) -> None:
    """Adds the dense projection of one parameter's gradients.

    Args:
        sums: the projected gradients (examples, d), which this changes.
        gradients: the gradients (examples, size), of the same dtype and device.
        seed: the seed of the projection.
        name: the parameter's name.
    """
    size, dimension = gradients.shape[1], sums.shape[1]
    # Each coordinate has whole words of its own, so BLOCK does not change the matrix.
    words = -(-dimension // WORD)
    generator = stream(seed, name, "signs")
    dtype = np.float64 if sums.dtype == torch.float64 else np.float32
    step = max(1, BLOCK // dimension)
    for start in range(0, size, step):
        piece = gradients[:, start : start + step]
        bits = draw_bits(generator, piece.shape[1] * words).reshape(piece.shape[1], -1)
        matrix = signs_of(bits, dimension**-0.5, dtype)[:, :dimension]
        sums.addmm_(piece, torch.from_numpy(matrix).to(sums.device))
