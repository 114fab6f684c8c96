"""Claim: a sparse projection takes 1/100 of a dense one's time, with cosines as accurate.

    python -m benchmarks.projection_against_dense
        [--examples 48] [--dimension 8192] [--rounds 5] [--trak PYTHON]

Gradients of examples of the demo, of the attention weights of its base's first layer. The sparse
projection (s = 4) and this project's streamed dense one run against a plain dense projection, which
makes its matrix anew for each batch, all parameters × 100 columns at a time. With --trak, the
Python of an environment that has traker, trak's BasicProjector runs too. Each run has a process of
its own, and each round a seed of its own. The error is the root mean square, over all pairs of
examples and all rounds, of the difference between the cosine of the projections and that of the
gradients.

The peak is the memory beyond the gradients, the projections included. It is measured again for the
sparse projection of the gradient of all weights of one example, as a store of gradients has it: a
part of one layer is so small that what the projection takes whatever its size is most of it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import machine

if TYPE_CHECKING:
    from torch import Tensor

TIMES, ERRORS, GRADIENTS = 0.01, 1.05, 2.0
"""The targets: time and error against dense, and the peak in gradients of one example."""
PART = ".layers.0.self_attn."
"""What the names of the weights contain whose gradients all ways project."""
BLOCK = 100
"""Columns that the plain dense projection holds at once, which is BasicProjector's default."""
SPARSE, STREAMED, PLAIN, TRAK = "sparse", "dense, streamed", "dense, plain", "trak"


def main(argv: Sequence[str] | None = None) -> None:
    """Run all ways in turn; print their times, errors of cosines and peaks."""
    options = machine.begin(
        __file__,
        __doc__,
        argv,
        rounds=5,
        examples={"type": int, "default": 48, "help": "examples of a batch (default: 48)"},
        dimension={"type": int, "default": 8192, "help": "numbers for each (default: 8192)"},
        trak={"type": Path, "help": "the Python of an environment that has traker"},
    )
    ways = [SPARSE, STREAMED, PLAIN, *([TRAK] if options.trak else [])]
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        gradients = str(Path(folder) / "gradients.pt")
        _run(sys.executable, "save", gradients, str(options.examples), PART)
        for seed in range(options.rounds):
            for way in ways[:: -1 if seed % 2 else 1]:
                python = str(options.trak) if way == TRAK else sys.executable
                words = [way, gradients, str(options.dimension), str(seed)]
                runs[way].append(json.loads(_run(python, "measure", *words)))
        _run(sys.executable, "save", gradients, "1", "")
        whole = [
            json.loads(
                _run(
                    sys.executable, "measure", SPARSE, gradients, str(options.dimension), str(seed)
                )
            )
            for seed in range(options.rounds)
        ]
    dense = TRAK if options.trak else PLAIN
    errors = {
        way: (sum(run["error"] ** 2 for run in each) / len(each)) ** 0.5
        for way, each in runs.items()
    }
    rows = []
    for way, each in runs.items():
        pairs = list(zip(each, runs[dense], strict=True))
        share = machine.spread([run["seconds"] / other["seconds"] for run, other in pairs])
        peak = machine.spread([run["peak"] for run in each])
        cells = [
            (machine.spread([run["seconds"] for run in each]).text(".3f"), None),
            (f"1/{1 / share.median:.0f}", (share.median, TIMES)),
            (f"{errors[way]:.4f}", None),
            (f"{errors[way] / errors[STREAMED]:.3f}", (errors[way] / errors[STREAMED], ERRORS)),
            (peak.text(), None),
        ]
        rows.append(
            [
                way,
                *(
                    f"{text}, {machine.target(*goal)}" if goal and way == SPARSE else text
                    for text, goal in cells
                ),
            ]
        )
    columns = ["projection", "seconds", f"against {dense}", "error of cosines"]
    columns += [f"against {STREAMED}", "peak in gradients of one example"]
    machine.show(columns, rows)
    peak = machine.spread([run["peak"] for run in whole])
    print(
        f"\nPeak of the sparse projection of the gradient of all {whole[0]['numbers']:,} weights, "
        f"in gradients: {peak.text()}, {machine.target(peak.median, GRADIENTS)}"
    )


def _run(python: str, function: str, *words: str) -> str:
    """Run a function of this file in a process of its own, and return what it printed."""
    code = f"import sys; from benchmarks.{Path(__file__).stem} import {function}; "
    code += f"{function}(*sys.argv[1:])"
    command = [python, "-c", code, *words]
    done = subprocess.run(command, check=True, cwd=machine.ROOT, stdout=subprocess.PIPE, text=True)
    return done.stdout


def save(file: str, examples: str, part: str) -> None:
    """Save the gradients of the first examples of all datasets in turn: name -> one row each.

    Args:
        file: is written.
        examples: how many.
        part: what the names of the weights contain.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from corpus import encode_all

    records = machine.records(machine.DEMO, "validation", int(examples))
    tokenizer = AutoTokenizer.from_pretrained(machine.DEMO / "base")
    model = AutoModelForCausalLM.from_pretrained(machine.DEMO / "base", dtype=torch.float32)
    weights = {name: weight for name, weight in model.named_parameters() if part in name}
    rows = []
    for item in encode_all(records, tokenizer)[0]:
        ids = torch.tensor(item.ids, dtype=torch.long)[None]
        labels = ids.masked_fill(~torch.tensor(item.supervised, dtype=torch.bool), -100)
        loss = model(input_ids=ids, labels=labels).loss
        rows.append(torch.autograd.grad(loss, list(weights.values())))
    stacked = [torch.stack(each) for each in zip(*rows, strict=True)]
    torch.save(dict(zip(weights, stacked, strict=True)), file)


def measure(way: str, file: str, dimension: str, seed: str) -> None:
    """Print the seconds, the peak beyond the gradients and the error of one projection."""
    import torch

    from plumbing.meter import high_water

    gradients = torch.load(file)
    flat = torch.cat([each.flatten(1) for each in gradients.values()], 1)
    few = {name: each[:1, :1] for name, each in gradients.items()}
    _project(way, few, min(int(dimension), 8), 0)  # what is imported and made only once
    mark = high_water("cpu")
    before = mark.end(mark.begin())
    token = mark.begin()
    projected: list[Tensor] = []
    # Both take the gradients as their callers have them: by parameter, or already in one piece.
    each = {"": flat} if way in (PLAIN, TRAK) else gradients
    seconds = machine.timed(
        lambda: projected.append(_project(way, each, int(dimension), int(seed)))
    ).seconds
    peak = (mark.end(token) - before) / (flat[0].numel() * flat.element_size())
    error = (_cosines(projected[0]) - _cosines(flat)).square().mean().sqrt().item()
    found = {"seconds": seconds, "peak": peak, "error": error, "numbers": flat[0].numel()}
    print(json.dumps(found))


def _project(way: str, gradients: dict[str, Tensor], dimension: int, seed: int) -> Tensor:
    """Return the projections of all gradients (examples, dimension)."""
    import torch

    if way in (SPARSE, STREAMED):
        from influence.projection.projector import Projection, Projector

        kind = "sparse" if way == SPARSE else "rademacher"
        projector = Projector(Projection(kind, dimension, seed))
        for name, each in gradients.items():
            projector.add(name, each)
        return projector.result()
    flat = torch.cat([each.flatten(1) for each in gradients.values()], 1)
    if way == PLAIN:
        generator = torch.Generator().manual_seed(seed)
        projected = flat.new_empty(len(flat), dimension)
        for columns in projected.split(BLOCK, 1):
            matrix = flat.new_empty(flat.shape[1], columns.shape[1])
            matrix.bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
            columns.copy_(flat @ matrix)
        return projected
    from trak.projectors import BasicProjector, ProjectionType

    basic = BasicProjector(
        flat.shape[1], dimension, seed, ProjectionType.rademacher, torch.device("cpu")
    )
    result: Tensor = basic.project(flat, model_id=0)
    return result


def _cosines(rows: Tensor) -> Tensor:
    """Return the cosines of all pairs of rows, in float64."""
    import torch

    unit = torch.nn.functional.normalize(rows.double(), dim=1)
    first, second = torch.triu_indices(len(rows), len(rows), 1)
    return (unit @ unit.T)[first, second]


if __name__ == "__main__":
    main()
