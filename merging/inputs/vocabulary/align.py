"""Decides which rows of embeddings and heads are merged if vocabularies differ, by tokens' text.

The recipe's `dem.vocabulary` chooses:

    refuse   the default: a checkpoint with another vocabulary is an error
    base     such a checkpoint does not change the tensors with one row per token: they stay the
             base's
    union    rows of tokens that base and checkpoint share are merged, whatever their ids. Rows of
             tokens that only the base has stay the base's. Tokens that a checkpoint added follow
             the base's; each gets the row of the first checkpoint in the recipe that has it

No weights are read here. Nothing is left out silently: the note of each view says what it omits.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from merging.errors import MismatchError
from merging.inputs.checkpoint import Checkpoint
from merging.inputs.matching import renamed
from merging.inputs.saved_vector import is_saved_vector
from merging.inputs.vector import Vector
from merging.inputs.vocabulary.aligned import Arranged, Fitted, Grown, Layout
from merging.inputs.vocabulary.tokens import Difference, difference, token_tables
from merging.inputs.vocabulary.union import TunedInput, unite, why_no_union
from merging.paths import is_adapter
from plumbing.suggest import listed


class Arrangement(NamedTuple):
    """A base and its checkpoints, brought to one vocabulary."""

    base: Checkpoint
    """Θ; a Grown view if tokens were added."""
    tuned: dict[str, Arranged]
    """Name -> view, for the checkpoints that cannot be merged as they are on disk."""

    def fitted(self, vector: Vector) -> Vector:
        """Returns a vector of the base on disk as a vector of this base."""
        # A vector that changes no embeddings fits the grown base as it is.
        if isinstance(self.base, Grown) and any(name in vector for name in self.base.tables):
            return Fitted(vector, self.base)
        return vector


def arrange(base: Checkpoint, folders: Mapping[str, Path], how: str) -> Arrangement:
    """Brings base and checkpoints to one vocabulary, as `dem.vocabulary` says.

    Args:
        base: Θ.
        folders: name -> folder, in the recipe's order. Adapters and saved vectors are left as
            they are: they have the base's vocabulary.
        how: 'refuse', 'base' or 'union'. 'refuse' only compares numbers of rows; preflight
            compares ids.

    Raises:
        CheckpointError: if a folder cannot be read.
        MismatchError: if a vocabulary differs and is refused, or the union is not possible (the
            message gives the reason for each checkpoint), or names fit in two ways.
    """
    full = {
        name: opened_like(base, name, folder)
        for name, folder in folders.items()
        if is_whole(folder)
    }
    # Reading a large tokenizer takes half a second, so the default compares only headers.
    if how == "refuse":
        others = [
            TunedInput(name, weights, difference(base, weights))
            for name, weights in full.items()
            if not same_rows(base, weights)
        ]
        if others:
            raise MismatchError("\n".join(" ".join(refusal(base, *tuned)) for tuned in others))
        return Arrangement(base, {})
    inputs = [
        TunedInput(name, weights, difference(base, weights)) for name, weights in full.items()
    ]
    if how == "base":
        # A base without embeddings has no rows that could be kept.
        changed = [
            tuned for tuned in inputs if tuned.difference.matters and tuned.difference.tables[0]
        ]
        return Arrangement(base, {tuned.name: _keep_base_rows(base, tuned) for tuned in changed})
    return Arrangement(*unite(base, inputs))


def opened_like(base: Checkpoint, name: str, folder: Path) -> Checkpoint:
    """Opens a fine-tuned checkpoint under the base's tensor names, if one renaming gives them.

    Raises:
        CheckpointError: if the folder cannot be read.
        MismatchError: if more than one renaming fits.
    """
    opened = renamed(f"{name} ({folder})", Checkpoint(folder), base)
    assert isinstance(opened, Checkpoint)
    return opened


def same_rows(base: Checkpoint, tuned: Checkpoint) -> bool:
    """Returns whether the embeddings have as many rows as the base's; reads headers only.

    Also True if one of the two has no embeddings.
    """
    rows, tables = token_tables(base)
    return token_tables(tuned, tables)[0] in (rows, 0) or not rows


def is_whole(folder: Path) -> bool:
    """Returns whether a folder holds a full checkpoint, not an adapter or a saved vector.

    Adapters and saved vectors have the vocabulary of their base.
    """
    return not (is_adapter(folder) or is_saved_vector(folder))


def refusal(base: Checkpoint, name: str, tuned: Checkpoint, diff: Difference) -> tuple[str, str]:
    """Returns two texts for the user: how two vocabularies differ, and what can be done."""
    (ours, theirs), parts = diff.tokens, []
    if diff.rows[0] != diff.rows[1]:
        parts.append(f"its embeddings have {diff.rows[1]:,} rows, the base's {diff.rows[0]:,}")
    if diff.added:
        parts.append(
            f"its tokenizer adds {len(diff.added):,} tokens ({listed(list(diff.added), 3)})"
        )
    if diff.lost:
        parts.append(f"it lacks {len(diff.lost):,} ({listed(list(diff.lost), 3)})")
    if diff.moved:
        token = diff.moved[0]
        parts.append(
            f"{len(diff.moved):,} tokens have other ids than in the base: {token!r} is "
            f"{theirs.ids[token]}, in the base {ours.ids[token]}"
        )
    why = why_no_union(base, TunedInput(name, tuned, diff))
    union = (
        f"dem.vocabulary: union is not possible here: {why}"
        if why
        else "Or set dem.vocabulary: union; then rows of shared tokens are merged, and added "
        "tokens are kept with their rows."
    )
    return (
        f"{name} ({tuned.path}) has another vocabulary: {'; '.join(parts)}.",
        f"Set dem.vocabulary: base in the recipe to keep the base's embeddings and head. {union}",
    )


def _keep_base_rows(base: Checkpoint, tuned: TunedInput) -> Arranged:
    """Returns a view of a checkpoint with all of the base's rows, so that it changes none."""
    (rows, _), (tables, theirs) = tuned.difference.rows, tuned.difference.tables
    return Arranged(
        tuned.weights,
        Layout.of(np.zeros(rows, np.int64), np.arange(rows)),
        {name: (base.info(name).dtype, [(base, name)]) for name in tables},
        # Its own tables go, because their shapes may not fit, and the base's take their place.
        without=theirs,
        note="its vocabulary is not the base's, so it does not change "
        f"{listed(list(tables))}: all rows there are the base's.",
    )
