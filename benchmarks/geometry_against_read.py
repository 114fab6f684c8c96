"""Claim: the geometry of five vectors takes at most 1.5 times as long as one read of the inputs and a copy of them.

    python -m benchmarks.geometry_against_read [--size 1.2B] [--rounds 3]

In one process, with imports done and the page cache warm: measure() of a base and five experts in files, opened anew
each time, against reading every byte of them once into a reused buffer and copying it from there into a second one
(benchmarks.copying), with one thread and with one for each core.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks import copying, machine, shapes

EXPERTS = 5


def main(argv: Sequence[str] | None = None) -> None:
    """Run all in turn, and print a row for each."""
    options = machine.begin(__file__, __doc__, argv, rounds=3, size="0.5B")
    with shapes.checkpoints(options.size, EXPERTS, options.weights) as folder:
        files = shapes.files(folder, EXPERTS)
        contenders = {"geometry": partial(_measure, [file.parent for file in files])}
        for threads in copying.workers():
            contenders[f"read and copy, threads: {threads}"] = partial(
                machine.timed, partial(copying.copy, files, None, threads)
            )
        machine.in_turn(1, contenders)  # warms the page cache and what torch loads at first use
        found = machine.in_turn(options.rounds, contenders)
    print(f"{shapes.nbytes(options.size, EXPERTS + 1) / 1e9:.2f} GB read\n")
    rows = [["geometry", machine.seconds(found["geometry"]).text(), "", ""]]
    for name, costs in list(found.items())[1:]:
        ratio = machine.ratio(found["geometry"], costs)
        rows.append(
            [name, machine.seconds(costs).text(), ratio.text(), machine.bar(ratio.median, 1.5)]
        )
    machine.show(["what", "seconds", "geometry / this", "bar"], rows)


def _measure(folders: Sequence[Path]) -> machine.Cost:
    from merging import Checkpoint, measure, open_vector

    base = Checkpoint(folders[0])
    vectors = {one.name: open_vector(one, base) for one in folders[1:]}
    return machine.timed(lambda: measure(base, vectors))


if __name__ == "__main__":
    main()
