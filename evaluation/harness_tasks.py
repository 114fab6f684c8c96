"""Names of benchmarks to loaded lm-eval tasks: our suites, the installed registry, and refusals with reasons."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from evaluation.errors import TaskError

SUITES = Path(__file__).parent / "suites"
ROOT = Path(__file__).parents[1]
"""The repository: data paths in our suites are relative to it, so that lm-eval's own command line runs them from there."""


def suites() -> dict[str, Path]:
    """The suites that ship with us, by name."""
    return {
        folder.name: folder for folder in sorted(SUITES.iterdir()) if any(folder.glob("*.yaml"))
    }


def load(names: Sequence[str], include: Sequence[str | Path] = ()) -> dict[str, Any]:
    """Load tasks and groups by name, with their data: {"tasks": …, "groups": …} as lm-eval's `evaluate` takes it.

    Raises:
        TaskError: an unknown name (with near ones), a task that runs code, data that cannot be had.
    """
    for folder in map(Path, include):
        _refuse_code(folder)
    manager = _manager(include)
    if any(name not in manager.task_index for name in names):
        manager.task_index.update(
            {name: entry for name, entry in _registry().items() if name not in manager.task_index}
        )
    index = manager.task_index
    for name in names:
        if name not in index:
            close = get_close_matches(name, index, n=3)
            raise TaskError(
                f"unknown task {name!r}. "
                + (f"Did you mean {', '.join(close)}? " if close else "")
                + f"Suites: {', '.join(suites())}; all tasks: lm_eval ls tasks."
            )
        for leaf in _leaves(name, index):
            if (index[leaf].cfg or {}).get("unsafe_code"):
                raise _unsafe(leaf)
    try:
        return dict(manager.load(list(names)))
    except (
        ConnectionError,
        OSError,
    ) as error:  # hub offline, unreachable, not found or gated; a local file missing
        raise TaskError(_no_data(names, index, error)) from None
    except (ImportError, ValueError, KeyError) as error:
        # datasets raises ValueError for a configuration that is not in the cache; tasks import extra packages
        raise TaskError(f"task {', '.join(names)} cannot be loaded: {_first_line(error)}") from None


def refuse_loaded(task: Any) -> None:
    """Refuse what only a loaded task can tell: tasks written in Python, and those that need pictures or sound.

    Raises:
        TaskError: naming the task.
    """
    if getattr(task, "UNSAFE_CODE", False):
        raise _unsafe(task.task_name)
    if getattr(task, "MULTIMODAL", False):
        raise TaskError(
            f"task {task.task_name!r} shows pictures or sound to the model. Choose a task of text only."
        )


def _unsafe(name: str) -> TaskError:
    return TaskError(
        f"task {name!r} runs code that the model writes, which is refused. Choose another task."
    )


def _manager(include: Sequence[str | Path]) -> Any:
    """lm-eval's index of our suites and the user's folders; without the 14,683 names of the registry it takes 20 ms."""
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
            entry.yaml_path = None  # lm-eval would read the file again
    return manager


def _in_memory(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with its JSONL files read at load, wherever the process runs, and nothing written to a cache."""
    files = config["dataset_kwargs"]["data_files"]

    def read(**_: Any) -> dict[str, Any]:
        import datasets

        splits = {}
        for split, name in files.items():
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
    """The index of all tasks that lm-eval has installed. Reading them takes about 6 s, once per process."""
    from lm_eval.tasks import TaskManager

    return dict(TaskManager().task_index)


def _leaves(name: str, index: dict[str, Any]) -> Iterator[str]:
    """The tasks of a task, tag or group, by their names in the index."""
    entry = index.get(name)
    if entry is None:
        return
    members = sorted(entry.tags) if entry.kind.name == "TAG" else (entry.cfg or {}).get("task")
    if entry.kind.name not in ("TAG", "GROUP") or not isinstance(members, list):
        yield name
        return
    for member in members:
        inner = member.get("task", member.get("group")) if isinstance(member, dict) else member
        if isinstance(inner, str) and inner != name:
            yield from _leaves(inner, index)


def _no_data(names: Sequence[str], index: dict[str, Any], error: Exception) -> str:
    wanted = {
        leaf: (index[leaf].cfg or {}).get("dataset_path")
        for name in names
        for leaf in _leaves(name, index)
    }
    paths = sorted({str(path) for path in wanted.values() if path})
    named = [path for path in paths if path in str(error)] or paths
    if not named:
        return f"the data of {', '.join(names)} cannot be read: {_first_line(error)}. For suite demo, run: dem demo build"
    return (
        f"task {', '.join(names)} needs the data set {', '.join(named)}, which is neither in the local cache nor to be had "
        f"from the hub ({_first_line(error)}). Run it once with network access, or set HF_HOME to a cache that holds it."
    )


def _first_line(error: Exception) -> str:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return next(
        (line.strip() for line in text.splitlines() if line.strip()), type(error).__name__
    ).rstrip(".")


def _refuse_code(folder: Path) -> None:
    """Refuse a folder with a task file that would make lm-eval import and run Python (`!function`, `class:`)."""
    if not folder.is_dir():
        raise TaskError(
            f"{folder} is not a folder. Give one that holds lm-eval task files (*.yaml)."
        )
    for file in sorted(folder.glob("**/*.yaml")):
        if reason := _code(file, set()):
            raise TaskError(
                f"{file} holds {reason}, which runs Python code. Write the task without it, or run it in lm-eval."
            )


def _code(file: Path, seen: set[Path]) -> str | None:
    """What in a task file, or in a file that it includes, runs code; None where nothing does."""
    file = file.resolve()
    if file in seen:
        return None
    seen.add(file)
    try:
        root = yaml.compose(file.read_text("utf-8"), Loader=yaml.SafeLoader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise TaskError(f"{file} is not readable YAML: {_first_line(error)}.") from None
    for node in _nodes(root):
        if node.tag == "!function":
            return "!function"
    entries = root.value if isinstance(root, yaml.MappingNode) else []
    for key, value in entries:
        if key.value == "class":
            return "class"
        if key.value == "include":
            for included in _nodes(value):
                if isinstance(included, yaml.ScalarNode) and (
                    reason := _code(file.parent / included.value, seen)
                ):
                    return reason
    return None


def _nodes(node: Any) -> Iterator[Any]:
    """A YAML node and all below it."""
    yield node
    if isinstance(node, yaml.MappingNode | yaml.SequenceNode):
        for item in node.value:
            for inner in item if isinstance(item, tuple) else (item,):
                yield from _nodes(inner)
