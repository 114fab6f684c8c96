"""Collects everything that is wrong with a plan, each with its line, and reads a plan's YAML."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from plumbing import strict_yaml
from plumbing.strict_yaml import MAX_CHARACTERS, Fault, Keys
from training.errors import TrainingError


@dataclass
class Faults:
    """A collection of everything that is wrong with a plan, so that it is reported at once.

    Attributes:
        file: name of the plan's file, for messages.
        lines: keys of a value -> its line, counted from 1. Empty if the plan was not read from
            text.
    """

    file: str = "plan"
    lines: dict[Keys, int] = field(default_factory=dict)
    _line_of: dict[str, int] = field(default_factory=dict)

    def add(self, keys: Keys, message: str) -> None:
        """Adds a fault; the same message at the same keys is kept once.

        Args:
            keys: the keys that lead to the value, ("settings", "rate") for example; () for the
                whole plan. A key that is missing in the text gets the line of the keys around it.
            message: what is wrong with the value.
        """
        line = next(
            (
                self.lines[keys[:end]]
                for end in range(len(keys), -1, -1)
                if keys[:end] in self.lines
            ),
            0,
        )
        path = ".".join(map(str, keys))
        parts = [self.file, *([f"line {line}"] if line else []), *([path] if path else [])]
        self._line_of.setdefault(f"{', '.join(parts)}: {message}", line)

    @property
    def messages(self) -> list[str]:
        """The messages in the order of their lines, each with its file, line and keys."""
        # sorted is stable, so faults of one line stay in the order in which they were found.
        return sorted(self._line_of, key=self._line_of.__getitem__)

    def raise_any(self) -> None:
        """Raises a PlanError if there are faults.

        Raises:
            PlanError: with every fault on a line of its own.
        """
        if self._line_of:
            raise PlanError(self.messages)


class PlanError(TrainingError):
    """A plan cannot be carried out.

    Attributes:
        faults: every reason; the message of the error holds one per line.
    """

    def __init__(self, faults: list[str]) -> None:
        self.faults = tuple(faults)
        head = f"{len(faults)} things to correct; nothing was trained.\n" if len(faults) > 1 else ""
        super().__init__(head + "\n".join(faults))


def read_document(text: str, faults: Faults) -> dict[str, Any]:
    """Parses a plan's YAML without interpreting it.

    Args:
        text: YAML. 2e-5 is read as a number, as a person means it.
        faults: gets the line of each value, and what is wrong with the YAML.

    Returns:
        The keys and values of the plan; {} if the text cannot be read at all.
    """
    # YAML 1.1 reads 2e-5 as text, and learning rates are written like that.
    document = strict_yaml.parse(text, exponents=True)
    faults.lines.update(document.lines)
    for fault in document.faults:
        faults.add(fault.keys, _message(fault))
    # A bad or duplicate key leaves the rest readable, so that its faults are reported too.
    if any(fault.kind not in ("key", "duplicate") for fault in document.faults):
        return {}
    if not isinstance(document.value, dict):
        faults.add(
            (),
            "a plan is keys and values (base, sources, schedule); "
            f"found {str(document.value)[:80]!r}.",
        )
        return {}
    return document.value


def _message(fault: Fault) -> str:
    """Words a fault of the YAML for the author of a plan."""
    match fault.kind:
        case "length":
            return (
                f"the plan has {fault.detail} characters; at most {MAX_CHARACTERS:,} are read. "
                "Make it shorter."
            )
        case "alias":
            return (
                f"not valid YAML: line {fault.line}: aliases (*name) are not allowed. "
                "Write the value out."
            )
        case "key":
            return f"line {fault.line} has a key that is not text. Put the key in quotes."
        case "duplicate":
            return "occurs twice. Keep one of the two."
        case _:
            return f"not valid YAML: {fault.detail}"
