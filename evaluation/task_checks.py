"""Checks benchmark tasks before they are loaded: is their data available, do their files run code?

Without the first check a task whose data has to be downloaded keeps its user waiting: offline, the
`datasets` library asks for 37 s before it gives up.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import yaml

from evaluation.errors import TaskError, cause

PATIENCE = 3.0
"""Seconds to wait for the hub to accept a connection."""


def out_of_reach(data_sets: Sequence[str], *, patience: float = PATIENCE) -> str | None:
    """Returns why data sets cannot be loaded; None if nothing speaks against it.

    The hub is asked only if one of the data sets is not on this disk.

    Args:
        data_sets: as `datasets.load_dataset` takes them: a hub id, a local path, or a file format.
        patience: seconds to wait for the hub.
    """
    import datasets

    if all(map(is_local, data_sets)):
        return None
    if datasets.config.HF_HUB_OFFLINE:
        return "the network is switched off (HF_HUB_OFFLINE)"
    reason = connection_failure(datasets.config.HF_ENDPOINT, patience)
    return None if reason is None else f"{datasets.config.HF_ENDPOINT} cannot be reached: {reason}"


def is_local(data_set: str) -> bool:
    """Whether a data set needs no download: a file format, a path on this disk, or a cached id."""
    import datasets
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    if data_set in _PACKAGED_DATASETS_MODULES or Path(data_set).exists():
        return True
    # `datasets` keeps its Arrow files in one cache, the hub's client the downloaded files in
    # another. An interrupted download may leave an empty folder in either, so files are looked for.
    arrow = Path(datasets.config.HF_DATASETS_CACHE) / data_set.replace("/", "___")
    hub = Path(os.environ.get("HF_HUB_CACHE") or Path(datasets.config.HF_CACHE_HOME) / "hub")
    downloads = hub.expanduser() / f"datasets--{data_set.replace('/', '--')}" / "snapshots"
    return any(arrow.rglob("*.arrow")) or any(downloads.glob("*/*"))


def connection_failure(endpoint: str, patience: float) -> str | None:
    """Returns why no connection to a web address can be opened; None if one can.

    Nothing is sent. If a proxy is configured the address is not tried: only the proxy can tell.

    Args:
        endpoint: such as "https://huggingface.co".
        patience: seconds; an address that has not answered by then counts as out of reach.
    """
    if {"http", "https", "all"} & set(getproxies()):
        return None
    address = urlsplit(endpoint)
    port = address.port or (80 if address.scheme == "http" else 443)
    outcome: list[str | None] = []

    def connect() -> None:
        try:
            socket.create_connection((address.hostname or "", port), timeout=patience).close()
            outcome.append(None)
        except OSError as error:
            outcome.append(error.strerror or str(error) or type(error).__name__)

    # In a thread, because looking up a name has no time limit of its own.
    # A daemon, so that a name server that never answers does not keep the process alive.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(patience)
    return outcome[0] if outcome else f"no answer within {patience:g} s"


def refuse_code(folder: Path) -> None:
    """Refuses a folder with a task file that makes lm-eval run Python (`!function`, `class:`).

    Raises:
        TaskError: naming the file and the key; or `folder` is not a folder.
    """
    if not folder.is_dir():
        raise TaskError(
            f"{folder} is not a folder. Give one that holds lm-eval task files (*.yaml)."
        )
    # The files that lm-eval indexes: all YAML files below the folder.
    for file in sorted(folder.glob("**/*.yaml")):
        if reason := _code(file, set()):
            raise TaskError(
                f"{file} holds {reason}, which runs Python code. "
                "Write the task without it, or run it in lm-eval."
            )


def _code(file: Path, seen: set[Path]) -> str | None:
    """Returns the key or tag by which a task file, or a file it includes, runs code; None if none.

    Args:
        file: the task file.
        seen: files that were looked at already; files may include each other in a circle.
    """
    file = file.resolve()
    if file in seen:
        return None
    seen.add(file)
    try:
        # Composed and not loaded: the safe loader fails at a tag such as !function, while a node
        # shows it.
        root = yaml.compose(file.read_text("utf-8"), Loader=yaml.SafeLoader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise TaskError(f"{file} is not readable YAML: {cause(error)}.") from None
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
    """Yields a YAML node and all nodes below it."""
    yield node
    if isinstance(node, yaml.MappingNode | yaml.SequenceNode):
        for item in node.value:
            # An item of a mapping is a pair of key and value, one of a sequence is a node.
            for inner in item if isinstance(item, tuple) else (item,):
                yield from _nodes(inner)
