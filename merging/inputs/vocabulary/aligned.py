"""Views of checkpoints whose embeddings and heads have their rows in another order.

Rows are read from the files block by block. merging.inputs.vocabulary.align decides which rows;
this module only puts them together.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from merging.dtypes import working_dtype
from merging.inputs.checkpoint import Checkpoint, Stored, dtype_of, read_block, shape_of
from merging.inputs.digest import DigestTree
from merging.inputs.header import TensorInfo
from merging.inputs.vector import Vector
from merging.tensor_names import natural_key

Rows = NDArray[np.int64]
Sources = Sequence[tuple[Checkpoint, str]]
"""The checkpoints that hold rows of one tensor, each with its own name for the tensor."""


class Layout(NamedTuple):
    """Says for each row of the result which source it comes from, and which row of that source.

    Rows that follow each other in one source form a run. There are few runs: vocabularies are
    mostly equal.

    >>> Layout.of(np.array([1, 1, 0]), np.array([5, 6, 2]))
    Layout(starts=array([0, 2, 3]), whose=array([1, 0]), first=array([5, 2]))
    """

    starts: Rows
    """Shape (runs + 1,): the first row of each run in the result, then the number of rows."""
    whose: Rows
    """Shape (runs,): the position of each run's source in the sources of a tensor."""
    first: Rows
    """Shape (runs,): the row of the source at which the run begins."""

    @classmethod
    def of(cls, whose: Rows, row: Rows) -> "Layout":
        """Builds a layout from the source and the source's row of each row of the result.

        Args:
            whose: shape (rows,).
            row: shape (rows,).
        """
        # Runs, and not rows, because reading 150,000 rows one by one would open a file for each.
        breaks = np.flatnonzero((np.diff(whose) != 0) | (np.diff(row) != 1)) + 1
        begins = np.concatenate([np.zeros(1, np.int64), breaks])
        return cls(np.append(begins, len(row)), whose[begins], row[begins])

    @property
    def rows(self) -> int:
        """Number of rows of the result."""
        return int(self.starts[-1])


class Arranged(Checkpoint):
    """A view of a checkpoint in which some tensors have other rows, perhaps of other checkpoints.

    Args:
        own: the checkpoint as it is on disk.
        layout: the source of each row.
        tables: name -> dtype and sources, for each tensor with these rows.
        without: names of tensors of `own` that the view leaves out.
        note: a sentence for the user that says what the view changes.
    """

    def __init__(
        self,
        own: Checkpoint,
        layout: Layout,
        tables: Mapping[str, tuple[torch.dtype, Sources]],
        *,
        without: Sequence[str] = (),
        note: str = "",
    ) -> None:
        # Take over the checkpoint's open state, with the tree of its digest, but not its cached
        # identity: the view has its own.
        vars(self).update({key: value for key, value in vars(own).items() if key != "identity"})
        self.own, self.layout, self.tables, self.note = own, layout, dict(tables), note
        infos = {name: info for name, info in own._infos.items() if name not in without}
        for name, (dtype, sources) in tables.items():
            shape = (layout.rows, *shape_of(*sources[0])[1:])
            # Shard and offset are placeholders, since the rows are in several files; in an export
            # they only put the table first.
            infos[name] = (0, TensorInfo(dtype, shape, 0, math.prod(shape) * dtype.itemsize))
        self._infos = {name: infos[name] for name in sorted(infos, key=natural_key)}

    def block(self, name: str, start: int, stop: int, scratch: Tensor | None = None) -> Tensor:
        """Returns elements `start` to `stop` of a flattened tensor; see Checkpoint.block.

        They are read run by run from the files that hold the rows.
        """
        if name not in self.tables:
            return super().block(name, start, stop, scratch)
        dtype, sources = self.tables[name]
        width = math.prod(self.info(name).shape[1:])
        out = torch.empty(stop - start, dtype=dtype)
        run = int(np.searchsorted(self.layout.starts, start // width, side="right")) - 1
        at = start
        while at < stop:
            end = min(stop, int(self.layout.starts[run + 1]) * width)
            shift = int(self.layout.first[run] - self.layout.starts[run]) * width
            source, own_name = sources[int(self.layout.whose[run])]
            out[at - start : end - start] = read_block(source, own_name, at + shift, end + shift)
            at, run = end, run + 1
        return out

    def in_file(self, name: str, start: int, stop: int, files: ExitStack) -> Stored | None:
        """Returns the span in an open file; None if the rows come from several places."""
        return None if name in self.tables else super().in_file(name, start, stop, files)

    @cached_property
    def digest(self) -> str:
        """The digest of the checkpoint as it is on disk."""
        return self.own.digest

    @cached_property
    def sampled_digest(self) -> str:
        """As earlier versions gave it; see Checkpoint.sampled_digest."""
        return self.own.sampled_digest

    def gather_digest(self) -> None:
        """Hashes what is read of the files from now on; see Checkpoint.gather_digest."""
        self.own.gather_digest()

    def _tree_of(self, name: str) -> tuple[DigestTree, str]:
        return self.own._tree_of(name)

    @cached_property
    def identity(self) -> str:
        """The key of caches: SHA-256 over the files that hold its rows, and their order."""
        files = sorted(
            {source.identity for _, sources in self.tables.values() for source, _ in sources}
        )
        rows = [part.tolist() for part in self.layout]
        return hashlib.sha256(
            repr((self.own.identity, files, sorted(self.tables), rows)).encode()
        ).hexdigest()


class Grown(Arranged):
    """A view of a base with the tokens that its fine-tuned checkpoints added.

    Its digest is the base's. Together with the digests of the checkpoints it determines the result.

    Args:
        arguments: see Arranged.
        entries: the added tokens as entries of added_tokens in tokenizer.json; their ids are
            consecutive.
        more: see Arranged.
    """

    def __init__(self, *arguments: Any, entries: Sequence[Mapping[str, Any]], **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.entries = tuple(entries)

    @property
    def rows(self) -> tuple[int, int]:
        """Numbers of rows of the embeddings: of the base on disk, and of this view."""
        name = next(iter(self.tables))
        return self.own.info(name).shape[0], self.layout.rows

    @property
    def new(self) -> range:
        """The rows of the added tokens."""
        return range(self.entries[0]["id"], self.entries[-1]["id"] + 1)


class Fitted(Vector):
    """A vector of a base, fitted to that base with added tokens. Its delta is 0 in their rows.

    Args:
        inner: the vector on `base.own`.
        base: the base with added tokens.
    """

    def __init__(self, inner: Vector, base: Grown) -> None:
        self.inner, self.base, self._grown = inner, base, base
        self.name, self.path, self._opened = inner.name, inner.path, inner

    @cached_property
    def identity(self) -> str:
        """The key of caches: SHA-256 over the identities of the inner vector and the base."""
        both = f"{self.inner.identity} {self._grown.identity}"
        return hashlib.sha256(both.encode()).hexdigest()

    def __getitem__(self, name: str) -> Tensor:
        shape = shape_of(self._grown, name)
        return self.block(name, 0, math.prod(shape)).view(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.inner)

    def __contains__(self, name: object) -> bool:
        return name in self.inner  # Mapping's own test would read the tensor

    def __len__(self) -> int:
        return len(self.inner)

    def block(self, name: str, start: int, stop: int) -> Tensor:
        """Returns elements of the delta, in the working dtype; 0 in the rows of added tokens."""
        if name not in self._grown.tables:
            return self.inner.block(name, start, stop)
        width = math.prod(self._grown.info(name).shape[1:])
        # Added tokens may take rows that the base left free, so its own rows lie on both sides.
        out = torch.zeros(stop - start, dtype=working_dtype(dtype_of(self._grown, name)))
        for first, last in (
            (0, self._grown.new.start),
            (self._grown.new.stop, self._grown.rows[0]),
        ):
            low, high = max(start, first * width), min(stop, last * width)
            if low < high:
                out[low - start : high - start] = self.inner.block(name, low, high)
        return out

    def weights_block(self, name: str, start: int, stop: int) -> Tensor:
        """Returns elements of Θ + Δ in the working dtype."""
        # copy=True, because a base in memory of this dtype would otherwise be changed in place.
        stored = read_block(self.base, name, start, stop).to(
            working_dtype(dtype_of(self._grown, name)), copy=True
        )
        return stored.add_(self.block(name, start, stop)) if name in self.inner else stored
