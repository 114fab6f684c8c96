"""Merging on an accelerator: inputs are read into pinned memory, copied from there, combined and rounded on the device.

Each thread has a stream of its own, so that reading, copying and arithmetic overlap. The same code runs with the
processor as the device, and is tested so: an accelerator differs from it only in its `_Order` and in pinned memory.

Only methods that declare ON_DEVICE are computed there (see merging.methods._contract). docs/device.md says what is promised of
the bits.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import cycle

import torch
from torch import Tensor

from merging.dtypes import working_dtype
from merging.engine import pieces
from merging.engine.kernel import VectorSpan
from merging.engine.loop import Processor, combined, rounded
from merging.engine.tasks import Task
from merging.engine.threads import Spare
from merging.errors import DeviceError
from merging.inputs.checkpoint import Weights, dtype_of, read_block
from merging.inputs.vector import Vector
from merging.methods import _contract as methods
from plumbing.suggest import listed

BLOCK = 2**20
"""Elements of a piece: two megabytes of bfloat16, long enough a copy that starting the next operation hides behind it."""
WIDEST = 8
"""Bytes of the widest element."""
SLOTS = 2
"""Pieces of pinned memory for each thread: one is read into while the one before is copied."""


def open_accelerator(name: str) -> "Accelerator | None":
    """The accelerator of a name, "cuda" or "cuda:N"; None for "cpu", which is no other place than where weights are read.

    Raises:
        DeviceError: for any other name, and for a device that torch does not find; it says which there are.
    """
    if name == "cpu":
        return None
    there = list_accelerators()
    match = re.fullmatch(r"cuda(:\d{1,3})?", name)
    number = int(match[1][1:]) if match and match[1] else 0
    if match and f"cuda:{number}" in there:
        return Accelerator(torch.device("cuda", number))
    names = ", ".join(["cpu", *(f"{device} ({title})" for device, title in there.items())])
    if not match:
        raise DeviceError(
            f"device {name!r} is unknown, expected cpu, cuda or cuda:N. torch finds {names}."
        )
    built = torch.version.cuda or torch.version.hip
    step = (
        ". Give one of these."
        if built
        else ", as a build without CUDA. Give cpu, or install a build with CUDA."
    )
    raise DeviceError(
        f"device {name!r} is not there: torch {torch.__version__} finds {names}{step}"
    )


def list_accelerators() -> dict[str, str]:
    """The accelerators that torch finds, with what they are called."""
    numbers = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    return {f"cuda:{number}": torch.cuda.get_device_name(number) for number in numbers}


class Accelerator:
    """A device as the place where the pieces of one export are computed; merging.engine.loop.Processor is the other kind.

    A piece that does not fit in its memory is computed on the processor, and told by `report`.

    Args:
        device: with its number, where there can be several.
        most: elements of a piece, but for methods that need the whole tensor; those are read in such pieces.
    """

    def __init__(self, device: torch.device, most: int = BLOCK) -> None:
        self.device, self.most = device, most
        self.spilled: dict[str, int] = {}
        """The tensors that did not fit, and the bytes that their values and those of their vectors take."""
        self._stages = Spare(lambda: _Stage(device, most))
        self._processor = Processor()
        # The first call loads a library, and two threads that make it at once fail: pytorch/pytorch#90613.
        torch.linalg.svd(torch.ones(1, 1, device=device))

    def memory(self, nbytes: int) -> Tensor:
        """Bytes for results, pinned."""
        return pinned(nbytes, self.device)

    def reaches(self, out: Tensor) -> bool:
        """Whether `compute` can write there."""
        return out.device.type in ("cpu", self.device.type)

    def compute(
        self, task: Task, base: Weights, vectors: Mapping[str, Vector], start: int, out: Tensor
    ) -> None:
        """One piece of a tensor of the result, rounded into `out`. Called from any thread; finished when it returns.

        Args:
            task: the tensor.
            base: Θ.
            vectors: the vectors that it names.
            start: the first element.
            out: 1-D, in the task's output dtype, in this machine's memory or on the device.
        """
        if task.vectors and task.method.on_device:
            try:
                with self._stages.borrowed() as stage:
                    return stage.compute(task, base, vectors, start, out)
            except torch.OutOfMemoryError:
                width = working_dtype(dtype_of(base, task.name)).itemsize
                self.spilled[task.name] = width * (1 + len(task.vectors)) * out.numel()
        here = out if out.device.type == "cpu" else torch.empty(out.numel(), dtype=out.dtype)
        self._processor.compute(task, base, vectors, start, here)
        if here is not out:
            out.copy_(here)
        return None

    def report(self, method: str) -> str:
        """Where an export by this method was computed, for the reader."""
        where = f"{self.device} ({_title(self.device)})"
        if not methods.load(method).on_device:
            return f"computed on the processor: {method} is computed there only, and nothing of it on {where}."
        if not self.spilled:
            return f"computed on {where}."
        most = max(self.spilled.values()) / 1e9
        return (
            f"computed on {where}, but on the processor what did not fit there: {listed(sorted(self.spilled))}, up to "
            f"{most:.2f} GB with base and vectors, and what the method needs beside them. Free memory of the device, or "
            "use fewer threads, to keep all of it there."
        )


class _Stage:
    """What one thread needs on the way to a device and back."""

    def __init__(self, device: torch.device, block: int) -> None:
        self._device, self._block = device, block
        self._order = _Stream(device) if device.type == "cuda" else _InTurn()
        self._slots = cycle([_Slot(pinned(WIDEST * block, device)) for _ in range(SLOTS)])
        self._scratch = torch.empty(WIDEST * block, dtype=torch.uint8)

    def compute(
        self, task: Task, base: Weights, vectors: Mapping[str, Vector], start: int, out: Tensor
    ) -> None:
        """See Accelerator.compute."""
        working = working_dtype(dtype_of(base, task.name))
        with self._order.running():
            stack = torch.empty(
                1 + len(task.vectors), out.numel(), dtype=working, device=self._device
            )
            self._send(stack[0], start, partial(_theta, base, task.name))
            for row, vector in zip(
                stack[1:], [vectors[name] for name in task.vectors], strict=True
            ):
                if task.space == "deltas":
                    self._send(row, start, partial(_delta, base, vector, task.name), stack[0])
                else:
                    self._send(row, start, partial(_weight, vector, task.name))
            out.copy_(rounded(task, start, combined(task, start, stack)), non_blocking=True)

    def _send(
        self, row: Tensor, start: int, read: Callable[..., VectorSpan], origin: Tensor | None = None
    ) -> None:
        """Bring a tensor's elements to a row on the device, a block at a time.

        They are converted there, because torch would convert on the processor, into memory that is not pinned.

        Args:
            row: 1-D, on the device.
            start: the tensor's element that comes first in the row.
            read: called with the first element and one past the last, and with a reader into pinned memory.
            origin: a row that is subtracted from what is no difference yet.
        """
        for at in range(0, len(row), self._block):
            part = row[at : at + self._block]
            slot = next(self._slots)
            slot.wait()
            span = read(
                (start + at, start + at + len(part)),
                pieces.Reader(self._scratch, slot.buffer, None, row.dtype, _any),
            )
            assert isinstance(span.values, Tensor)  # the reader leaves nothing in files
            sent = span.values.to(self._device, non_blocking=True)
            slot.wait = self._order.mark()
            part.copy_(sent)
            if origin is not None and not span.difference:
                part.sub_(origin[at : at + self._block])


class _Slot:
    """Pinned memory, and how to wait until what was in it has been copied."""

    def __init__(self, memory: Tensor) -> None:
        self.memory = memory
        self.wait: Callable[[], object] = _at_once

    def buffer(self, number: int) -> Tensor:
        """The memory, whichever input it is for: a slot holds one at a time."""
        return self.memory


class _InTurn:
    """The order of operations on the processor: each is finished when its call returns."""

    def running(self) -> AbstractContextManager[None]:
        """What the block starts is finished at its end."""
        return nullcontext()

    def mark(self) -> Callable[[], object]:
        """To be called to wait until what was started before is finished."""
        return _at_once


class _Stream:
    """The order of operations on a CUDA device: one after the other, beside those of other streams and of the processor."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @contextmanager
    def running(self) -> Iterator[None]:
        """What the block starts is finished at its end, and begins after what put weights on the device."""
        self._stream.wait_stream(torch.cuda.default_stream(self._device))
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:  # after an error too: what is being copied must not be written over
            self._stream.synchronize()

    def mark(self) -> Callable[[], object]:
        """To be called to wait until what was started before is finished."""
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(self._stream)
        return event.synchronize


def pinned(nbytes: int, device: torch.device) -> Tensor:
    """Bytes of this machine's memory from and to which an accelerator copies by itself."""
    return torch.empty(nbytes, dtype=torch.uint8, pin_memory=device.type == "cuda")


def _title(device: torch.device) -> str:
    return list_accelerators().get(str(device), "the processor")


def _theta(base: Weights, name: str, span: tuple[int, int], reader: pieces.Reader) -> VectorSpan:
    return VectorSpan(read_block(base, name, *span, reader.buffer(0)), difference=False)


def _delta(
    base: Weights, vector: Vector, name: str, span: tuple[int, int], reader: pieces.Reader
) -> VectorSpan:
    return pieces.read_delta(pieces.Piece(name, *span), base, vector, 0, reader)


def _weight(vector: Vector, name: str, span: tuple[int, int], reader: pieces.Reader) -> VectorSpan:
    return pieces.read_weight(pieces.Piece(name, *span), vector, 0, reader)


def _any(values: Tensor) -> bool:
    return True


def _at_once() -> None:
    """Nothing to wait for."""
