"""Loads benchmark tasks by name: from our suites, the user's folders, or lm-eval's own registry."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from evaluation.errors import TaskError, cause
from evaluation.task_checks import out_of_reach, refuse_code
from plumbing.paths import assets

SUITES = Path(__file__).parent / "suites"
ROOT = assets().parent
"""The folder above assets/, in a clone the repository. Data paths in our suites are relative to it,
so that lm-eval's own command line runs them from there."""


def suites() -> dict[str, Path]:
    """Returns the suites that ship with this package: name -> folder of task files."""
    return {
        folder.name: folder for folder in sorted(SUITES.iterdir()) if any(folder.glob("*.yaml"))
    }


def suite_tasks(suite: str) -> list[str]:
    """Returns the tasks of a suite, sorted. Each has a file of its own name, as its group has."""
    return sorted(file.stem for file in suites()[suite].glob("*.yaml") if file.stem != suite)


def check(names: Sequence[str], include: Sequence[str | Path] = ()) -> Any:
    """Checks that tasks can be run, before their data or a model is loaded.

    Args:
        names: of tasks, groups or tags.
        include: folders of the user's own task files.

    Returns:
        lm-eval's task manager, whose index has all the names.

    Raises:
        TaskError: a name is unknown (the message suggests near ones), a task runs code, or its
            data is neither on this disk nor on a hub that can be reached.
    """
    # Before any task is loaded: loading imports the Python files that !function names.
    for folder in map(Path, include):
        refuse_code(folder)
    manager = _manager(include)
    index = manager.task_index
    if any(name not in index for name in names):
        # The few files that define these tasks are read first, and the whole registry only if
        # nothing in them forbids to run: a refusal then comes 6 s and more earlier.
        _refuse(names, {**_defining_entries(names), **index})
        for name, entry in _registry().items():
            index.setdefault(name, entry)
    for name in names:
        if name not in index:
            close = get_close_matches(name, index, n=3)
            raise TaskError(
                f"unknown task {name!r}. "
                + (f"Did you mean {', '.join(close)}? " if close else "")
                + f"Suites: {', '.join(suites())}; all tasks: lm_eval ls tasks."
            )
    _refuse(names, index)
    return manager


def load(names: Sequence[str], include: Sequence[str | Path] = ()) -> dict[str, Any]:
    """Loads tasks and groups by name, with their data.

    Args:
        names: of tasks, groups or tags.
        include: folders of the user's own task files.

    Returns:
        {"tasks": …, "groups": …}, as lm-eval's `evaluate` takes it.

    Raises:
        TaskError: as `check`; or the hub has no such data set, or a file of the task is missing.
    """
    manager = check(names, include)
    try:
        return dict(manager.load(list(names)))
    except OSError as error:
        # The hub is offline, or the data set is not there or gated; or a local file is missing.
        raise TaskError(_no_data(names, manager.task_index, cause(error))) from None
    except (ImportError, ValueError, KeyError) as error:
        # datasets raises ValueError for a configuration that is not in the cache, and some tasks
        # import packages that are not installed.
        raise TaskError(f"task {', '.join(names)} cannot be loaded: {cause(error)}.") from None


def _refuse(names: Sequence[str], index: Mapping[str, Any]) -> None:
    """Refuses tasks that run code, or whose data is not available. Unknown names are passed over.

    Raises:
        TaskError: naming the task.
    """
    leaves = [leaf for name in names for leaf in _leaves(name, index) if leaf in index]
    for leaf in leaves:
        if (index[leaf].cfg or {}).get("unsafe_code"):
            raise _unsafe(leaf)
    if reason := out_of_reach(_data_sets(leaves, index)):
        raise TaskError(_no_data(names, index, reason))


def refuse_loaded(task: Any) -> None:
    """Refuses a loaded task that runs code, or that shows pictures or sound to the model.

    These properties of a task are not in its YAML file; they are known only after loading.

    Raises:
        TaskError: naming the task.
    """
    if getattr(task, "UNSAFE_CODE", False):
        raise _unsafe(task.task_name)
    if getattr(task, "MULTIMODAL", False):
        raise TaskError(
            f"task {task.task_name!r} shows pictures or sound to the model. "
            "Choose a task of text only."
        )


def _unsafe(name: str) -> TaskError:
    return TaskError(
        f"task {name!r} runs code that the model writes, which is refused. Choose another task."
    )


def _manager(include: Sequence[str | Path]) -> Any:
    """Returns lm-eval's task manager for our suites and the user's folders.

    It takes 20 ms, because the 14,683 names of lm-eval's own registry are left out.
    """
    from lm_eval.tasks import TaskManager

    ours = list(suites().values())
    manager = TaskManager(include_path=[*ours, *map(Path, include)], include_defaults=False)
    for entry in manager.task_index.values():
        if (
            entry.yaml_path is not None
            and entry.yaml_path.parent in ours
            and "dataset_kwargs" in (entry.cfg or {})
        ):
            entry.cfg = _in_memory(entry.cfg)
            # With a path, lm-eval would read the file again and lose this configuration.
            entry.yaml_path = None
    return manager


def _in_memory(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a task configuration that reads its JSONL files itself when the task is loaded.

    Its paths then hold in any working directory, and nothing is written to the datasets cache.
    """
    files = config["dataset_kwargs"]["data_files"]

    def read(**_: Any) -> dict[str, Any]:
        import datasets

        splits = {}
        for split, name in files.items():
            # Not splitlines, which also splits at characters that JSON allows in a string, such as
            # U+2028.
            lines = (ROOT / name).read_text("utf-8").split("\n")
            splits[split] = datasets.Dataset.from_list(
                [json.loads(line) for line in lines if line.strip()]
            )
        return splits

    kept = {
        key: value for key, value in config.items() if key not in ("dataset_path", "dataset_kwargs")
    }
    return kept | {"custom_dataset": read}


@cache
def _registry() -> dict[str, Any]:
    """Returns the index of all tasks that lm-eval has installed. It takes 6 s or more, once."""
    from lm_eval.tasks import TaskManager

    return dict(TaskManager().task_index)


def _defining_entries(names: Sequence[str]) -> dict[str, Any]:
    """Returns the index of the installed task families that define any of these names.

    The 13,986 files are searched as text, which takes about 1 s; parsing all of them takes 6 s or
    more. A family may refer to tasks of another one, so this index is good for an early refusal,
    and the registry remains what tasks are loaded from.
    """
    import lm_eval.tasks

    root = Path(lm_eval.tasks.__file__).parent
    words = "|".join(re.escape(name) for name in names)
    defines = re.compile(
        rf"^\s*(-|task:|group:|tag:)\s*[\"']?({words})[\"']?\s*$".encode(), re.MULTILINE
    )
    # The whole folder of a family, because its task files include each other.
    families = {
        root / file.relative_to(root).parts[0]
        for file in root.rglob("*.yaml")
        if defines.search(file.read_bytes())
    }
    if not families:
        return {}
    manager = lm_eval.tasks.TaskManager(include_path=sorted(families), include_defaults=False)
    return dict(manager.task_index)


def _leaves(name: str, index: Mapping[str, Any]) -> Iterator[str]:
    """Yields the single tasks of a task, tag or group, by their names in the index."""
    entry = index.get(name)
    if entry is None:
        return
    members = sorted(entry.tags) if entry.kind.name == "TAG" else (entry.cfg or {}).get("task")
    if entry.kind.name not in ("TAG", "GROUP") or not isinstance(members, list):
        yield name
        return
    for member in members:
        # A member may be a mapping with settings of its own, which names its task. Without the
        # comparison, a group that names itself would recurse without end.
        inner = member.get("task", member.get("group")) if isinstance(member, dict) else member
        if isinstance(inner, str) and inner != name:
            yield from _leaves(inner, index)


def _data_sets(leaves: Sequence[str], index: Mapping[str, Any]) -> list[str]:
    """Returns the data sets that tasks load, sorted; tasks that bring their own data have none."""
    paths = {(index[leaf].cfg or {}).get("dataset_path") for leaf in leaves}
    return sorted(str(path) for path in paths if path)


def _no_data(names: Sequence[str], index: Mapping[str, Any], reason: str) -> str:
    """Returns the message for tasks whose data is not available; `reason` says why."""
    tasks = ", ".join(names)
    leaves = [leaf for name in names for leaf in _leaves(name, index) if leaf in index]
    needed = _data_sets(leaves, index)
    # A reason that names some of the data sets speaks of these only.
    named = [path for path in needed if path in reason] or needed
    if not named:
        return f"the data of {tasks} cannot be read: {reason}. For suite demo, run: dem demo build"
    return (
        f"task {tasks} needs the data set {', '.join(named)}, which is neither in the local cache "
        f"nor available: {reason}. Run it once with network access, set HF_HOME to a cache that "
        f"holds the data, or choose a suite that needs no network: {', '.join(suites())}."
    )
