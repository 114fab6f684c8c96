"""Claim: a settled composition in RAM takes at most twice as long as copying the same bytes.

    python -m benchmarks.compose_against_copy [--size 1.2B] [--rounds 5]

The base, five vectors and the module are held in RAM. All ω change, LiveModel.apply writes every tensor, against
torch copying the same bytes: six tensors are read and one is written, in blocks, each vector's block into one reused
buffer that stays in the cache, the base's block to where the result goes. The copy runs with one thread, and with one
for each core, each of which copies blocks of its own.

Then one slider is moved of a model with ten vectors, and of one with two: the same slider again and again, as in a
drag, and each slider after the other. Its second claim is that ten cost at most 20 % more than two.
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
BLOCK = 2**18
"""Elements copied at once: half a megabyte of bfloat16."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run both parts, and print a table of each."""
    options = machine.begin(__file__, __doc__, argv, rounds=5, size="0.5B")
    _compose(_fitting(options.size, EXPERTS + 2), options)
    _slide(_fitting(options.size, MANY + 3), options)


def _fitting(size: str, copies: int) -> str:
    """The size asked for, or the largest below it of which so many copies fit in the free memory."""
    free = psutil.virtual_memory().available * 0.9
    for name in reversed(shapes.up_to(size)):
        if shapes.nbytes(name, copies) < free:
            return name
    raise SystemExit(
        f"{copies} models of {size} do not fit in {free / 1e9:.1f} GB of free memory. Free some."
    )


def _compose(size: str, options: Any) -> None:
    with shapes.checkpoints(size, EXPERTS, options.weights) as folder:
        base, tuned = _held(folder, EXPERTS)
    live = _live(base, tuned)
    step = iter(range(10**9))

    def apply() -> machine.Cost:
        number = next(step)
        made = _recipe([0.1 + 0.01 * number + 0.1 * place for place in range(EXPERTS)])
        return machine.timed(lambda: live.apply(made))

    contenders: dict[str, Callable[[], machine.Cost]] = {"all ω moved": apply}
    for threads in copying.workers():
        copy = partial(_copy, base, tuned, live, threads)
        contenders[f"copy, threads: {threads}"] = partial(machine.timed, copy)
    machine.in_turn(1, contenders)
    found = machine.in_turn(options.rounds, contenders)
    read, written = shapes.nbytes(size, EXPERTS + 1) / 1e9, shapes.nbytes(size, 1) / 1e9
    print(
        f"{shapes.parameters(size):,} parameters, {EXPERTS} vectors: {read:.2f} GB read, {written:.2f} GB written\n"
    )
    (first, applied), *copies = found.items()
    rows = [[first, machine.seconds(applied).text(".3f"), "", ""]]
    for name, costs in copies:
        ratio = machine.ratio(applied, costs)
        rows.append(
            [name, machine.seconds(costs).text(".3f"), ratio.text(), machine.bar(ratio.median, 2)]
        )
    machine.show(["what", "seconds", "apply / copy", "bar"], rows)


def _slide(size: str, options: Any) -> None:
    with shapes.checkpoints(size, MANY, options.weights) as folder:
        base, tuned = _held(folder, MANY)
    models = {count: _live(base, dict(list(tuned.items())[:count])) for count in (FEW, MANY)}
    rows = []
    for what, chosen in {
        "the same slider again": lambda number, count: 0,
        "each in turn": _each,
    }.items():
        contenders = {
            f"one of {count}": _mover(live, count, chosen) for count, live in models.items()
        }
        machine.in_turn(1, contenders)
        found = machine.in_turn(options.rounds, contenders)
        few, many = found.values()
        ratio = machine.ratio(many, few)
        shown = [machine.seconds(costs).text(".3f") for costs in (few, many)]
        rows.append([what, *shown, ratio.text(), machine.bar(ratio.median, 1.2)])
    print(f"{shapes.parameters(size):,} parameters, one slider moved\n")
    machine.show(
        ["which", f"one of {FEW}, seconds", f"one of {MANY}, seconds", "ratio", "bar"], rows
    )


def _each(number: int, count: int) -> int:
    return number % count


def _mover(
    live: "LiveModel", count: int, chosen: Callable[[int, int], int]
) -> Callable[[], machine.Cost]:
    """Each call moves one slider a little; all ω are non-zero, so that every vector takes part."""
    omegas = [0.1 + 0.05 * place for place in range(count)]
    step = iter(range(10**9))

    def move() -> machine.Cost:
        omegas[chosen(next(step), count)] += 0.01
        made = _recipe(omegas)
        return machine.timed(lambda: live.apply(made))

    return move


def _recipe(omegas: Sequence[float]) -> "Recipe":
    from merging import Recipe

    names = [f"expert{number}" for number in range(len(omegas))]
    return Recipe.compose(
        "base", {name: name for name in names}, dict(zip(names, omegas, strict=True))
    )


def _held(folder: Path, experts: int) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Base and experts, each tensor in RAM."""
    from merging import Checkpoint, in_memory

    names = [f"expert{number}" for number in range(experts)]
    return in_memory(Checkpoint(folder / "base")), {
        name: in_memory(Checkpoint(folder / name)) for name in names
    }


def _live(base: dict[str, Any], tuned: dict[str, dict[str, Any]]) -> "LiveModel":
    """A module with a parameter for each tensor of the files, under the same name, and its views."""
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
    """Read every tensor of base and vectors, and write the module's."""
    import torch

    from merging.engine.threads import Spare, in_order
    from merging.live.live_model import resolve

    buffers = Spare(lambda: torch.empty(BLOCK, dtype=next(iter(base.values())).dtype))
    places = {name: resolve(live.module, live.views[name]).view(-1) for name in base}
    pieces = [
        (name, slice(start, min(start + BLOCK, values.numel())))
        for name, values in base.items()
        for start in range(0, values.numel(), BLOCK)
    ]

    def copied(piece: tuple[str, slice]) -> None:
        name, span = piece
        with buffers.borrowed() as buffer:
            for weights in tuned.values():
                source = weights[name].view(-1)[span]
                buffer[: len(source)].copy_(source)
            places[name][span].copy_(base[name].view(-1)[span])

    for _ in in_order(pieces, copied, room=4 * threads, threads=threads):
        pass
    live.forget()  # the module is no composition any more


if __name__ == "__main__":
    main()
