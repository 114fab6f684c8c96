"""Claim: the geometry of five vectors takes at most 1.5 times as long as reading and copying them.

    python -m benchmarks.geometry_against_read [--size 1.2B] [--rounds 3]

In one process, after all imports and with a warm page cache: measure() of a base and five experts,
whose files are opened anew each time. Against it, every byte of these files is read once into a
reused buffer and copied from there into a second one (benchmarks.copying), with one thread and with
one thread per core.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks import copying, machine, shapes

EXPERTS = 5


def main(argv: Sequence[str] | None = None) -> None:
    """Run all contenders in turn, and print a row for each."""
    options = machine.begin(__file__, __doc__, argv, rounds=3, size="0.5B")
    with shapes.checkpoints(options.size, EXPERTS, options.weights) as folder:
        files = shapes.files(folder, EXPERTS)
        contenders = {"geometry": partial(_measure, [file.parent for file in files])}
        for threads in copying.workers():
            contenders[f"read and copy, threads: {threads}"] = partial(
                machine.timed, partial(copying.copy, files, None, threads)
            )
        # Warms the page cache, and makes torch load what it loads at first use.
        machine.in_turn(1, contenders)
        costs = machine.in_turn(options.rounds, contenders)
    print(f"{shapes.nbytes(options.size, EXPERTS + 1) / 1e9:.2f} GB read\n")
    rows = [["geometry", machine.seconds(costs["geometry"]).text(), "", ""]]
    for name, copies in list(costs.items())[1:]:
        ratio = machine.ratio(costs["geometry"], copies)
        target = machine.target(ratio.median, 1.5)
        rows.append([name, machine.seconds(copies).text(), ratio.text(), target])
    machine.show(["what", "seconds", "geometry / this", "target"], rows)


def _measure(folders: Sequence[Path]) -> machine.Cost:
    from merging import Checkpoint, measure, open_vector

    base = Checkpoint(folders[0])
    vectors = {folder.name: open_vector(folder, base) for folder in folders[1:]}
    return machine.timed(lambda: measure(base, vectors))


if __name__ == "__main__":
    main()
