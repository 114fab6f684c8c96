"""The dtypes of a merge: their names in recipes, the one to compute in, and the quantised ones."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from merging.errors import RecipeError
from plumbing.suggest import nearest

DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}
"""Name in recipes and flags -> dtype of torch."""

ALIASES = {
    "float16": ("fp16", "f16", "half"),
    "bfloat16": ("bf16", "bfp16"),
    "float32": ("fp32", "f32", "float", "single", "full"),
    "float64": ("fp64", "f64", "double"),
}
"""Name -> what other tools call it. Such words are suggested for, not accepted, as in mergekit."""

QUANTISED = (torch.float8_e4m3fn, torch.float8_e5m2)
"""Dtypes of quantised weights, which cannot be merged."""


def nearest_dtype(word: object, known: Iterable[str] = tuple(DTYPES)) -> str:
    """Returns the hint that follows an unknown dtype: the one that was meant, or all of them.

    >>> nearest_dtype("half"), nearest_dtype("fp8")
    ("did you mean 'float16'?", 'known: bfloat16, float16, float32, float64')
    """
    names = tuple(known)
    plain = str(word).lower().removeprefix("torch.")
    for name in names:
        if plain in (name, *ALIASES[name]):
            return f"did you mean {name!r}?"
    return nearest(plain, names)


def check_dtype(raw: object, key: str) -> str:
    """Returns a dtype's name, without the prefix `torch.`.

    Args:
        raw: what was given.
        key: how the message calls it: a recipe's key or a flag.

    Raises:
        RecipeError: not one of DTYPES; suggests 'float16' for fp16 or half, and so on.
    """
    # mergekit accepts torch.bfloat16 for bfloat16 too.
    name = raw.removeprefix("torch.") if isinstance(raw, str) else raw
    if isinstance(name, str) and name in DTYPES:
        return name
    hint = nearest_dtype(raw)
    suggestion = f"; {hint}" if hint.startswith("did") else "."
    raise RecipeError(f"{key} is {raw!r}, expected one of {', '.join(DTYPES)}{suggestion}")


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """Returns the dtype to compute a tensor in: float64 if the base is float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
