"""Claim: without instructions for bfloat16, a pass takes at most 1.5 times as long as in float32.

    python -m benchmarks.half_products [--rounds 5] [--size 135M] [--weights FOLDER]

Forward passes of one batch of 4 x 128 random tokens through one module with random weights: in
float32, in bfloat16 with the factors of each product converted to float32 (as the workbench does
where the CPU has no such instructions), and in bfloat16 as torch computes it by itself. On a CPU
that has the instructions the workbench leaves bfloat16 to torch, and the second row shows what the
conversion would cost.
"""

from collections.abc import Callable, Sequence

from benchmarks import machine, shapes

MOST = 1.5
"""The longest time of a converted pass, in times of one in float32."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the three passes in turn, and print a row for each."""
    options = machine.begin(__file__, __doc__, argv, rounds=5, size="135M")
    import torch

    from evaluation import cpu_products
    from evaluation.cpu_products import CpuProducts
    from evaluation.model import load
    from merging.inputs.checkpoint import Checkpoint

    native = cpu_products._FAST[torch.bfloat16]
    print(f"this CPU has instructions for bfloat16: {'yes' if native else 'no'}\n")
    with shapes.checkpoints(options.size, 0, options.weights) as folder:
        base = folder / "base"
        modules = {
            dtype: load(base, checkpoint=Checkpoint(base), dtype=dtype).module
            for dtype in (torch.float32, torch.bfloat16)
        }
    ids = torch.randint(shapes.SIZES[options.size][-1], (4, 128))

    def run(dtype: torch.dtype, fast: bool) -> Callable[[], machine.Cost]:
        def work() -> None:
            cpu_products._FAST[torch.bfloat16] = fast
            try:
                with torch.inference_mode(), CpuProducts():
                    modules[dtype](input_ids=ids, use_cache=False, logits_to_keep=32)
            finally:
                cpu_products._FAST[torch.bfloat16] = native

        return lambda: machine.timed(work)

    contenders = {
        "float32": run(torch.float32, fast=True),
        "bfloat16, converted": run(torch.bfloat16, fast=False),
        "bfloat16, torch's own": run(torch.bfloat16, fast=True),
    }
    # The first round also pays for memory that is taken for the first time.
    machine.in_turn(1, contenders)
    costs = machine.in_turn(options.rounds, contenders)
    rows = machine.against(costs, "float32", "bfloat16, converted", MOST)
    machine.show(["a pass in", "seconds", "of float32", "target"], rows)


if __name__ == "__main__":
    main()
