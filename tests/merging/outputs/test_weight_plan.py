"""Tensors are distributed over files in their order; each module has one file of its own."""

import torch

from merging.engine.task import Task
from merging.methods._contract import load
from merging.outputs.weight_plan import index_of, nbytes_of, plan_weight_files


def tasks(*names):
    return [Task(name, (2, 3), torch.float16, load("linear")) for name in names]


def test_files_are_filled_in_order_and_modules_are_apart():
    todo = tasks("2_Dense/w", "a", "b", "2_Dense/v", "x/c")
    files = plan_weight_files(todo, ["2_Dense"], 2 * nbytes_of(todo[0]))
    assert [(file.name, [file.own_name(task) for task in file.tasks]) for file in files] == [
        ("model-00001-of-00002.safetensors", ["a", "b"]),
        ("model-00002-of-00002.safetensors", ["x/c"]),
        ("2_Dense/model.safetensors", ["w", "v"]),
    ]
    assert [file.nbytes for file in files] == [24, 12, 24]
    first, second = (file.name for file in files[:2])
    assert index_of(files) == {
        "metadata": {"total_size": 36},
        "weight_map": {"a": first, "b": first, "x/c": second},
    }


def test_a_single_file_has_no_index():
    files = plan_weight_files(tasks("2_Dense/w", "a"), ["2_Dense"], 1)
    assert [file.name for file in files] == ["model.safetensors", "2_Dense/model.safetensors"]
    assert index_of(files) is None
