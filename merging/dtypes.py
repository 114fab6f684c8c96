"""DTYPES, working_dtype(), QUANTISED."""

from __future__ import annotations

import torch

DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}


QUANTISED = (torch.float8_e4m3fn, torch.float8_e5m2)


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which a tensor is computed: float32, or float64 where the base itself is float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32
