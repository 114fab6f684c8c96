"""Claim: a settled composition in RAM takes at most twice as long as copying the same bytes.

    python -m benchmarks.compose_against_copy [--size 1.2B] [--rounds 5]

The base, five vectors and the module are in RAM. All ω change, and LiveModel.apply writes every
tensor. Against it, torch copies the same bytes: it reads six tensors and writes one, in blocks.
Each vector's block goes into one reused buffer that stays in the cache; the base's block goes to
the place of the result. The copy runs with one thread, and with one thread per core, each of which
copies its own blocks.

The second claim: moving one slider of a model with ten vectors costs at most 20 % more than of one
with two. It is measured with the same slider again and again, as in a drag, and with each slider in
turn.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks import copying, machine, shapes

if TYPE_CHECKING:
    from merging import LiveModel, Recipe

EXPERTS = 5
FEW, MANY = 2, 10
"""Vectors of the two models on which one slider is moved."""
BLOCK = 2**18
"""Elements copied at once: half a megabyte of bfloat16."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure both claims, and print a table for each."""
    options = machine.begin(__file__, __doc__, argv, rounds=5, size="0.5B")
    # The module is one more copy of the base; with sliders there are two modules.
    _compose(_fitting(options.size, EXPERTS + 2), options)
    _slide(_fitting(options.size, MANY + 3), options)


def _fitting(size: str, copies: int) -> str:
    """Return `size`, or the largest smaller size of which `copies` models fit in free memory.

    Raises:
        SystemExit: not even the smallest size fits.
    """
    # A tenth stays free for everything else.
    free = psutil.virtual_memory().available * 0.9
    for name in reversed(shapes.up_to(size)):
        if shapes.nbytes(name, copies) < free:
            return name
    raise SystemExit(
        f"{copies} models of {size} do not fit in {free / 1e9:.1f} GB of free memory. Free some."
    )


def _compose(size: str, options: Any) -> None:
    with shapes.checkpoints(size, EXPERTS, options.weights) as folder:
        base, tuned = _load(folder, EXPERTS)
    live = _live(base, tuned)
    step = iter(range(10**9))

    def apply() -> machine.Cost:
        number = next(step)
        recipe = _recipe([0.1 + 0.01 * number + 0.1 * index for index in range(EXPERTS)])
        return machine.timed(lambda: live.apply(recipe))

    contenders: dict[str, Callable[[], machine.Cost]] = {"all ω moved": apply}
    for threads in copying.workers():
        copy = partial(_copy, base, tuned, live, threads)
        contenders[f"copy, threads: {threads}"] = partial(machine.timed, copy)
    machine.in_turn(1, contenders)
    costs = machine.in_turn(options.rounds, contenders)
    read, written = shapes.nbytes(size, EXPERTS + 1) / 1e9, shapes.nbytes(size, 1) / 1e9
    models = f"{shapes.parameters(size):,} parameters, {EXPERTS} vectors"
    print(f"{models}: {read:.2f} GB read, {written:.2f} GB written\n")
    (first, applied), *others = costs.items()
    rows = [[first, machine.seconds(applied).text(".3f"), "", ""]]
    for name, copies in others:
        ratio = machine.ratio(applied, copies)
        target = machine.target(ratio.median, 2)
        rows.append([name, machine.seconds(copies).text(".3f"), ratio.text(), target])
    machine.show(["what", "seconds", "apply / copy", "target"], rows)


def _slide(size: str, options: Any) -> None:
    with shapes.checkpoints(size, MANY, options.weights) as folder:
        base, tuned = _load(folder, MANY)
    models = {count: _live(base, dict(list(tuned.items())[:count])) for count in (FEW, MANY)}
    rows = []
    for what, slider in {
        "the same slider again": lambda number, count: 0,
        "each in turn": lambda number, count: number % count,
    }.items():
        contenders = {
            f"one of {count}": _mover(live, count, slider) for count, live in models.items()
        }
        machine.in_turn(1, contenders)
        few, many = machine.in_turn(options.rounds, contenders).values()
        ratio = machine.ratio(many, few)
        shown = [machine.seconds(costs).text(".3f") for costs in (few, many)]
        rows.append([what, *shown, ratio.text(), machine.target(ratio.median, 1.2)])
    print(f"{shapes.parameters(size):,} parameters, one slider moved\n")
    columns = ["which", f"one of {FEW}, seconds", f"one of {MANY}, seconds", "ratio", "target"]
    machine.show(columns, rows)


def _mover(
    live: "LiveModel", count: int, slider: Callable[[int, int], int]
) -> Callable[[], machine.Cost]:
    """Return a function that moves one slider a little and applies the new recipe.

    Args:
        live: the model.
        count: the number of its vectors.
        slider: (number of the call, count) -> the slider to move.
    """
    # No ω is 0, so that every vector takes part.
    omegas = [0.1 + 0.05 * index for index in range(count)]
    step = iter(range(10**9))

    def move() -> machine.Cost:
        omegas[slider(next(step), count)] += 0.01
        recipe = _recipe(omegas)
        return machine.timed(lambda: live.apply(recipe))

    return move


def _recipe(omegas: Sequence[float]) -> "Recipe":
    from merging import Recipe

    names = [f"expert{number}" for number in range(len(omegas))]
    return Recipe.compose(
        "base", {name: name for name in names}, dict(zip(names, omegas, strict=True))
    )


def _load(folder: Path, experts: int) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Read base and experts of a folder of checkpoints into RAM."""
    from merging import Checkpoint, in_memory

    names = [f"expert{number}" for number in range(experts)]
    return in_memory(Checkpoint(folder / "base")), {
        name: in_memory(Checkpoint(folder / name)) for name in names
    }


def _live(base: dict[str, Any], tuned: dict[str, dict[str, Any]]) -> "LiveModel":
    """Return a live model with one parameter per tensor of the files, under the same name."""
    import torch
    from torch import nn

    from merging import DistributionVector, LiveModel, View

    module = nn.Module()
    for name, values in base.items():
        *path, leaf = name.split(".")
        owner = module
        for part in path:
            if not hasattr(owner, part):
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        owner.register_parameter(leaf, nn.Parameter(torch.empty_like(values)))
    vectors = {name: DistributionVector(name, base, weights) for name, weights in tuned.items()}
    return LiveModel(module, base, vectors, {name: View(name) for name in base})


def _copy(
    base: dict[str, Any], tuned: dict[str, dict[str, Any]], live: "LiveModel", threads: int
) -> None:
    """Read every tensor of base and experts, and write every tensor of the module."""
    import torch

    from merging.live.live_model import resolve
    from merging.threads import Spare, in_order

    buffers = Spare(lambda: torch.empty(BLOCK, dtype=next(iter(base.values())).dtype))
    targets = {name: resolve(live.module, live.views[name]).view(-1) for name in base}
    pieces = [
        (name, slice(start, min(start + BLOCK, values.numel())))
        for name, values in base.items()
        for start in range(0, values.numel(), BLOCK)
    ]

    def copy_piece(piece: tuple[str, slice]) -> None:
        name, span = piece
        with buffers.borrowed() as buffer:
            for weights in tuned.values():
                source = weights[name].view(-1)[span]
                buffer[: len(source)].copy_(source)
            targets[name][span].copy_(base[name].view(-1)[span])

    for _ in in_order(pieces, copy_piece, room=4 * threads, threads=threads):
        pass
    # The module now holds the base, so its next composition must write every tensor.
    live.forget()


if __name__ == "__main__":
    main()
