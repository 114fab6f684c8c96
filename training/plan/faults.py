"""Faults: everything that is wrong with a plan, with the line of each; and the reading of a plan's YAML."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from plumbing import strict_yaml
from plumbing.strict_yaml import MAX_CHARACTERS, Fault, Keys
from training.errors import TrainingError


@dataclass
class Faults:
    """Everything that is wrong with a plan, gathered, so that it is said at once.

    Attributes:
        file: what the plan is called.
        lines: keys -> line, as far as the text could be read.
        messages: in the order of their lines, each once.
    """

    file: str = "plan"
    lines: dict[Keys, int] = field(default_factory=dict)
    _found: dict[str, int] = field(default_factory=dict)

    def add(self, keys: Keys, message: str) -> None:
        """One more fault, with the line of its keys or of the nearest keys around them."""
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
        self._found.setdefault(f"{', '.join(parts)}: {message}", line)

    @property
    def messages(self) -> list[str]:
        """The messages, by line."""
        return sorted(self._found, key=self._found.__getitem__)

    def raise_any(self) -> None:
        """Raises what was gathered, if anything was.

        Raises:
            PlanError: with every fault on a line of its own.
        """
        if self._found:
            raise PlanError(self.messages)


class PlanError(TrainingError):
    """A plan that cannot be carried out. `faults` holds every reason, the message all of them, one to a line."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = tuple(faults)
        head = f"{len(faults)} things to correct; nothing was trained.\n" if len(faults) > 1 else ""
        super().__init__(head + "\n".join(faults))


def read_document(text: str, faults: Faults) -> dict[str, Any]:
    """The keys and values of a plan's text; {} if it cannot be read at all. Lines and faults go to `faults`."""
    document = strict_yaml.parse(text, exponents=True)
    faults.lines.update(document.lines)
    for fault in document.faults:
        faults.add(fault.keys, _message(fault))
    if any(fault.kind not in ("key", "duplicate") for fault in document.faults):
        return {}
    if not isinstance(document.value, dict):
        faults.add(
            (),
            f"a plan is keys and values (base, sources, schedule); found {str(document.value)[:80]!r}.",
        )
        return {}
    return document.value


def _message(fault: Fault) -> str:
    match fault.kind:
        case "length":
            return f"{fault.detail} characters; at most {MAX_CHARACTERS:,} are read."
        case "alias":
            return f"not valid YAML: line {fault.line}: aliases (*name) are not read; write the value out."
        case "key":
            return f"line {fault.line} has a key that is no text."
        case "duplicate":
            return "occurs twice. Keep one of the two."
        case _:
            return f"not valid YAML: {fault.detail}"
