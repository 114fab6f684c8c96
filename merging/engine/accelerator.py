"""Computes the pieces of a merge on an accelerator.

Inputs are read into pinned memory, copied to the device, and combined and rounded there. Each
thread has its own stream, so that reading, copying and arithmetic overlap. The tests run the same
code with the CPU as the device: an accelerator differs only in its `_Stream` and in pinned memory.

Only methods that declare ON_DEVICE are computed there (see merging.methods._contract).
docs/device.md says which bits are promised.
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
from merging.engine.loop import Cpu, combine_piece
from merging.engine.stochastic_rounding import round_piece
from merging.engine.task import Task
from merging.engine.task_vectors import summands_of
from merging.errors import DeviceError
from merging.inputs.checkpoint import Weights, dtype_of, read_block
from merging.inputs.vector import Vector
from merging.methods import _contract as methods
from merging.threads import Spare
from plumbing.suggest import listed

BLOCK = 2**20
"""Elements of a piece: copying these 2 MB of bfloat16 hides the start of the next operation."""
WIDEST = 8
"""Bytes of the widest element, a float64."""
SLOTS = 2
"""Pinned pieces per thread: one is filled from a file while the previous one is copied."""


def open_accelerator(name: str) -> "Accelerator | None":
    """Opens the accelerator "cuda" or "cuda:N"; returns None for "cpu".

    Raises:
        DeviceError: for any other name, and for a device that torch does not find. The message
            lists the devices that it finds.
    """
    if name == "cpu":
        return None
    titles = list_accelerators()
    match = re.fullmatch(r"cuda(:\d{1,3})?", name)
    number = int(match[1][1:]) if match and match[1] else 0
    if match and f"cuda:{number}" in titles:
        return Accelerator(torch.device("cuda", number))
    names = ", ".join(["cpu", *(f"{device} ({title})" for device, title in titles.items())])
    if not match:
        raise DeviceError(
            f"device {name!r} is unknown, expected cpu, cuda or cuda:N. torch finds {names}."
        )
    # torch's builds for AMD cards answer to the name cuda too, and set only version.hip.
    built = torch.version.cuda or torch.version.hip
    step = (
        ". Give one of these."
        if built
        else ", because it is a build without CUDA. Give cpu, or install a build with CUDA."
    )
    raise DeviceError(
        f"device {name!r} is not available: torch {torch.__version__} finds {names}{step}"
    )


def list_accelerators() -> dict[str, str]:
    """Returns the accelerators that torch finds: name ("cuda:N") -> title of the card."""
    numbers = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    return {f"cuda:{number}": torch.cuda.get_device_name(number) for number in numbers}


class Accelerator:
    """An accelerator as the device that computes the pieces of one export.

    The other device is merging.engine.loop.Cpu, which has the same methods. A piece that does not
    fit in the accelerator's memory is computed on the CPU, and `report` says so.

    Args:
        device: the torch device, with its number if there can be several.
        most: elements of a piece. A method that needs the whole tensor gets it whole, but it is
            read in pieces of this size.

    Attributes:
        spilled: tensor -> bytes of its base and vectors, for tensors that did not fit.
    """

    def __init__(self, device: torch.device, most: int = BLOCK) -> None:
        self.device, self.most = device, most
        self.spilled: dict[str, int] = {}
        # One stage per thread: streams and pinned memory cannot be shared.
        self._stages = Spare(lambda: _Stage(device, most))
        self._cpu = Cpu()
        # The first call loads a library. Two threads that make it together fail:
        # pytorch/pytorch#90613.
        torch.linalg.svd(torch.ones(1, 1, device=device))

    def memory(self, nbytes: int) -> Tensor:
        """Allocates pinned uint8 memory for results."""
        return pinned_memory(nbytes, self.device)

    def reaches(self, out: Tensor) -> bool:
        """Reports whether `compute` can write to this tensor."""
        return out.device.type in ("cpu", self.device.type)

    def compute(
        self, task: Task, base: Weights, vectors: Mapping[str, Vector], start: int, out: Tensor
    ) -> None:
        """Computes one piece of a tensor of the merged model and rounds it into `out`.

        Any thread may call it; the piece is finished when it returns.

        Args:
            task: the tensor.
            base: Θ.
            vectors: the vectors that the task names.
            start: the piece's first element in the flattened tensor.
            out: 1-D, in the task's output dtype, in the CPU's memory or on the device.
        """
        task = task.computed
        if task.vectors and task.method.on_device:
            try:
                with self._stages.borrowed() as stage:
                    return stage.compute(task, base, vectors, start, out)
            # An error here would throw away the rest of a long merge.
            except torch.OutOfMemoryError:
                width = working_dtype(dtype_of(base, task.name)).itemsize
                self.spilled[task.name] = width * (1 + len(task.vectors)) * out.numel()
        # The compiled loop writes by address, so it needs a result in the CPU's memory.
        result = out if out.device.type == "cpu" else torch.empty(out.numel(), dtype=out.dtype)
        self._cpu.compute(task, base, vectors, start, result)
        if result is not out:
            out.copy_(result)
        return None

    def report(self, method: str) -> str:
        """Returns a sentence for users: where an export by this method was computed."""
        name = f"{self.device} ({_title(self.device)})"
        if not methods.load(method).on_device:
            return f"computed on the CPU: {method} runs only there, so {name} was not used."
        if not self.spilled:
            return f"computed on {name}."
        most = max(self.spilled.values()) / 1e9
        return (
            f"computed on {name}, except for tensors that did not fit in its memory: "
            f"{listed(sorted(self.spilled))}. The CPU computed these. The largest needs "
            f"{most:.2f} GB for base and vectors, plus what the method itself uses. Free memory of "
            "the device, or use fewer threads, to compute all of it there."
        )


class _Stage:
    """The order of operations and the memory with which one thread uses a device."""

    def __init__(self, device: torch.device, block: int) -> None:
        self._device, self._block = device, block
        self._order = _Stream(device) if device.type == "cuda" else _InTurn()
        self._slots = cycle([_Slot(pinned_memory(WIDEST * block, device)) for _ in range(SLOTS)])
        self._scratch = torch.empty(WIDEST * block, dtype=torch.uint8)

    def compute(
        self, task: Task, base: Weights, vectors: Mapping[str, Vector], start: int, out: Tensor
    ) -> None:
        """Computes one piece on the device; arguments as for Accelerator.compute."""
        task, own = summands_of(task, vectors)
        working, rows = working_dtype(dtype_of(base, task.name)), 1 + len(own)
        with self._order.running():
            stack = torch.empty(rows, out.numel(), dtype=working, device=self._device)
            # Θ is sent first, because the rows after it subtract it on the device.
            self._send(stack[0], start, partial(_theta, base, task.name))
            for row, vector in zip(stack[1:], own, strict=True):
                if task.space == "deltas":
                    self._send(row, start, partial(_delta, base, vector, task.name), stack[0])
                else:
                    self._send(row, start, partial(_weight, vector, task.name))
            result = round_piece(task, start, combine_piece(task, start, stack))
            out.copy_(result, non_blocking=True)

    def _send(
        self, row: Tensor, start: int, read: Callable[..., VectorSpan], origin: Tensor | None = None
    ) -> None:
        """Copies a tensor's elements to a row on the device, a block at a time.

        Args:
            row: 1-D, on the device, in the working dtype.
            start: the tensor's element that comes first in the row.
            read: called with (start, stop) and with a reader into pinned memory.
            origin: the base's row, to be subtracted from weights that are no difference yet; None
                to subtract nothing.
        """
        for at in range(0, len(row), self._block):
            part = row[at : at + self._block]
            slot = next(self._slots)
            # The last copy out of this slot must be over before the reader overwrites its memory.
            slot.wait()
            span = read(
                (start + at, start + at + len(part)),
                pieces.Reader(self._scratch, slot.buffer, None, row.dtype, _any),
            )
            assert isinstance(span.values, Tensor)  # the reader leaves nothing in files
            # Copied in the stored dtype and converted on the device: torch would otherwise convert
            # on the CPU, into memory that is not pinned.
            sent = span.values.to(self._device, non_blocking=True)
            slot.wait = self._order.mark()
            part.copy_(sent)
            if origin is not None and not span.difference:
                part.sub_(origin[at : at + self._block])


class _Slot:
    """Pinned memory, and a function that waits until its content has been copied."""

    def __init__(self, memory: Tensor) -> None:
        self.memory = memory
        self.wait: Callable[[], object] = _do_not_wait

    def buffer(self, number: int) -> Tensor:
        """Returns the memory for any input `number`: a slot holds one input at a time."""
        return self.memory


class _InTurn:
    """The order of operations on the CPU: each is finished when its call returns."""

    def running(self) -> AbstractContextManager[None]:
        """Returns a block at whose end all operations that it started are finished."""
        return nullcontext()

    def mark(self) -> Callable[[], object]:
        """Returns a function that waits until all operations started before are finished."""
        return _do_not_wait


class _Stream:
    """The order of operations on a CUDA device.

    Those of one stream run one after the other, in parallel to other streams and to the CPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Waits for the default stream, which put weights on the device; then see `_InTurn`."""
        self._stream.wait_stream(torch.cuda.default_stream(self._device))
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:  # after an error too: memory that is being copied must not be overwritten
            self._stream.synchronize()

    def mark(self) -> Callable[[], object]:
        """Returns a function that waits until all operations started before are finished."""
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(self._stream)
        return event.synchronize


def pinned_memory(nbytes: int, device: torch.device) -> Tensor:
    """Allocates uint8 memory of the CPU that a CUDA device can copy without the CPU's help."""
    return torch.empty(nbytes, dtype=torch.uint8, pin_memory=device.type == "cuda")


def _title(device: torch.device) -> str:
    """Returns the title of the card."""
    return list_accelerators().get(str(device), "the CPU")


def _theta(base: Weights, name: str, span: tuple[int, int], reader: pieces.Reader) -> VectorSpan:
    """Reads a span of the base."""
    return VectorSpan(read_block(base, name, *span, reader.buffer(0)), difference=False)


def _delta(
    base: Weights, vector: Vector, name: str, span: tuple[int, int], reader: pieces.Reader
) -> VectorSpan:
    """Reads a span of a vector, as weights or as differences."""
    return pieces.read_delta(pieces.Piece(name, *span), base, vector, 0, reader)


def _weight(vector: Vector, name: str, span: tuple[int, int], reader: pieces.Reader) -> VectorSpan:
    """Reads a span of a vector's fine-tuned weights."""
    return pieces.read_weight(pieces.Piece(name, *span), vector, 0, reader)


def _any(values: Tensor) -> bool:
    """Accepts every stored dtype, because the device converts it."""
    return True


def _do_not_wait() -> None:
    """Returns at once, because nothing is being copied."""
