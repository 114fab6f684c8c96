"""YAML as a plan may be written: no aliases, no key twice, no objects; and the line on which each key stands."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import yaml

from training.errors import TrainingError

MAX_CHARACTERS = 200_000

Place = tuple[str | int, ...]
"""Where a value stands: ("sources", "math", "path"), or ("schedule", 0, "kind") in a list."""


@dataclass
class Faults:
    """Everything that is wrong with a plan, gathered, so that it is said at once.

    Attributes:
        file: what the plan is called.
        lines: place -> line, as far as the text could be read.
        found: the messages, in the order of their lines, each once.
    """

    file: str = "plan"
    lines: dict[Place, int] = field(default_factory=dict)
    _found: dict[str, int] = field(default_factory=dict)

    def add(self, place: Place, message: str) -> None:
        """One more fault, with the line of its place or of the nearest place around it."""
        known = next((self.lines[place[:end]] for end in range(len(place), -1, -1) if place[:end] in self.lines), 0)
        where = ".".join(map(str, place))
        parts = [self.file, *([f"line {known}"] if known else []), *([where] if where else [])]
        self._found.setdefault(f"{', '.join(parts)}: {message}", known)

    @property
    def found(self) -> list[str]:
        """The messages, by line."""
        return sorted(self._found, key=self._found.__getitem__)

    def raise_any(self) -> None:
        """Raises what was gathered, if anything was.

        Raises:
            PlanError: with every fault on a line of its own.
        """
        if self._found:
            raise PlanError(self.found)


class PlanError(TrainingError):
    """A plan that cannot be carried out. `faults` holds every reason, the message all of them, one to a line."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = tuple(faults)
        head = f"{len(faults)} things to correct; nothing was trained.\n" if len(faults) > 1 else ""
        super().__init__(head + "\n".join(faults))


def parse(text: str, faults: Faults) -> dict[str, Any]:
    """The keys and values of a plan's text; {} when it cannot be read at all. Lines go to faults.lines."""
    if len(text) > MAX_CHARACTERS:
        faults.add((), f"{len(text):,} characters; at most {MAX_CHARACTERS:,} are read.")
        return {}
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        document = _value(loader, node, (), faults) if node else None
    except (yaml.YAMLError, RecursionError, TypeError, ValueError) as error:  # ValueError: a date that is none
        faults.add((), f"not valid YAML: {error}")
        return {}
    finally:
        loader.dispose()
    if not isinstance(document, dict):
        faults.add((), f"a plan is keys and values (base, sources, schedule); found {str(document)[:80]!r}.")
        return {}
    return document


def dump(document: dict[str, Any]) -> str:
    """The document as text that `parse` reads."""
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


def nearest(word: object, known: list[str]) -> str:
    """The hint that follows an unknown word: the nearest known one, or all of them."""
    close = get_close_matches(str(word), known, n=1)
    return f'did you mean "{close[0]}"?' if close else f"known: {', '.join(known)}."


class _Loader(yaml.SafeLoader):
    """YAML without aliases (a few lines of them expand to gigabytes), in which 2e-5 is a number, as a person means it."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            line = self.line + 1
            raise yaml.YAMLError(f"line {line}: aliases (*name) are not read; write the value out.")
        return super().compose_node(parent, index)


_Loader.yaml_implicit_resolvers = {key: list(value) for key, value in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


class _Dumper(yaml.SafeDumper):
    """YAML without aliases: what two places share is written out twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _value(loader: _Loader, node: yaml.Node, place: Place, faults: Faults) -> Any:
    faults.lines.setdefault(place, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_value(loader, item, (*place, number), faults) for number, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key, line = str(getattr(key_node, "value", "")), key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            faults.add(place, f"line {line} has a key that is no text.")
        elif key in found:
            faults.lines[(*place, key)] = line
            faults.add((*place, key), "occurs twice. Keep one of the two.")
        else:
            faults.lines[(*place, key)] = line
            found[key] = _value(loader, value_node, (*place, key), faults)
    return found
