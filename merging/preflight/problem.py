"""Problem: one thing that a report before a merge tells; and the problems that a base has by itself."""

from typing import Any, Literal, NamedTuple

from merging.inputs.checkpoint import Checkpoint
from merging.inputs.vocabulary.aligned import Grown
from plumbing.suggest import listed


class Problem(NamedTuple):
    """One thing that stands in the way of a merge, or that the user should know."""

    severity: Literal["error", "warning", "info"]
    subject: str
    """The vector, or 'base', 'recipe', 'disk', 'memory'."""
    message: str
    """What was found, and what was expected."""
    fix: str = ""
    """What to do, and the choices there are; empty where there is nothing to do, or the message says it already."""

    @property
    def text(self) -> str:
        """Message and fix as one."""
        return f"{self.message} {self.fix}".strip()


def of_base(base: Checkpoint) -> list[Problem]:
    """What is to say of a base, whatever is merged into it."""
    problems = []
    if keys := code_keys(base.config):
        problems.append(
            Problem(
                "warning",
                "base",
                f"{base.path / 'config.json'} asks for code from the folder ({listed(keys)}). It is never run here, so the "
                "model can be merged and exported but not evaluated live.",
            )
        )
    if "quantization_config" in base.config:
        message = f"{base.path} is quantised (quantization_config)."
        problems.append(
            Problem("error", "base", message, "Give the full-precision model as the base.")
        )
    if isinstance(base, Grown):
        problems.append(Problem("warning", "base", base.note))
    return problems


def code_keys(config: Any) -> list[str]:
    """The keys of a configuration, at any depth, that make a loader run code from the folder."""
    found, rest = [], [config]
    while rest:  # no recursion: a stranger's file may be nested as deep as its reader allows
        node = rest.pop()
        if isinstance(node, dict):
            found += [
                key
                for key in node
                if key in ("auto_map", "trust_remote_code", "custom_pipelines") and node[key]
            ]
            rest += node.values()
        elif isinstance(node, list):
            rest += node
    return found
