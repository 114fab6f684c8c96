"""Opening a datastore: complete ones only, and zero gradients by name."""

import pytest
import torch

from influence.datastore.store import open_datastore
from influence.datastore.store_writer import DatastoreWriter
from influence.errors import InfluenceError
from tests.influence.datastore.conftest import gradients, settings, written


def test_rows_times_norms_are_the_gradients(small):
    store, values = small
    for checkpoint, expected in enumerate(values):
        rows, norms = store.rows(checkpoint), store.norms(checkpoint)
        assert torch.from_numpy(rows * norms[:, None]).allclose(expected.float(), rtol=1e-5)
        assert norms.dtype == "float32"


def test_a_partial_datastore_is_refused_with_what_is_missing(tmp_path):
    asked = settings()
    with DatastoreWriter(tmp_path, asked) as writer:
        writer.put(0, range(11), gradients(asked)[0])
        writer.put(1, range(10), gradients(asked)[1, :10])
        assert not writer.finish().complete
    with pytest.raises(InfluenceError) as error:
        open_datastore(tmp_path)
    assert str(error.value) == (
        f"The datastore in {tmp_path} is not complete: 21 of 22 rows are written. Missing at "
        "'epoch 2': 1 example of 'p3'. Run the command that stores it once more; it continues "
        "where it stopped."
    )


def test_a_datastore_whose_last_step_is_missing_is_refused_too(small):
    store, _ = small
    (store.folder / "manifest.json").unlink()
    with pytest.raises(InfluenceError, match="is not complete: 22 of 22 rows are written. Run"):
        open_datastore(store.folder)


def test_a_damaged_datastore_is_refused(small):
    store, _ = small
    with (store.folder / "1-rows.bin").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(InfluenceError, match="1-rows.bin has 100 B, not 264 B"):
        open_datastore(store.folder)


def test_zero_gradients_are_named(tmp_path):
    asked = settings()
    values = gradients(asked)
    values[0, 1] = 0
    values[1, 3] = 0
    store = written(tmp_path, asked, values)
    assert store.norms(0)[1] == 0 and not store.rows(0)[1].any()
    with pytest.raises(
        InfluenceError,
        match="and 2 stored gradients are zero: example 2 of 'cot' at 'epoch 1', "
        "example 1 of 'p3' at 'epoch 2'. Leave",
    ):
        store.check_no_zero_gradient()


def test_gradients_that_are_not_zero_can_be_ranked(small):
    small[0].check_no_zero_gradient()
