"""Claim: an evaluation of a search costs its forward passes plus at most 15 %.

    python -m benchmarks.evaluation_against_forward [--rounds 5] [--demo FOLDER]

An evaluation is what a search pays for one composition: it composes, measures the losses of all
examples of all datasets, and stores them with their cost. Its forward passes are the same batches
through the same module, in the same number of threads, with nothing before or after them. The
evaluation with derivatives, which counts as three, is measured too. Each takes another composition,
because what was measured before is read.
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import machine

TARGET = 1.15


def main(argv: Sequence[str] | None = None) -> None:
    """Measure evaluations and bare forward passes in turn, and print a table."""
    demo = {"type": Path, "default": machine.DEMO, "help": "a folder with base/ and data/"}
    options = machine.begin(__file__, __doc__, argv, rounds=5, demo=demo)
    import numpy as np

    from evaluation.loss import Sweep
    from workbench.search.points import Points
    from workbench.session.loss_on_axis import FULL
    from workbench.session.session import Session

    rng = np.random.default_rng(0)
    with TemporaryDirectory() as folder:
        session = Session([], Path(folder), demo=options.demo)
        session.open_demo()
        try:
            models = session.models
            points = Points(session, models)
            datasets = [
                each for data in models.data.values() for each in data.prepared[FULL].datasets
            ]

            def forward() -> machine.Cost:
                recipe = points.recipe(_omegas())
                with session.composed(models, recipe) as module:
                    sweep = Sweep(datasets)

                    def run() -> None:
                        while not sweep.done:
                            sweep.step(module)

                    return machine.timed(run)

            def evaluation(gradients: bool) -> machine.Cost:
                omegas = _omegas()
                return machine.timed(lambda: points.measure(omegas, gradients, lambda: False))

            def _omegas() -> dict[str, float]:
                return {name: round(float(rng.uniform()), 4) for name in models.names}

            contenders = {
                "forward passes": forward,
                "an evaluation": lambda: evaluation(False),
                "with derivatives": lambda: evaluation(True),
            }
            # The first round also pays for memory that is taken for the first time.
            machine.in_turn(1, contenders)
            costs = machine.in_turn(options.rounds, contenders)
        finally:
            session.close()
    rows = machine.against(costs, "forward passes", "an evaluation", TARGET)
    machine.show(["contender", "seconds", "against forward passes", "target"], rows)


if __name__ == "__main__":
    main()
