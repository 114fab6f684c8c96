"""A problem that is reported before a merge, and the problems that a base has by itself."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from merging.folder_files import describe_left_out, folder_files
from merging.inputs.checkpoint import Checkpoint
from merging.inputs.vector import Vector
from merging.inputs.vocabulary.aligned import Grown
from merging.inputs.weight_files import module_folders
from plumbing.suggest import listed


class Problem(NamedTuple):
    """Something that prevents a merge, or that the user should know before it."""

    severity: Literal["error", "warning", "info"]
    subject: str
    """The name of a vector, or 'base', 'recipe', 'disk' or 'memory'."""
    message: str
    """What was found, and what was expected."""
    fix: str = ""
    """What the user can do; empty if nothing, or if the message says it."""

    @property
    def text(self) -> str:
        """Message and fix as one text."""
        return f"{self.message} {self.fix}".strip()


def base_problems(base: Checkpoint) -> list[Problem]:
    """Returns the problems of a base that do not depend on what is merged into it."""
    problems = []
    if keys := code_keys(base.config):
        problems.append(
            Problem(
                "warning",
                "base",
                f"{base.path / 'config.json'} asks for code from the folder ({listed(keys)}). Such "
                "code is never run here, so the model can be merged and exported, but not "
                "evaluated live.",
            )
        )
    if "quantization_config" in base.config:
        message = f"{base.path} is quantised (quantization_config)."
        problems.append(
            Problem("error", "base", message, "Give the full-precision model as the base.")
        )
    if isinstance(base, Grown):
        problems.append(Problem("warning", "base", base.note))
    if left_out := folder_files(base.path, module_folders(base.path)).left_out:
        message = f"Not copied from {base.path} into an export: {describe_left_out(left_out)}."
        problems.append(Problem("info", "base", message))
    return problems


def told(vectors: Mapping[str, Vector]) -> list[Problem]:
    """Returns what the user should know of how each vector was read, such as renamed tensors."""
    return [
        Problem("info", name, f"{name}: {note}")
        for name, vector in vectors.items()
        # A vector of a base with added tokens holds the one that was read.
        for note in getattr(vector, "inner", vector).notes
    ]


def code_keys(config: Any) -> list[str]:
    """Returns the keys, at any depth, that make a loader run code from the model's folder."""
    keys, rest = [], [config]
    while rest:  # no recursion: a stranger's file may be nested as deep as its reader allows
        node = rest.pop()
        if isinstance(node, dict):
            keys += [
                key
                for key in node
                if key in ("auto_map", "trust_remote_code", "custom_pipelines") and node[key]
            ]
            rest += node.values()
        elif isinstance(node, list):
            rest += node
    return keys
