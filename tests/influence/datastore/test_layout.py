"""The files of a datastore: their sizes, and refusal of damaged ones."""

import numpy as np
import pytest

from influence.datastore.layout import NORMS, ROWS, WRITTEN, part_of, parts_of
from influence.errors import InfluenceError
from tests.influence.datastore.conftest import settings


def test_the_files_of_11_examples_of_6_numbers(tmp_path):
    sizes = {part.file.name: part.nbytes for part in parts_of(tmp_path, settings()).values()}
    each = {"rows": 11 * 6 * 2, "norms": 11 * 4, "written": 11}
    assert sizes == {f"{n}-{name}.bin": count for n in (0, 1) for name, count in each.items()}
    assert part_of(tmp_path, settings(dtype="float32"), 0, ROWS).nbytes == 11 * 6 * 4


def test_numbers_are_little_endian(tmp_path):
    part = part_of(tmp_path, settings(), 1, NORMS)
    part.file.write_bytes(b"\x00\x00\x80\x3f" * 11)
    assert part.mapped().tolist() == [1.0] * 11
    assert isinstance(part.mapped(), np.memmap)


def test_a_damaged_file_is_refused(tmp_path):
    part = part_of(tmp_path, settings(), 0, WRITTEN)
    with pytest.raises(
        InfluenceError, match="0-written.bin is missing, so the datastore is damaged"
    ):
        part.mapped()
    part.file.write_bytes(bytes(10))
    with pytest.raises(InfluenceError, match="0-written.bin has 10 B, not 11 B"):
        part.mapped()
