"""Calling a method as the engine does."""

import pytest
import torch

from merging.methods import _contract
from merging.methods._values import Site


def apply(
    name, stack, omegas=None, base=None, *, seeds=None, depth=0.5, dtype=torch.float64, **given
):
    """The method's result on rows of numbers."""
    rows = torch.tensor(stack, dtype=dtype)
    omegas = torch.tensor(omegas or [1.0] * len(rows), dtype=dtype)
    origin = torch.zeros_like(rows[0]) if base is None else torch.tensor(base, dtype=dtype)
    site = Site("model.layers.0.w", origin, depth, seeds or tuple(range(len(rows))))
    return _contract.load(name).combine(
        rows, omegas, site, **_contract.load(name).arguments(given, len(rows))
    )


@pytest.fixture
def combine():
    """apply(name, stack, omegas, base, seeds=…, depth=…, dtype=…, **parameters) -> result."""
    return apply


@pytest.fixture
def close():
    """Whether a result is these numbers, to 1e-12."""

    def check(found, wanted):
        torch.testing.assert_close(
            found, torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=1e-12
        )

    return check
