"""Claim: each method of mergekit takes a third of its time and a sixth of its memory.

    python -m benchmarks.methods_against_mergekit [--size 0.5B] [--methods ties slerp] [--rounds 1]

Both tools merge the same recipe (bfloat16, a base and five experts, or as many as the method
takes) in cold processes, in turn, until the result is safe on the disk, as in
merge_against_mergekit. Methods that mergekit does not have are measured alone. Memory is the peak
of anonymous memory, which leaves out what mergekit maps of its inputs. Methods of singular vectors
may take three minutes, and more memory than the others.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import machine, shapes
from benchmarks.merge_against_mergekit import (
    EXPERTS,
    OURS,
    THEIRS,
    check_mergekit,
    contenders,
    fraction_target,
    inputs_text,
)

TIME, MEMORY = 1 / 3, 1 / 6
"""The targets against mergekit."""
MOST_MB, MOST_SECONDS = 600.0, 180.0
"""The targets for the peak of all others, and for the time of those of singular vectors."""
SPARSE = {"density": 0.5}
_OF = ["mergekit", "ratio", "target"]
COLUMNS = ["method", "seconds", *_OF, "MB", *_OF]


class Case(NamedTuple):
    """How a method is measured.

    Attributes:
        parameters: those of the recipe.
        experts: how many experts, beside the base.
        base_listed: whether the base is listed among the models.
        weighted: whether the method has an ω for each expert.
        mergekit: whether mergekit 0.1.5 has the method.
    """

    parameters: Mapping[str, object] = {}
    experts: int = EXPERTS
    base_listed: bool = False
    weighted: bool = True
    mergekit: bool = True


CASES = {
    "task_arithmetic": Case(),
    # mergekit averages the base too, and asks for its weight.
    "linear": Case({"weight": 0.0}),
    "ties": Case(SPARSE),
    "dare_linear": Case(SPARSE),
    "dare_ties": Case(SPARSE),
    "breadcrumbs": Case({"density": 0.5, "gamma": 0.01}),
    "breadcrumbs_ties": Case({"density": 0.5, "gamma": 0.01}),
    "della": Case({"density": 0.5, "epsilon": 0.1}),
    "della_linear": Case({"density": 0.5, "epsilon": 0.1}),
    "sce": Case({"select_topk": 0.5}, weighted=False),
    "model_stock": Case(weighted=False),
    "multislerp": Case(),
    "karcher": Case(weighted=False),
    "slerp": Case({"t": 0.4}, 1, base_listed=True, weighted=False),
    "nuslerp": Case(experts=2),
    "nearswap": Case({"t": 0.001}, 1, base_listed=True, weighted=False),
    "arcee_fusion": Case({}, 1, base_listed=True, weighted=False),
    "tsv": Case(mergekit=False),
    "iso_c": Case(mergekit=False),
    "iso_cts": Case(mergekit=False),
}
SINGULAR = ("tsv", "iso_c", "iso_cts")


def main(argv: Sequence[str] | None = None) -> None:
    """Merge by each method with both tools, and print a row for each.

    Raises:
        SystemExit: mergekit is not installed in .venv-mergekit, or one of the tools failed.
    """
    methods = {"nargs": "+", "default": list(CASES), "choices": list(CASES), "help": "only these"}
    options = machine.begin(__file__, __doc__, argv, rounds=1, size="0.5B", methods=methods)
    if any(CASES[name].mergekit for name in options.methods):
        check_mergekit()
    rows: list[list[str]] = []
    try:
        with shapes.checkpoints(options.size, EXPERTS, options.weights) as folder:
            for name in options.methods:
                rows.append(_row(name, _measured(name, folder, options.rounds)))
                print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    finally:  # all of them take an hour: if one fails, the others are shown all the same
        print(f"{inputs_text(options.size)}\n")
        machine.show(COLUMNS, rows)


def _measured(name: str, folder: Path, rounds: int) -> dict[str, list[machine.Cost]]:
    case = CASES[name]
    recipe = shapes.recipe(
        folder,
        case.experts,
        name,
        case.parameters,
        base_listed=case.base_listed,
        weighted=case.weighted,
    )
    both = contenders(recipe, shapes.files(folder, case.experts))
    return machine.in_turn(rounds, both if case.mergekit else {OURS: both[OURS]})


def _row(name: str, costs: Mapping[str, Sequence[machine.Cost]]) -> list[str]:
    """Return the cells of a method: time and memory, each with mergekit's, ratio and targets."""
    cells = [name]
    for of, unit, form, most in (("seconds", 1.0, ".1f", TIME), ("own", 1e6, ".0f", MEMORY)):
        spreads = {
            tool: machine.spread([getattr(cost, of) / unit for cost in taken])
            for tool, taken in costs.items()
        }
        alone = MOST_SECONDS if of == "seconds" else MOST_MB
        targets = []
        # Those of singular vectors have a target for their time alone, the others for their memory.
        if (of == "seconds") == (name in SINGULAR):
            targets.append(machine.target(spreads[OURS].median, alone))
        shown = ["–", "–"]
        if THEIRS in costs:
            ratio = machine.ratio(costs[OURS], costs[THEIRS], of)
            shown = [spreads[THEIRS].text(form), f"1/{1 / ratio.median:.1f}"]
            targets.append(fraction_target(ratio.median, most))
        cells += [spreads[OURS].text(form), *shown, "; ".join(targets) or "–"]
    return cells


if __name__ == "__main__":
    main()
