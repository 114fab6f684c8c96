"""Plans the weight files of an export: which tensors each holds, and the index of several."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from merging.engine.task import Task
from merging.inputs.weight_files import folder_of
from merging.paths import SINGLE


class WeightFile(NamedTuple):
    """A weight file and its tensors."""

    name: str
    """Relative to the export, such as model.safetensors or 2_Dense/model.safetensors."""
    tasks: tuple[Task, ...]
    folder: str = ""
    """The sub-folder; empty for the top folder."""

    def own_name(self, task: Task) -> str:
        """Returns the name of a tensor in this file, without the sub-folder."""
        return task.name.removeprefix(f"{self.folder}/") if self.folder else task.name

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(nbytes_of(task) for task in self.tasks)


def nbytes_of(task: Task) -> int:
    """Returns the bytes of one tensor of the merged model."""
    return task.numel * task.out_dtype.itemsize


def plan_weight_files(
    todo: Sequence[Task], folders: Collection[str], shard_bytes: int
) -> list[WeightFile]:
    """Distributes tensors over files, in order, named as transformers names them.

    Args:
        todo: the tensors.
        folders: the sub-folders with weights of the base; see Checkpoint.folders. Each gets one
            file, because sentence-transformers reads no index.
        shard_bytes: the largest number of bytes in a file of the top folder, unless a single tensor
            is larger.
    """
    groups: list[list[Task]] = [[]]
    inside: dict[str, list[Task]] = {}
    filled = 0
    for task in todo:
        if at := folder_of(task.name, folders):
            inside.setdefault(at, []).append(task)
            continue
        if groups[-1] and filled + nbytes_of(task) > shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(task)
        filled += nbytes_of(task)
    count = len(groups)
    top = [
        WeightFile(
            SINGLE if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors", tuple(group)
        )
        for number, group in enumerate(groups, 1)
    ]
    return top + [WeightFile(f"{at}/{SINGLE}", tuple(group), at) for at, group in inside.items()]


def index_of(files: Sequence[WeightFile]) -> dict[str, Any] | None:
    """Returns the content of the index of the top folder; None if it has a single weight file."""
    top = [file for file in files if not file.folder]
    if len(top) == 1:
        return None
    weight_map = {task.name: file.name for file in top for task in file.tasks}
    total = sum(file.nbytes for file in top)
    return {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
