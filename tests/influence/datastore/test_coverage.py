"""What is written of a datastore, in numbers and in words."""

import pytest

from influence.datastore.coverage import read_coverage
from influence.datastore.store_writer import DatastoreWriter
from influence.errors import InfluenceError
from tests.influence.datastore.conftest import gradients, settings


def test_coverage_of_a_datastore_that_is_being_written(tmp_path):
    asked = settings()
    with DatastoreWriter(tmp_path, asked) as writer:
        writer.put(0, range(11), gradients(asked)[0])
        writer.put(1, [4, 2], gradients(asked)[1, [4, 2]])
        assert read_coverage(tmp_path).written == 0  # not on the disk yet
        writer.flush()
        coverage = read_coverage(tmp_path)
    assert [tuple(part) for part in coverage.parts] == [
        ("epoch 1", "cot", 3, 3),
        ("epoch 1", "p3", 8, 8),
        ("epoch 2", "cot", 1, 3),
        ("epoch 2", "p3", 1, 8),
    ]
    assert (coverage.written, coverage.rows, coverage.complete) == (13, 22, False)
    assert coverage.text() == (
        "13 of 22 rows are written. Missing at 'epoch 2': 2 examples of 'cot', 7 examples of 'p3'."
    )


def test_coverage_of_a_complete_datastore(small):
    store, _ = small
    coverage = read_coverage(store.folder)
    assert coverage.complete
    assert coverage.text() == "22 of 22 rows are written."


def test_a_folder_without_a_datastore_is_refused(tmp_path):
    with pytest.raises(InfluenceError, match="There is no datastore in .* Store gradients first"):
        read_coverage(tmp_path)
