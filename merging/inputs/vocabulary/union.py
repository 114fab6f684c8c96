"""The union of vocabularies: rows of shared tokens are merged, and added tokens are kept.

Rows of tokens that only the base has stay the base's. Tokens that a checkpoint added follow the
base's; each gets the row of the first checkpoint in the recipe that has it. No weights are read.
"""

from typing import Any, NamedTuple

import numpy as np
import torch

from merging.errors import MismatchError
from merging.inputs.checkpoint import Checkpoint
from merging.inputs.vocabulary.aligned import Arranged, Grown, Layout
from merging.inputs.vocabulary.tokens import TOKENIZER, Difference
from plumbing.suggest import listed


class TunedInput(NamedTuple):
    """A full checkpoint, and how its vocabulary differs from the base's."""

    name: str
    weights: Checkpoint
    difference: Difference


class _New(NamedTuple):
    """A token that the union adds to the base's vocabulary."""

    entry: dict[str, Any]
    """Its entry in added_tokens, with its new id."""
    owner: TunedInput
    """The checkpoint whose row it gets."""
    row: int
    """The row in the owner's embeddings."""


def unite(base: Checkpoint, inputs: list[TunedInput]) -> tuple[Checkpoint, dict[str, Arranged]]:
    """Brings base and checkpoints to the base's tokens and those that checkpoints added.

    Args:
        base: Θ.
        inputs: the full checkpoints, in the recipe's order.

    Returns:
        the base, grown if tokens were added; and name -> view, for the checkpoints that cannot be
        merged as they are.

    Raises:
        MismatchError: if it is not possible, with the reason for each checkpoint.
    """
    others = [tuned for tuned in inputs if tuned.difference.matters or tuned.difference.lost]
    differ = {tuned.name for tuned in others}
    wrong = [f"{tuned.name}: {why}" for tuned in others if (why := why_no_union(base, tuned))]
    if wrong:
        raise MismatchError(
            "\n".join(
                f"{line} Set dem.vocabulary: base to keep the base's embeddings and head."
                for line in wrong
            )
        )
    new = _tokens_to_add(others)
    grown = _grow_base(base, others[0].difference.tables[0], new) if new else base
    # A longer table changes the shape for every checkpoint, also for those with the base's tokens.
    changed = [tuned for tuned in inputs if new or tuned.name in differ]
    return grown, {
        tuned.name: _share_rows(base, grown, tuned, new, other=tuned.name in differ)
        for tuned in changed
    }


def why_no_union(base: Checkpoint, tuned: TunedInput) -> str:
    """Returns why a checkpoint's rows cannot be put in the base's order; empty if they can."""
    diff = tuned.difference
    (ours, theirs), (rows, _) = diff.tokens, diff.rows
    if diff.missing:
        who = "base and checkpoint have" if diff.missing == "both" else f"{diff.missing} has"
        return f"the tokens of its rows are unknown, because {who} no {TOKENIZER}."
    for name in diff.tables[0]:
        twin = _table(tuned.weights, diff.tables[1], name)
        if twin is None or tuned.weights.info(twin).shape[1:] != base.info(name).shape[1:]:
            return (
                f"{name!r} is missing there or has another width: it is not a fine-tune of this "
                "base."
            )
    if foreign := [token for token in diff.added if token not in theirs.added]:
        return (
            f"{len(foreign):,} tokens of its own vocabulary ({listed(foreign, 3)}) are neither in "
            "the base's nor added tokens: it has another tokenizer, and only added tokens can be "
            "added."
        )
    # The tokenizers library numbers added tokens itself (see Tokens.next_id); ids that it would
    # change on reading the file would belong to other rows.
    if diff.added and (ours.next_id is None or max(ours.ids.values()) >= rows):
        return (
            "the base's tokenizer has ids out of order or without a row, so that no token can be "
            "added to it."
        )
    return ""


def _table(weights: Checkpoint, tables: tuple[str, ...], name: str) -> str | None:
    """Returns the tensor that holds the rows of `name`: itself, or the matrix that it is tied to.

    None if there is neither.

    Args:
        weights: the model.
        tables: its tensors with one row for each token.
        name: such a tensor of the other model.
    """
    matrices = (table for table in tables if len(weights.info(table).shape) > 1)
    return name if name in tables else next(matrices, None)


def _tokens_to_add(others: list[TunedInput]) -> list[_New]:
    """Returns the tokens to add, in the order of the recipe, with ids that follow the base's."""
    new: dict[str, _New] = {}
    for tuned in others:
        (ours, theirs), (_, rows) = tuned.difference.tokens, tuned.difference.rows
        for token in tuned.difference.added:
            # A tokenizer may have more tokens than the model has rows; such a token brings no row.
            if token not in new and theirs.ids[token] < rows:
                entry = {**theirs.added[token], "id": (ours.next_id or 0) + len(new)}
                new[token] = _New(entry, tuned, theirs.ids[token])
    return list(new.values())


def _grow_base(base: Checkpoint, tables: tuple[str, ...], new: list[_New]) -> Grown:
    """Returns the base with one row for each added token; unused rows of the base come first."""
    rows = base.info(tables[0]).shape[0]
    # Many models have more rows than tokens. Added tokens take these rows before the table grows.
    total = max(rows, new[-1].entry["id"] + 1)
    whose, row = np.zeros(total, np.int64), np.arange(total)
    owners = {token.owner.name: token.owner for token in new}

    def sources(table: str) -> list[tuple[Checkpoint, str]]:
        theirs = [
            (owner.weights, _table(owner.weights, owner.difference.tables[1], table))
            for owner in owners.values()
        ]
        return [(base, table), *((weights, name or table) for weights, name in theirs)]

    for token in new:
        number = token.entry["id"]
        whose[number], row[number] = list(owners).index(token.owner.name) + 1, token.row
    ids = f"{new[0].entry['id']} to {new[-1].entry['id']}"
    room = (
        f"the embeddings grow from {rows:,} to {total:,} rows"
        if total > rows
        else "the base has unused rows for them"
    )
    return Grown(
        base,
        Layout.of(whose, row),
        {table: (base.info(table).dtype, sources(table)) for table in tables},
        entries=[token.entry for token in new],
        note=f"{len(new):,} tokens are added to its tokenizer "
        f"({listed([token.entry['content'] for token in new], 3)}), ids {ids}; each has the row of "
        f"the checkpoint that added it, whatever ω is; {room}.",
    )


def _share_rows(
    base: Checkpoint, grown: Checkpoint, tuned: TunedInput, new: list[_New], *, other: bool
) -> Arranged:
    """Returns a view of a checkpoint in the base's row order.

    A row is the checkpoint's own if both have its token, else the base's.

    Args:
        base: Θ on disk.
        grown: Θ with the added tokens.
        tuned: the checkpoint.
        new: the added tokens.
        other: whether its tokenizer differs from the base's.
    """
    (ours, theirs), (rows, their_rows) = tuned.difference.tokens, tuned.difference.rows
    total = max(rows, new[-1].entry["id"] + 1) if new else rows
    whose, row = np.zeros(total, np.int64), np.arange(total)
    if other:
        for token, number in ours.ids.items():
            their = theirs.ids.get(token, their_rows)
            if number < rows and their < their_rows:
                whose[number], row[number] = 1, their
    else:
        whose[:rows] = 1
        # Rows of added tokens are the grown base's on both sides, so that their delta is 0 whatever
        # ω is.
        whose[[token.entry["id"] for token in new]] = 0
    tables: dict[str, tuple[torch.dtype, list[tuple[Checkpoint, str]]]] = {}
    for name in tuned.difference.tables[1]:
        mine = _table(base, tuned.difference.tables[0], name) or name
        # The wider dtype of the two, so that a row of the base keeps its exact bits.
        dtype = torch.promote_types(base.info(mine).dtype, tuned.weights.info(name).dtype)
        tables[name] = (dtype, [(grown, mine), (tuned.weights, name)])
    note = _union_note(tuned, new) if other else ""
    return Arranged(tuned.weights, Layout.of(whose, row), tables, note=note)


def _union_note(tuned: TunedInput, new: list[_New]) -> str:
    """Returns a sentence for the user: what the union does with one checkpoint."""
    diff, ours = tuned.difference, tuned.difference.tokens[0]
    shared = len(ours.ids) - len(diff.lost)
    parts = [f"rows of the {shared:,} tokens that it shares with the base are merged"]
    if diff.moved:
        parts.append(f"{len(diff.moved):,} of them have other ids there")
    if diff.lost:
        parts.append(f"{len(diff.lost):,} tokens that it lacks keep the base's rows")
    owners = {token.entry["content"]: token.owner.name for token in new}
    for name in dict.fromkeys(owners.values()):
        theirs_too = [token for token in diff.added if owners.get(token) == name]
        if name != tuned.name and theirs_too:
            parts.append(
                f"{len(theirs_too):,} that it added ({listed(theirs_too, 3)}) have the rows of "
                f"{name}, not its own"
            )
    if rowless := [token for token in diff.added if token not in owners]:
        parts.append(
            f"{len(rowless):,} that it added ({listed(rowless, 3)}) have no row and are left out"
        )
    return "; ".join(parts) + "."
