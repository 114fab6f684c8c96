"""A small datastore: 2 checkpoints, sources of 3 and 8 examples, 6 numbers each."""

import numpy as np
import pytest
import torch

from influence.datastore.store import open_datastore
from influence.datastore.store_settings import StoredCheckpoint, StoredSource, StoreSettings
from influence.datastore.store_writer import DatastoreWriter
from influence.projection.projector import Projection


def settings(sources=(("cot", 3), ("p3", 8)), rates=(3e-5, 1e-5), dimension=6, **values):
    return StoreSettings(
        sources=tuple(StoredSource(name, count, f"digest of {name}") for name, count in sources),
        checkpoints=tuple(
            StoredCheckpoint(f"epoch {number}", f"digest {number}", rate)
            for number, rate in enumerate(rates, start=1)
        ),
        kind="sgd",
        projection=Projection("rademacher", dimension),
        tokenisation={"max_length": 256},
        **values,
    )


def gradients(asked, seed=0):
    """Gradients of all examples at each checkpoint, of lengths from 1e-6 to 1e6."""
    generator = np.random.default_rng(seed)
    shape = (len(asked.checkpoints), asked.examples, asked.projection.dimension)
    lengths = 10.0 ** generator.integers(-6, 7, shape[:2])[..., None]
    return torch.from_numpy(generator.standard_normal(shape) * lengths)


def written(folder, asked, values):
    """The complete datastore of some gradients."""
    with DatastoreWriter(folder, asked) as writer:
        for checkpoint, rows in enumerate(values):
            writer.put(checkpoint, range(len(rows)), rows)
        assert writer.finish().complete
    return open_datastore(folder)


@pytest.fixture
def small(tmp_path):
    """(the datastore, its gradients in float64)"""
    asked = settings(dtype="float32")
    return written(tmp_path / "small", asked, gradients(asked)), gradients(asked)
