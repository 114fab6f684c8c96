"""Disk and memory against need, with numbers, from headers only: the files here claim terabytes and are sparse."""

import json
import struct

import pytest
import torch

from merging import Checkpoint, MismatchError, Recipe, prepare
from merging.engine.loop import BLOCK
from merging.engine.task import Task
from merging.methods._contract import load
from merging.preflight import room
from merging.preflight.room import disk, free_memory, memory, memory_need

NAME = "model.layers.0.mlp.up_proj.weight"
ROWS, COLUMNS = 2**20, 2**20
"""A matrix of 4.4 TB in float32."""


def task_of(shape, dtype, method, vectors, depth=0.5):
    """A task of a method with its defaults, in a layer."""
    loaded = load(method)
    arguments = tuple(sorted(loaded.arguments({}, len(vectors)).items()))
    return Task(NAME, shape, dtype, loaded, vectors, arguments=arguments, depth=depth)


@pytest.fixture
def huge(tmp_path):
    """A base and two fine-tunes of one matrix of terabytes, of which the disk holds nothing."""

    def write(name, byte):
        folder = tmp_path / name
        folder.mkdir()
        size = ROWS * COLUMNS * 4
        entry = {NAME: {"dtype": "F32", "shape": [ROWS, COLUMNS], "data_offsets": [0, size]}}
        text = json.dumps(entry).encode()
        text += b" " * (-len(text) % 8)
        with (folder / "model.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text + byte)
            try:
                file.truncate(8 + len(text) + size)
            except OSError:
                pytest.skip("this file system has no sparse files of 4 TB")
        return folder

    return [write(name, byte) for name, byte in (("base", b"\1"), ("one", b"\2"), ("two", b"\3"))]


def recipe_of(folders, method):
    base, *rest = folders
    recipe = Recipe.compose(
        base, {path.name: path for path in rest}, {path.name: 0.5 for path in rest}
    )
    return recipe.with_method(method, {})


def test_memory_for_a_method_that_needs_whole_tensors_is_an_error_with_numbers(huge):
    with pytest.raises(MismatchError) as caught:
        prepare(recipe_of(huge, "tsv"))
    need = (2 + 2) * 4 * ROWS * COLUMNS / 1e9
    assert str(caught.value).startswith(
        f"tsv needs the whole of {NAME} and of 2 deltas of it at once, {need:.2f} GB; "
    )
    assert (
        "GB of memory are free. Close other programs, or choose a method that works in blocks"
        in str(caught.value)
    )


def test_a_method_in_blocks_needs_little_memory_but_the_disk_all_the_same(huge, tmp_path):
    recipe = recipe_of(huge, "task_arithmetic")
    assert [one.severity for one in prepare(recipe).problems if one.subject == "memory"] == []
    with pytest.raises(
        MismatchError,
        match=r"GB free, the export needs 4486\.\d\d GB\. Free some, choose a smaller",
    ):
        prepare(recipe, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("method", "vectors", "dtype", "need"),
    [
        ("task_arithmetic", ("a", "b", "c"), torch.bfloat16, 5 * 4 * BLOCK),
        ("task_arithmetic", ("a",), torch.float64, 3 * 8 * BLOCK),
        ("tsv", ("a", "b", "c"), torch.bfloat16, 5 * 4 * 521 * 1031),
        ("tsv", ("a",), torch.float64, 3 * 8 * 521 * 1031),
        ("tsv", (), torch.float32, 2 * 4 * BLOCK),
    ],
)
def test_the_need_by_hand(tmp_path, write, method, vectors, dtype, need):
    base = Checkpoint(write(tmp_path / "base", {NAME: torch.zeros(521, 1031, dtype=dtype)}))
    task = task_of((521, 1031), dtype, method, vectors)
    assert memory_need(task, base) == need
    assert memory([task], base, need) == []
    (problem,) = memory([task], base, need - 1)
    assert (problem.severity, problem.subject) == (
        "error",
        "memory",
    ) and f"{need / 1e9:.2f} GB" in problem.message


def test_what_a_method_averages_is_computed_in_blocks(tmp_path, write):
    base = Checkpoint(write(tmp_path / "base", {NAME: torch.zeros(521, 1031)}))
    outside = task_of((521, 1031), torch.float32, "tsv", ("a", "b"), depth=None)
    assert memory_need(outside, base) == 4 * 4 * BLOCK


def test_small_tensors_need_no_more_than_they_have(tmp_path, write):
    base = Checkpoint(write(tmp_path / "base", {NAME: torch.zeros(3, 5)}))
    assert (
        memory_need(Task(NAME, (3, 5), torch.float32, load("task_arithmetic"), ("a",)), base)
        == 3 * 4 * 15
    )


def test_nothing_to_do_needs_nothing(tmp_path, write):
    assert memory([], Checkpoint(write(tmp_path / "base", {NAME: torch.zeros(3, 5)})), 0) == []


def test_room_on_the_disk_is_no_problem(tmp_path):
    task = Task(NAME, (3, 5), torch.float32, load("task_arithmetic"))
    assert disk([task], tmp_path / "out") == []
    (problem,) = disk([task], tmp_path)
    assert problem.subject == "disk" and "exists. Give a new folder" in problem.message


class TestFreeMemory:
    def system(self, root, limit=None):
        (root / "proc").mkdir()
        (root / "proc" / "meminfo").write_text(
            "MemTotal: 9000 kB\nMemAvailable: 5000 kB\nSwapFree: 7 kB\nHuge: 3\n"
        )
        if limit is not None:
            group = root / "sys" / "fs" / "cgroup"
            group.mkdir(parents=True)
            (group / "memory.max").write_text(f"{limit}\n")
            (group / "memory.current").write_text("2048000\n")
            (group / "memory.stat").write_text("anon 1024000\ninactive_file 1000\n")
        return root

    def test_it_is_what_the_system_has_with_swap(self, tmp_path):
        assert free_memory(self.system(tmp_path)) == 5007 * 1024

    def test_a_limit_of_the_control_group_counts(self, tmp_path):
        assert free_memory(self.system(tmp_path, 3_000_000)) == 3_000_000 - 2_048_000 + 1000

    def test_a_limit_that_is_used_up(self, tmp_path):
        assert free_memory(self.system(tmp_path, 2_000_000)) == 0

    def test_no_limit(self, tmp_path):
        assert free_memory(self.system(tmp_path, "max")) == 5007 * 1024

    def test_without_proc_nothing_is_known_and_nothing_refused(self, tmp_path, write):
        assert free_memory(tmp_path) is None

    def test_here_it_is_plausible(self):
        assert free_memory() is None or 2**20 < free_memory() < 2**50


def test_where_memory_is_unknown_nothing_is_refused(tmp_path, write, monkeypatch):
    base = Checkpoint(write(tmp_path / "base", {NAME: torch.zeros(3, 5)}))
    monkeypatch.setattr(room, "free_memory", lambda: None)
    assert memory([task_of((3, 5), torch.float32, "tsv", ("a",))], base) == []
