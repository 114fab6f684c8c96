"""Claim: factors of rank 16 take a third of a singular value decomposition, with 1 % more error.

    python -m benchmarks.factors_against_svd [--rank 16] [--rounds 3]

`dem extract` makes an adapter of a full fine-tune: for each matrix, the product of two factors of a
rank that is nearest to its delta. Both ways run in turn in one process, on one thread: the factors
as `dem extract` computes them, and the first singular triplets of a whole decomposition by torch.
The matrices have the shapes of a layer of 0.5 billion parameters. Their singular values fall like
1/√k, as those of fine-tuned layers do roughly, or stay equal (independent normal numbers), which is
the hardest case.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from benchmarks import machine

if TYPE_CHECKING:
    from torch import Tensor

TIME, ERROR = 1 / 3, 1.01
"""The targets, against a whole decomposition: share of the time, and the error times as large."""
SHAPES = {"attention": (896, 896), "up and gate": (4864, 896), "down": (896, 4864)}
SPECTRA = ("falling", "equal")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure each shape with both spectra, and print a row for each."""
    rank = {"type": int, "default": 16, "help": "of the factors (default: 16)"}
    options = machine.begin(__file__, __doc__, argv, rounds=3, rank=rank)
    import torch

    torch.set_num_threads(1)
    rows = []
    for name, shape in SHAPES.items():
        for spectrum in SPECTRA:
            ways, errors = _ways(_delta(shape, spectrum), options.rank)
            costs = machine.in_turn(options.rounds, ways)
            share = machine.ratio(costs["factors"], costs["whole"], of="cpu")
            error = errors["factors"] / errors["whole"]
            rows.append(
                [
                    f"{name}, {shape[0]} × {shape[1]}",
                    spectrum,
                    machine.cpu(costs["factors"]).text(".2f"),
                    machine.cpu(costs["whole"]).text(".2f"),
                    f"{share.text('.3f')}; ≤ 1/3: {'met' if share.median <= TIME else 'missed'}",
                    f"{error:.4f}; {machine.target(error, ERROR)}",
                ]
            )
    machine.show(
        ["matrix", "singular values", "CPU s", "whole, CPU s", "ratio", "error, times as large"],
        rows,
    )


def _ways(
    delta: "Tensor", rank: int
) -> tuple[dict[str, Callable[[], machine.Cost]], dict[str, float]]:
    """Return what is measured, and the error of each way, which is known after it has run."""
    import torch

    from merging.engine.low_rank import Product, factorise, residual

    errors: dict[str, float] = {}

    def run(way: str, work: Callable[[], Product]) -> machine.Cost:
        found: list[Product] = []
        cost = machine.timed(lambda: found.append(work()))
        errors[way] = residual(delta, found[0])
        return cost

    def whole() -> Product:
        left, sizes, right = torch.linalg.svd(delta, full_matrices=False)
        return Product(left[:, :rank] * sizes[:rank], right[:rank])

    return {
        "factors": lambda: run("factors", lambda: factorise(delta, rank=rank)),
        "whole": lambda: run("whole", whole),
    }, errors


def _delta(shape: tuple[int, int], spectrum: str) -> "Tensor":
    """Return a float32 matrix with random directions."""
    import torch

    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(shape, generator=generator)
    if spectrum == "equal":
        return normal
    left, _, right = torch.linalg.svd(normal, full_matrices=False)
    return (left / torch.arange(1, left.shape[1] + 1) ** 0.5) @ right


if __name__ == "__main__":
    main()
