"""Workspace: memory is reused for pieces, and only for pieces."""

from contextlib import ExitStack

import pytest
import torch

from merging.engine import kernel
from merging.engine.workspace import Workspace


@pytest.fixture
def workspace():
    return Workspace(most=97)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_rows_have_the_asked_shape_and_dtype(workspace, dtype):
    rows = workspace.rows(3, 89, dtype)
    assert rows.shape == (3, 89) and rows.dtype == dtype and rows.is_contiguous()


def test_pieces_share_memory_and_it_grows_when_it_must(workspace):
    first = workspace.rows(3, 89, torch.float32)
    assert workspace.rows(2, 97, torch.float32).data_ptr() == first.data_ptr()
    larger = workspace.rows(5, 97, torch.float32)
    assert larger.shape == (5, 97)
    assert workspace.rows(3, 89, torch.float32).data_ptr() == larger.data_ptr()


def test_a_tensor_larger_than_a_piece_has_memory_of_its_own(workspace):
    kept = workspace.rows(3, 97, torch.float32)
    whole = workspace.rows(3, 98, torch.float32)
    assert whole.shape == (3, 98)
    assert whole.untyped_storage().data_ptr() != kept.untyped_storage().data_ptr()
    assert workspace.rows(3, 97, torch.float32).data_ptr() == kept.data_ptr()


def test_slices_hold_what_the_compiled_loop_reads(workspace):
    assert workspace.slices(2).nbytes >= kernel.scratch_bytes(2)


def test_each_input_keeps_a_buffer_of_its_own(workspace):
    with ExitStack() as files:
        reader = workspace.reader(files)
        addresses = [reader.buffer(number).data_ptr() for number in (0, 1, 2)]
        assert len(set(addresses)) == 3
        assert [reader.buffer(number).data_ptr() for number in (0, 1, 2)] == addresses
        assert reader.buffer(2).dtype == torch.uint8 and reader.buffer(2).nbytes == 4 * 97
        assert reader.scratch is workspace.scratch and reader.files is files
