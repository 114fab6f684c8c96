"""Parses YAML without aliases, duplicate keys or objects; returns values, lines and faults.

Callers word the faults, because a recipe and a training plan have different readers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import yaml

MAX_CHARACTERS = 200_000
"""The longest text that is parsed."""

Keys = tuple[str | int, ...]
"""The keys that lead to a value: ("sources", "math", "path"), or ("schedule", 0, "kind") in a list.
"""


class Fault(NamedTuple):
    """One thing that is wrong with a text.

    Attributes:
        kind: "length": the text is too long. "alias": it has an alias `*name`. "syntax": it is not
            YAML. "value": a value that Python cannot represent. "key": a key that is not text.
            "duplicate": a key that occurs twice.
        keys: the keys that lead to the fault.
        line: the fault's line, counted from 1; 0 if unknown.
        detail: the parser's own words, or the key.
    """

    kind: Literal["length", "alias", "syntax", "value", "key", "duplicate"]
    keys: Keys
    line: int
    detail: str


@dataclass
class Document:
    """A parsed text.

    Attributes:
        value: the values, with text keys; None if the text could not be read.
        lines: keys -> the line where that value begins, counted from 1.
        faults: everything that is wrong, in the order of the text.
    """

    value: Any = None
    lines: dict[Keys, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)


def parse(text: str, *, exponents: bool = False) -> Document:
    """Parses a text and collects all that is wrong with it; raises nothing.

    Args:
        text: YAML.
        exponents: read 2e-5 as a number, as a person means it. YAML 1.1, and so mergekit, reads it
            as text.
    """
    document = Document()
    if len(text) > MAX_CHARACTERS:
        document.faults.append(Fault("length", (), 0, f"{len(text):,}"))
        return document
    loader = None
    try:
        loader = (_ExponentLoader if exponents else _Loader)(text)
        node = loader.get_single_node()
        document.value = _value(loader, node, (), document) if node else None
    except _Alias as alias:
        document.faults.append(Fault("alias", (), alias.line, ""))
    except yaml.YAMLError as error:
        # The parser calls a text "<unicode string>"; the caller names the file.
        words = str(error).replace('in "<unicode string>", line', "at line")
        document.faults.append(Fault("syntax", (), 0, words))
    # The text is nested too deeply, or has a date that does not exist or a number too long.
    except (RecursionError, TypeError, ValueError) as error:
        document.faults.append(Fault("value", (), 0, str(error)))
    finally:
        if loader is not None:
            loader.dispose()
    return document


def dump(document: dict[str, Any]) -> str:
    """Returns the document as YAML text that `parse` reads."""
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


_PLAIN = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
"""The tags of ordinary mappings and lists."""


class _Alias(Exception):
    """Raised at the first alias, with its line."""

    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


class _Loader(yaml.SafeLoader):
    """Refuses aliases, because a few lines of them expand to gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise _Alias(self.line + 1)
        return super().compose_node(parent, index)


class _ExponentLoader(_Loader):
    """Also reads 2e-5 as a number."""


# The table is copied: add_implicit_resolver would change the lists that all loaders share.
_ExponentLoader.yaml_implicit_resolvers = {
    key: list(value) for key, value in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_ExponentLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


class _Dumper(yaml.SafeDumper):
    """Writes a value that occurs twice out twice, because `parse` refuses aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _value(loader: yaml.SafeLoader, node: yaml.Node, keys: Keys, document: Document) -> Any:
    """Returns the value of a node; records the lines and faults of all that is in it."""
    document.lines.setdefault(keys, node.start_mark.line + 1)
    # A scalar, or a tag such as !!python/object, which the safe loader refuses.
    if node.tag not in _PLAIN:
        return loader.construct_object(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return [
            _value(loader, item, (*keys, number), document)
            for number, item in enumerate(node.value)
        ]
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        # A key stays the text that was written: YAML 1.1 would make true of `on`.
        key, line = str(getattr(key_node, "value", "")), key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            document.faults.append(Fault("key", keys, line, ""))
        elif key in values:
            document.lines[(*keys, key)] = line
            document.faults.append(Fault("duplicate", (*keys, key), line, key))
        else:
            document.lines[(*keys, key)] = line
            values[key] = _value(loader, value_node, (*keys, key), document)
    return values
