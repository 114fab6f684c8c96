"""Reads lines with instruction, input and output, as Alpaca's dataset has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from corpus.errors import CorpusError
from corpus.messages import Message, kind


class Instruction(NamedTuple):
    """What is to be done, on which input, and the answer.

    Attributes:
        instruction: the task.
        input: what it is about; "" if the instruction says all.
        output: the answer.
    """

    instruction: str
    input: str
    output: str

    @property
    def prompt(self) -> str:
        """The text before the answer where there is no chat template."""
        lines = [f"Instruction: {self.instruction}"]
        lines += [f"Input: {self.input}"] if self.input else []
        return "\n".join([*lines, "Output:"])

    @property
    def completion(self) -> str:
        """The answer after `prompt`; it begins with white space, see corpus.records.Example."""
        return self.output if self.output[0].isspace() else f" {self.output}"

    @property
    def messages(self) -> tuple[Message, Message]:
        """The user's message and the answer, for a chat template.

        Instruction and input are joined by a line break, as LLaMA-Factory joins them.
        """
        asked = f"{self.instruction}\n{self.input}" if self.input else self.instruction
        return Message("user", asked), Message("assistant", self.output)


def instruction(row: Mapping[str, Any], where: str) -> Instruction:
    """Reads the three fields of a line.

    Args:
        row: the fields of the line.
        where: how messages of errors begin, for example "data.jsonl, line 7".

    Raises:
        CorpusError: a field is missing or has a wrong value; names `where` and the field.
    """
    about = row.get("input")
    if about is not None and not isinstance(about, str):
        raise CorpusError(
            f'{where}, field "input": expected a text, got {kind(about)}. Put it in quotes.'
        )
    about = about if about and about.strip() else ""
    asked = text_field(row, where, "instruction")
    return Instruction(asked, about, text_field(row, where, "output"))


def history(row: Mapping[str, Any], where: str) -> list[Message]:
    """Reads the field `history` of a line: earlier turns, each [what was asked, the answer].

    Raises:
        CorpusError: it is something else.
    """
    pairs = row.get("history") or []
    turns: list[Message] = []
    for at, pair in enumerate(pairs if isinstance(pairs, list) else [pairs]):
        texts = isinstance(pair, list) and [isinstance(text, str) and text.strip() for text in pair]
        if not texts or len(texts) != 2 or not all(texts):
            raise CorpusError(
                f'{where}, field "history[{at}]": expected a list of two texts, what was asked and '
                f"the answer, got {kind(pair)}. Write it so, or remove the field."
            )
        turns += [Message("user", pair[0]), Message("assistant", pair[1])]
    return turns


def text_field(row: Mapping[str, Any], where: str, field: str) -> str:
    """Reads a field that must hold a text with more than white space.

    Raises:
        CorpusError: it does not; names `where` and the field.
    """
    if field not in row:
        fields = ", ".join(sorted(row)) or "no fields"
        raise CorpusError(
            f'{where}, field "{field}": missing (the line has {fields}). Add "{field}" with a text.'
        )
    value = row[field]
    if not isinstance(value, str):
        raise CorpusError(
            f'{where}, field "{field}": expected a text, got {kind(value)}. Put it in quotes.'
        )
    if not value.strip():
        raise CorpusError(f'{where}, field "{field}": empty. Write the {field} or remove the line.')
    return value
