"""`import merging` looks for no garbage in torch, and leaves the collector as it was."""

import gc
import importlib
import subprocess
import sys

import pytest

from merging import torch_import

COUNTED = """
import gc
found = []
gc.callbacks.append(lambda phase, info: found.append(info["generation"]) if phase == "start" else None)
import merging
print(max(found, default=0), gc.isenabled(), gc.get_freeze_count())
"""


def test_nothing_old_is_looked_through():
    """Without it, three collections of everything that torch has made run while it is imported."""
    found = subprocess.run(
        [sys.executable, "-c", COUNTED], capture_output=True, text=True, check=True
    ).stdout.split()
    assert int(found[0]) < 2
    assert found[1:] == ["True", "0"]


@pytest.mark.parametrize("collecting", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_the_collector_is_left_as_it_was(collecting, frozen):
    assert gc.isenabled() and not gc.get_freeze_count()
    try:
        if not collecting:
            gc.disable()
        if frozen:
            gc.freeze()
        importlib.reload(torch_import)
        assert (gc.isenabled(), bool(gc.get_freeze_count())) == (collecting, frozen)
    finally:
        gc.unfreeze()
        gc.enable()
