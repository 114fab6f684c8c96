"""What is merged where vocabularies differ: which rows of embeddings and heads belong together, by the text of their tokens.

A recipe says which by `dem.vocabulary`:

    refuse   the default: a checkpoint whose vocabulary is another is an error
    base     such a checkpoint does not move the tensors with a row per token; all their rows are the base's
    union    rows of tokens that base and checkpoint share, wherever their ids are, are merged; rows that only the base
             has are the base's; tokens that a checkpoint added follow the base's, each with the row of the first
             checkpoint in the recipe that has it

No weights are read here. Nothing is cut off without a word: what a choice leaves out stands in the note of its view.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from merging.errors import MismatchError
from merging.inputs.checkpoint import Checkpoint
from merging.inputs.saved_vector import is_saved_vector
from merging.inputs.vector import Vector
from merging.inputs.vocabulary.aligned import Arranged, Fitted, Grown, Layout
from merging.inputs.vocabulary.tokens import TOKENIZER, Difference, difference, token_tables
from merging.paths import is_adapter
from plumbing.suggest import listed


class Arrangement(NamedTuple):
    """A base and its checkpoints over one vocabulary."""

    base: Checkpoint
    tuned: dict[str, Arranged]
    """Those of the checkpoints that are not merged as they are."""

    def fitted(self, vector: Vector) -> Vector:
        """A vector that was made on the base, as one of the base that is here."""
        if isinstance(self.base, Grown) and any(name in vector for name in self.base.tables):
            return Fitted(vector, self.base)
        return vector


class _Input(NamedTuple):
    name: str
    weights: Checkpoint
    difference: Difference


def arrange(base: Checkpoint, folders: Mapping[str, Path], how: str) -> Arrangement:
    """Base and checkpoints as `dem.vocabulary` wants them.

    Args:
        base: Θ.
        folders: name -> folder, in the recipe's order. Adapters and saved vectors have the base's vocabulary already.
        how: 'refuse', 'base' or 'union'. With 'refuse' nothing is arranged, and only numbers of rows are looked at;
            ids are by preflight.

    Raises:
        CheckpointError: when a folder cannot be read.
        MismatchError: when it is refused, or the union cannot be made, with the reason for each checkpoint.
    """
    whole = {name: Checkpoint(folder) for name, folder in folders.items() if is_whole(folder)}
    if how == "refuse":
        others = [
            _Input(name, one, difference(base, one))
            for name, one in whole.items()
            if not same_rows(base, one)
        ]
        if others:
            raise MismatchError("\n".join(" ".join(refusal(base, *one)) for one in others))
        return Arrangement(base, {})
    inputs = [_Input(name, one, difference(base, one)) for name, one in whole.items()]
    if how == "base":
        moved = [one for one in inputs if one.difference.matters and one.difference.tables[0]]
        return Arrangement(base, {one.name: _kept(base, one) for one in moved})
    return _union(base, inputs)


def same_rows(base: Checkpoint, tuned: Checkpoint) -> bool:
    """Whether embeddings have as many rows as the base's, from headers; True too where one of the two has none."""
    rows, tables = token_tables(base)
    return token_tables(tuned, tables)[0] in (rows, 0) or not rows


def is_whole(folder: Path) -> bool:
    """Whether a folder is neither an adapter nor a saved vector, which have the vocabulary of their base."""
    return not (is_adapter(folder) or is_saved_vector(folder))


def refusal(base: Checkpoint, name: str, tuned: Checkpoint, found: Difference) -> tuple[str, str]:
    """What differs between two vocabularies, and the choices there are."""
    (ours, theirs), parts = found.tokens, []
    if found.rows[0] != found.rows[1]:
        parts.append(f"its embeddings have {found.rows[1]:,} rows, the base's {found.rows[0]:,}")
    if found.added:
        parts.append(
            f"its tokenizer adds {len(found.added):,} tokens ({listed(list(found.added), 3)})"
        )
    if found.lost:
        parts.append(f"it lacks {len(found.lost):,} ({listed(list(found.lost), 3)})")
    if found.moved:
        token = found.moved[0]
        parts.append(
            f"{len(found.moved):,} tokens have other ids than in the base: {token!r} is {theirs.ids[token]}, in the base "
            f"{ours.ids[token]}"
        )
    why = _no_union(base, _Input(name, tuned, found))
    union = (
        f"dem.vocabulary: union is not possible here: {why}"
        if why
        else "Or dem.vocabulary: union: rows of shared tokens are merged, and added tokens come along with their rows."
    )
    return (
        f"{name} ({tuned.path}) has another vocabulary: {'; '.join(parts)}.",
        f"Choose in the recipe dem.vocabulary: base: embeddings and head stay the base's. {union}",
    )


def _kept(base: Checkpoint, one: _Input) -> Arranged:
    """A checkpoint with all of the base's rows: it moves none of them."""
    (rows, _), (tables, theirs) = one.difference.rows, one.difference.tables
    return Arranged(
        one.weights,
        Layout.of(np.zeros(rows, np.int64), np.arange(rows)),
        {name: (base.info(name).dtype, [(base, name)]) for name in tables},
        without=theirs,
        note=f"its vocabulary is not the base's, so it does not change {listed(list(tables))}: all rows there are the base's.",
    )


class _New(NamedTuple):
    """A token that is added to the base's."""

    entry: dict[str, Any]
    """Of added_tokens, with its new id."""
    owner: _Input
    row: int
    """Of its owner's embeddings."""


def _union(base: Checkpoint, inputs: list[_Input]) -> Arrangement:
    """Base and checkpoints over the base's tokens and those that checkpoints added."""
    others = [one for one in inputs if one.difference.matters or one.difference.lost]
    differ = {one.name for one in others}
    if wrong := [f"{one.name}: {why}" for one in others if (why := _no_union(base, one))]:
        raise MismatchError(
            "\n".join(
                f"{line} Set dem.vocabulary: base to keep the base's embeddings and head."
                for line in wrong
            )
        )
    new = _added(others)
    grown = _grown(base, others[0].difference.tables[0], new) if new else base
    changed = [one for one in inputs if new or one.name in differ]
    return Arrangement(
        grown,
        {one.name: _shared(base, grown, one, new, other=one.name in differ) for one in changed},
    )


def _no_union(base: Checkpoint, one: _Input) -> str:
    """Why a checkpoint's rows cannot be put in the base's order; empty if they can."""
    (ours, theirs), (rows, _) = one.difference.tokens, one.difference.rows
    if one.difference.missing:
        who = (
            "base and checkpoint have"
            if one.difference.missing == "both"
            else f"{one.difference.missing} has"
        )
        return f"its rows cannot be told apart, for {who} no {TOKENIZER}."
    for name in one.difference.tables[0]:
        twin = _table(one.weights, one.difference.tables[1], name)
        if twin is None or one.weights.info(twin).shape[1:] != base.info(name).shape[1:]:
            return f"{name!r} is missing there or of another width: it is not a fine-tune of this base."
    if foreign := [token for token in one.difference.added if token not in theirs.added]:
        return (
            f"{len(foreign):,} tokens of its vocabulary proper ({listed(foreign, 3)}) are not in the base's: it has "
            "another tokenizer, and only added tokens can be added."
        )
    if one.difference.added and (ours.next_id is None or max(ours.ids.values()) >= rows):
        return "the base's tokenizer has ids out of line or without a row, so that no token can be added to it."
    return ""


def _table(weights: Checkpoint, tables: tuple[str, ...], name: str) -> str | None:
    """Of the tensors with a row for each token, the one that holds the rows of `name`: itself, or the matrix it is tied to."""
    return (
        name
        if name in tables
        else next((one for one in tables if len(weights.info(one).shape) > 1), None)
    )


def _added(others: list[_Input]) -> list[_New]:
    """The tokens to add, in the order in which they are met, with the ids that follow the base's."""
    new: dict[str, _New] = {}
    for one in others:
        (ours, theirs), (_, rows) = one.difference.tokens, one.difference.rows
        for token in one.difference.added:
            if token not in new and theirs.ids[token] < rows:
                entry = {**theirs.added[token], "id": (ours.next_id or 0) + len(new)}
                new[token] = _New(entry, one, theirs.ids[token])
    return list(new.values())


def _grown(base: Checkpoint, tables: tuple[str, ...], new: list[_New]) -> Grown:
    """The base with a row for each token that is added; rows that its tokenizer left free are taken first."""
    rows = base.info(tables[0]).shape[0]
    total = max(rows, new[-1].entry["id"] + 1)
    whose, row = np.zeros(total, np.int64), np.arange(total)
    owners = {token.owner.name: token.owner for token in new}

    def sources(table: str) -> list[tuple[Checkpoint, str]]:
        theirs = [
            (one.weights, _table(one.weights, one.difference.tables[1], table))
            for one in owners.values()
        ]
        return [(base, table), *((weights, name or table) for weights, name in theirs)]

    for token in new:
        at = token.entry["id"]
        whose[at], row[at] = list(owners).index(token.owner.name) + 1, token.row
    ids = f"{new[0].entry['id']} to {new[-1].entry['id']}"
    room = (
        f"the embeddings grow from {rows:,} to {total:,} rows"
        if total > rows
        else "the base has rows to spare"
    )
    return Grown(
        base,
        Layout.of(whose, row),
        {table: (base.info(table).dtype, sources(table)) for table in tables},
        entries=[token.entry for token in new],
        note=f"{len(new):,} tokens are added to its tokenizer ({listed([token.entry['content'] for token in new], 3)}), ids "
        f"{ids}; each has the row of the checkpoint that added it, whatever ω; {room}.",
    )


def _shared(
    base: Checkpoint, grown: Checkpoint, one: _Input, new: list[_New], *, other: bool
) -> Arranged:
    """A checkpoint with the base's rows, its own where both have the token; `other` if their tokenizers differ."""
    (ours, theirs), (rows, their_rows) = one.difference.tokens, one.difference.rows
    total = max(rows, new[-1].entry["id"] + 1) if new else rows
    whose, row = np.zeros(total, np.int64), np.arange(total)
    if other:
        for token, number in ours.ids.items():
            their = theirs.ids.get(token, their_rows)
            if number < rows and their < their_rows:
                whose[number], row[number] = 1, their
    else:
        whose[:rows] = 1
        whose[[token.entry["id"] for token in new]] = 0
    tables: dict[str, tuple[torch.dtype, list[tuple[Checkpoint, str]]]] = {}
    for name in one.difference.tables[1]:
        mine = _table(base, one.difference.tables[0], name) or name
        # the wider of both, so that a row of the base is the base's to the bit
        dtype = torch.promote_types(base.info(mine).dtype, one.weights.info(name).dtype)
        tables[name] = (dtype, [(grown, mine), (one.weights, name)])
    return Arranged(
        one.weights, Layout.of(whose, row), tables, note=_told(one, new) if other else ""
    )


def _told(one: _Input, new: list[_New]) -> str:
    """What the union does with one checkpoint, for the user."""
    found, ours = one.difference, one.difference.tokens[0]
    parts = [
        f"rows of the {len(ours.ids) - len(found.lost):,} tokens that it shares with the base are merged"
    ]
    if found.moved:
        parts.append(f"{len(found.moved):,} of them have other ids there")
    if found.lost:
        parts.append(f"{len(found.lost):,} tokens that it lacks keep the base's rows")
    owners = {token.entry["content"]: token.owner.name for token in new}
    for name in dict.fromkeys(owners.values()):
        if name != one.name and (
            theirs_too := [token for token in found.added if owners.get(token) == name]
        ):
            parts.append(
                f"{len(theirs_too):,} that it added ({listed(theirs_too, 3)}) have the rows of {name}, not its own"
            )
    if rowless := [token for token in found.added if token not in owners]:
        parts.append(
            f"{len(rowless):,} that it added ({listed(rowless, 3)}) have no row and are left out"
        )
    return "; ".join(parts) + "."
