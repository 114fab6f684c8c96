"""Claim: on an accelerator a settled composition takes at most twice as long as copying the same bytes there.

    python -m benchmarks.device [--device cuda] [--sizes 1.2B 8B] [--experts 2] [--rounds 3] [--weights DIR]

First a merge from files to a verified folder, on the device and on the processor, in turn. Then, with base, vectors and
module in the device's memory, a composition of all vectors into the module against torch copying the same bytes (each
tensor of the vectors into a buffer, the base's into the module), and one step of generation by that module after 512
tokens. Where there is no accelerator it says so and measures nothing; `--device cpu` runs the same code on the
processor, which tests the benchmark and says nothing of an accelerator.
"""

import shutil
import tempfile
from collections.abc import Callable, Sequence
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
"""Elements of a piece: as an export takes them, and larger, since here nothing passes through this machine's memory."""

COPY = "copy of the same bytes"


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table for each size and part, or that there is no accelerator."""
    more = {
        "device": {"default": "cuda", "help": "as torch names it (cuda)"},
        "sizes": {
            "nargs": "+",
            "choices": shapes.SIZES,
            "default": ["1.2B", "8B"],
            "help": "(1.2B 8B)",
        },
        "experts": {"type": int, "default": 2, "help": "vectors (2)"},
        "weights": {
            "type": Path,
            "help": "keep the weights in this folder, and use those that it has",
        },
    }
    options = machine.begin(__file__, __doc__, argv, rounds=3, **more)
    from merging.errors import DeviceError

    try:
        place = _place(options.device)
    except DeviceError as error:
        print(f"No accelerator here, nothing was measured: {error}")
        return
    print(f"device:   {place().report('task_arithmetic').removeprefix('computed on ')}\n")
    for size in options.sizes:
        _merge(size, place, options)
        _compose(size, options)


def _place(device: str) -> "Callable[[], Accelerator]":
    """Makes the place of one export; the processor too goes the way of an accelerator."""
    import torch

    from merging.engine.accelerator import Accelerator, open_accelerator

    chosen = open_accelerator(device)
    return lambda: Accelerator(torch.device("cpu") if chosen is None else chosen.device)


def _merge(size: str, place: "Callable[[], Accelerator]", options: Any) -> None:
    needed = shapes.nbytes(size, options.experts + 2) * 1.05
    free = shutil.disk_usage(options.weights or tempfile.gettempdir()).free
    if free < needed:
        print(
            f"{size}: a merge needs {needed / 1e9:.0f} GB of disk and {free / 1e9:.0f} are free. It is left out.\n"
        )
        return
    with shapes.checkpoints(size, options.experts, options.weights) as folder:
        recipe = shapes.recipe(folder, options.experts)
        contenders: dict[str, Callable[[], machine.Cost]] = {
            "merge on the device": lambda: _exported(recipe, folder / "out", place()),
            "merge on the processor": lambda: _exported(recipe, folder / "out", None),
        }
        machine.in_turn(1, contenders)
        found = machine.in_turn(options.rounds, contenders)
    _show(size, options.experts, found, "merge on the processor")


def _exported(recipe: Path, out: Path, place: "Accelerator | None") -> machine.Cost:
    from merging import export, open_recipe

    read = read_recipe(recipe)
    base, vectors = open_recipe(read)
    try:
        return machine.timed(lambda: export(read, base, vectors, out, device=place))
    finally:
        shutil.rmtree(out, ignore_errors=True)


def _compose(size: str, options: Any) -> None:
    import torch

    needed = shapes.nbytes(size, options.experts + 2) * 1.1
    free = _free(options.device)
    if free < needed:
        print(
            f"{size}: a composition needs {needed / 1e9:.0f} GB of the device and {free / 1e9:.0f} are free. Left out.\n"
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
    contenders = {name: _on(options.device, work) for name, work in works.items()}
    machine.in_turn(1, contenders)
    found = machine.in_turn(options.rounds, contenders)
    _show(size, options.experts, found, COPY)


def _free(device: str) -> int:
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
    """Each call moves all ω, and writes every weight of the module."""
    from merging import DistributionVector, Recipe
    from merging.engine.accelerator import Accelerator
    from merging.engine.loop import spans
    from merging.engine.tasks import tasks
    from merging.engine.threads import in_order, workers

    place = Accelerator(next(iter(base.values())).device, block)
    vectors = {name: DistributionVector(name, base, weights) for name, weights in tuned.items()}
    target = {name: value.view(-1) for name, value in module.named_parameters()}
    step = iter(range(10**9))

    def compose() -> None:
        moved = 0.3 + 0.01 * (next(step) % 97)
        made = Recipe.compose("base", {name: name for name in tuned}, dict.fromkeys(tuned, moved))
        pieces = [
            (task, *span) for task in tasks(made, base, vectors) for span in spans(task, block)
        ]

        def computed(piece: Any) -> None:
            task, start, stop = piece
            place.compute(task, base, vectors, start, target[task.name][start:stop])

        for _ in in_order(
            pieces, computed, size=lambda piece: piece[2] - piece[1], room=4 * block * workers()
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
    """Each call gives one token to the module, which remembers those before."""
    import torch

    device, vocabulary = next(module.parameters()).device, module.config.vocab_size
    tokens = torch.arange(PROMPT, device=device)[None] % vocabulary

    def step(given: "Tensor", cache: Any = None) -> Any:
        with torch.inference_mode():
            return module(input_ids=given, past_key_values=cache, use_cache=True).past_key_values

    cache = step(tokens)
    return lambda: step(tokens[:, :1], cache)


def _on(device: str, work: Callable[[], object]) -> Callable[[], machine.Cost]:
    return lambda: machine.timed_on(device, work)


def _show(size: str, experts: int, found: dict[str, list[machine.Cost]], against: str) -> None:
    """A table of all, with ratios to one of them, and the bar of a composition."""
    print(f"{shapes.parameters(size):,} parameters, {experts} vectors\n")
    table = []
    for name, costs in found.items():
        ratio = machine.ratio(costs, found[against])
        bar = machine.bar(ratio.median, 2) if name.startswith("composition") else ""
        table.append(
            [
                name,
                machine.seconds(costs).text(".4f"),
                ratio.text(".3f") if name != against else "",
                bar,
            ]
        )
    machine.show(["what", "seconds", f"/ {against}", "bar"], table)


if __name__ == "__main__":
    main()
