"""Claim: on an accelerator a composition takes at most twice as long as copying the same bytes.

    python -m benchmarks.device
        [--device cuda] [--sizes 1.2B 8B] [--experts 2] [--rounds 3] [--weights DIR]

The first table is a merge from files to a verified folder, on the device and on the CPU, in turn.

For the second table base, vectors and module are in the device's memory. It compares a composition
of all vectors into the module with torch copying the same bytes: each tensor of the vectors into a
buffer, each tensor of the base into the module. It also shows one step of generation by that module
after 512 tokens.

Without an accelerator the benchmark says so and measures nothing. `--device cpu` runs the same code
on the CPU, which tests the benchmark and says nothing about an accelerator.
"""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import machine, shapes
from merging.recipe import read_recipe

if TYPE_CHECKING:
    from torch import Tensor, nn

    from merging.engine.accelerator import Accelerator

PROMPT = 512
"""Tokens before the step of generation."""
BLOCKS = (2**20, 2**24)
"""Elements of a piece: as in an export, and larger, because here none crosses the host's memory."""

COPY = "copy of the same bytes"
ON_CPU = "merge on the CPU"


def main(argv: Sequence[str] | None = None) -> None:
    """Print two tables for each size, or that there is no accelerator."""
    more = {
        "device": {"default": "cuda", "help": "as torch names it (default: cuda)"},
        "sizes": {
            "nargs": "+",
            "choices": shapes.SIZES,
            "default": ["1.2B", "8B"],
            "help": "parameters of the models (default: 1.2B 8B)",
        },
        "experts": {"type": int, "default": 2, "help": "number of vectors (default: 2)"},
        "weights": {
            "type": Path,
            "help": "keep the weights in this folder, and reuse those in it",
        },
    }
    options = machine.begin(__file__, __doc__, argv, rounds=3, **more)
    from merging.errors import DeviceError

    try:
        open_device = _opener(options.device)
    except DeviceError as error:
        print(f"No accelerator here, nothing was measured: {error}")
        return
    report = open_device().report("task_arithmetic").removeprefix("computed on ")
    print(f"device:   {report}\n")
    for size in options.sizes:
        _merge(size, open_device, options)
        _compose(size, options)


def _opener(device: str) -> "Callable[[], Accelerator]":
    """Return a function that opens the device for one export.

    "cpu" becomes an Accelerator too, so that the same code runs.

    Raises:
        DeviceError: torch does not find the device.
    """
    import torch

    from merging.engine.accelerator import Accelerator, open_accelerator

    opened = open_accelerator(device)
    return lambda: Accelerator(torch.device("cpu") if opened is None else opened.device)


def _merge(size: str, open_device: "Callable[[], Accelerator]", options: Any) -> None:
    # Base, experts and export, and a little for the other files.
    needed = shapes.nbytes(size, options.experts + 2) * 1.05
    free = shutil.disk_usage(options.weights or tempfile.gettempdir()).free
    if free < needed:
        print(
            f"{size}: a merge needs {needed / 1e9:.0f} GB of disk and {free / 1e9:.0f} are free. "
            "It is left out.\n"
        )
        return
    with shapes.checkpoints(size, options.experts, options.weights) as folder:
        recipe = shapes.recipe(folder, options.experts)
        contenders: dict[str, Callable[[], machine.Cost]] = {
            "merge on the device": lambda: _export(recipe, folder / "out", open_device()),
            ON_CPU: lambda: _export(recipe, folder / "out", None),
        }
        machine.in_turn(1, contenders)
        costs = machine.in_turn(options.rounds, contenders)
    _show(size, options.experts, costs, ON_CPU)


def _export(recipe: Path, out: Path, device: "Accelerator | None") -> machine.Cost:
    from merging import export, open_recipe

    read = read_recipe(recipe)
    base, vectors = open_recipe(read)
    try:
        return machine.timed(lambda: export(read, base, vectors, out, device=device))
    finally:
        shutil.rmtree(out, ignore_errors=True)


def _compose(size: str, options: Any) -> None:
    import torch

    # Base, experts and module, and a tenth for the buffers and the cache of generation.
    needed = shapes.nbytes(size, options.experts + 2) * 1.1
    free = _free(options.device)
    if free < needed:
        print(
            f"{size}: a composition needs {needed / 1e9:.0f} GB of device memory and "
            f"{free / 1e9:.0f} are free. It is left out.\n"
        )
        return
    module = _module(size, options.device)
    base = {name: value.detach().clone() for name, value in module.named_parameters()}
    noise = torch.Generator(options.device).manual_seed(0)
    tuned = {
        f"expert{number}": {
            name: value + torch.empty_like(value).uniform_(-4e-4, 4e-4, generator=noise)
            for name, value in base.items()
        }
        for number in range(options.experts)
    }
    works = {
        f"composition, pieces of 2^{block.bit_length() - 1}": _composer(module, base, tuned, block)
        for block in BLOCKS
    }
    works[COPY] = lambda: _copy(module, base, tuned)
    works["one step of generation"] = _step(module)
    contenders = {
        name: partial(machine.timed_on, options.device, work) for name, work in works.items()
    }
    machine.in_turn(1, contenders)
    costs = machine.in_turn(options.rounds, contenders)
    _show(size, options.experts, costs, COPY)


def _free(device: str) -> int:
    """Return the free memory of a device in bytes."""
    if not device.startswith("cuda"):
        import psutil

        return int(psutil.virtual_memory().available)
    import torch

    return torch.cuda.mem_get_info(device)[0]


def _module(size: str, device: str) -> "nn.Module":
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = shapes.config(size)
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    with torch.device(device):
        module: nn.Module = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return module.eval().requires_grad_(False)


def _composer(
    module: "nn.Module",
    base: "dict[str, Tensor]",
    tuned: "dict[str, dict[str, Tensor]]",
    block: int,
) -> Callable[[], None]:
    """Return a function that moves all ω and writes every weight of the module.

    Args:
        module: its parameters are overwritten.
        base: Θ.
        tuned: name -> weights of a fine-tuned checkpoint.
        block: elements of a piece.
    """
    from merging import DistributionVector, Recipe
    from merging.engine.accelerator import Accelerator
    from merging.engine.loop import spans
    from merging.engine.tasks import tasks
    from merging.threads import in_order, workers

    accelerator = Accelerator(next(iter(base.values())).device, block)
    vectors = {name: DistributionVector(name, base, weights) for name, weights in tuned.items()}
    target = {name: value.view(-1) for name, value in module.named_parameters()}
    step = iter(range(10**9))

    def compose() -> None:
        omega = 0.3 + 0.01 * (next(step) % 97)
        recipe = Recipe.compose("base", {name: name for name in tuned}, dict.fromkeys(tuned, omega))
        pieces = [
            (task, *span) for task in tasks(recipe, base, vectors) for span in spans(task, block)
        ]

        def compute(piece: Any) -> None:
            task, start, stop = piece
            accelerator.compute(task, base, vectors, start, target[task.name][start:stop])

        for _ in in_order(
            pieces, compute, size=lambda piece: piece[2] - piece[1], room=4 * block * workers()
        ):
            pass

    return compose


def _copy(
    module: "nn.Module", base: "dict[str, Tensor]", tuned: "dict[str, dict[str, Tensor]]"
) -> None:
    import torch

    buffer = torch.empty_like(max(base.values(), key=lambda value: value.numel())).view(-1)
    for name, target in module.named_parameters():
        for weights in tuned.values():
            buffer[: target.numel()].copy_(weights[name].view(-1))
        target.copy_(base[name])


def _step(module: "nn.Module") -> Callable[[], None]:
    """Return a function that gives the module one more token, after PROMPT cached tokens."""
    import torch

    device, vocabulary = next(module.parameters()).device, module.config.vocab_size
    tokens = torch.arange(PROMPT, device=device)[None] % vocabulary

    def step(ids: "Tensor", cache: Any = None) -> Any:
        with torch.inference_mode():
            return module(input_ids=ids, past_key_values=cache, use_cache=True).past_key_values

    cache = step(tokens)
    return lambda: step(tokens[:, :1], cache)


def _show(size: str, experts: int, costs: dict[str, list[machine.Cost]], against: str) -> None:
    """Print a table with each contender's ratio to `against`, and the target of compositions."""
    print(f"{shapes.parameters(size):,} parameters, {experts} vectors\n")
    table = []
    for name, runs in costs.items():
        ratio = machine.ratio(runs, costs[against])
        text = ratio.text(".3f") if name != against else ""
        target = machine.target(ratio.median, 2) if name.startswith("composition") else ""
        table.append([name, machine.seconds(runs).text(".4f"), text, target])
    machine.show(["what", "seconds", f"/ {against}", "target"], table)


if __name__ == "__main__":
    main()
