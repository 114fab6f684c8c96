"""Claim: moving an adapter's slider costs less if the adapter is mounted than if it is composed.

    python -m benchmarks.mounted_against_composed
        [--size 1.2B] [--rounds 5] [--rank 16] [--positions 512] [--device cuda] [--demo FOLDER]

One module of random bfloat16 weights, on the device that is named, has two adapters on every linear
layer of its blocks; everything else is in RAM. Each move sets the ω of one adapter; then a batch of
tokens goes through the linear layers, as when losses are measured. Composing writes every weight
that the adapter changes, and then runs the layers. Mounting writes no weight; each layer adds its
low-rank product. The forward pass alone, with unchanged weights, is measured too: the difference to
it is what each way adds.

A second table has a move of one adapter of 1, 2, 8 and 16: composing alone, which multiplies the
stacked factors of all of them, and mounting with the forward pass.

The layers run in the order of a block, but without attention: q, k, v, o, then gate, up, down, each
on inputs of its own width. Attention would cost the same in all three cases.

With --demo the module and the adapters are those of a folder with base/, such as `dem real path`.
"""

import itertools
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from benchmarks import machine, shapes

if TYPE_CHECKING:
    from torch import nn

    from merging import LiveModel, Recipe

COUNTS = (1, 2, 8, 16)
"""How many adapters the second table has; a demo may have fewer."""
_STEP = itertools.count()


def main(argv: Sequence[str] | None = None) -> None:
    """Measure a move mounted and composed, and print a table."""
    rank = {"type": int, "default": 16, "help": "rank of the adapters (default: 16)"}
    positions = {
        "type": int,
        "default": 512,
        "help": "tokens of the batch (default: 512, as when losses are measured on a CPU)",
    }
    device = {"default": "cpu", "help": "where the module is, as torch names it (default: cpu)"}
    demo = {"type": Path, "help": "a folder with base/ and two adapters (default: random weights)"}
    more = {"rank": rank, "positions": positions, "device": device, "demo": demo}
    options = machine.begin(__file__, __doc__, argv, rounds=5, size="0.5B", **more)
    import torch

    from merging.live.mount import Mounts

    if options.demo:
        live, options.rank = _opened(options.demo, options.device)
    else:
        with (
            shapes.checkpoints(options.size, 0, options.weights) as folder,
            TemporaryDirectory() as adapters,
        ):
            live = _live(folder / "base", Path(adapters), options.rank, options.device)
    generator = torch.Generator().manual_seed(1)
    # One input per width, shared by all layers of that width.
    widths = {layer.in_features for layer in _linear(live.module)}
    inputs = {
        width: torch.randn(options.positions, width, generator=generator)
        .bfloat16()
        .to(options.device)
        for width in widths
    }
    mounts, next_recipe = Mounts(live), partial(_next_recipe, live, 2)

    def composed() -> None:
        live.apply(next_recipe())
        _forward(live.module, inputs)

    def mounted() -> None:
        with mounts.mounted(next_recipe()) as module:
            _forward(module, inputs)

    # The first composition writes all weights; it is not a move.
    live.apply(next_recipe())
    contenders: dict[str, Callable[[], object]] = {
        "composed": composed,
        "mounted": mounted,
        "forward alone": lambda: _forward(live.module, inputs),
        "compose alone": lambda: live.apply(next_recipe()),
        "mount alone": lambda: _mount(mounts, next_recipe()),
    }
    timed = {
        name: partial(machine.timed_on, options.device, work) for name, work in contenders.items()
    }
    machine.in_turn(1, timed)
    _show(options, machine.in_turn(options.rounds, timed), live)
    _show_counts(options, live, mounts, inputs)


def _show(options: Any, costs: dict[str, list[machine.Cost]], live: "LiveModel") -> None:
    layers = _linear(live.module)
    changed = sum(layer.weight.numel() for layer in layers)
    parameters = sum(values.numel() for values in live.base.values())
    print(
        f"{parameters:,} parameters, {changed:,} of them in {len(layers)} "
        f"layers that the adapters change (rank {options.rank}); {options.positions} positions, "
        f"module on {options.device}\n"
    )
    rows = []
    for what, runs in costs.items():
        ratio = machine.ratio(runs, costs["composed"]).text(".3f") if what != "composed" else ""
        rows.append([what, machine.seconds(runs).text(".4f"), ratio])
    machine.show(["one move", "seconds", "/ composed"], rows)


def _show_counts(options: Any, live: "LiveModel", mounts: Any, inputs: dict[int, Any]) -> None:
    """Measure a move of one of several adapters, and print a table."""

    def composed(count: int) -> machine.Cost:
        return machine.timed_on(options.device, lambda: live.apply(_next_recipe(live, count)))

    def mounted(count: int) -> machine.Cost:
        # The weights from which the adapter is moved.
        live.apply(_next_recipe(live, count))

        def move() -> None:
            with mounts.mounted(_next_recipe(live, count)) as module:
                _forward(module, inputs)

        return machine.timed_on(options.device, move)

    ways = {"composed": composed, "mounted": mounted}
    counts = [count for count in COUNTS if count <= len(live.vectors)]
    contenders = {
        f"{way} {count}": partial(work, count) for way, work in ways.items() for count in counts
    }
    machine.in_turn(1, contenders)
    costs = machine.in_turn(options.rounds, contenders)
    rows = []
    for count in counts:
        row = [str(count)]
        for way in ways:
            runs, two = costs[f"{way} {count}"], costs[f"{way} 2"]
            row += [machine.seconds(runs).text(".3f"), machine.ratio(runs, two).text()]
        rows.append(row)
    print()
    machine.show(
        ["one of", "compose alone, seconds", "/ of two", "mounted, seconds", "/ of two"], rows
    )


def _mount(mounts: Any, recipe: "Recipe") -> None:
    with mounts.mounted(recipe):
        pass


def _forward(module: "nn.Module", inputs: dict[int, Any]) -> None:
    import torch

    with torch.inference_mode():
        for layer in _linear(module):
            layer(inputs[layer.in_features])


def _linear(module: "nn.Module") -> list[Any]:
    from torch import nn

    return [
        layer
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and "layers" in name.split(".")
    ]


def _next_recipe(live: "LiveModel", count: int) -> "Recipe":
    """Return a recipe of the first adapters, in which the first one has another ω than before."""
    from merging import Recipe

    names = list(live.vectors)[:count]
    omegas = dict.fromkeys(names, 0.5) | {names[0]: 0.1 + 0.01 * (next(_STEP) % 97)}
    return Recipe.compose("base", {name: name for name in names}, omegas)


def _opened(demo: Path, device: str) -> tuple["LiveModel", int]:
    """Return the live model of a folder with its adapters, and the rank of the first."""
    from evaluation.model import load
    from merging import Checkpoint, LiveModel, LoraVector, in_memory

    checkpoint = Checkpoint(demo / "base")
    loaded = load(demo / "base", checkpoint=checkpoint, device=device)
    folders = [file.parent for file in sorted(demo.glob("*/adapter_config.json"))]
    vectors = {folder.name: LoraVector(folder, checkpoint) for folder in folders}
    for vector in vectors.values():
        vector.hold_in_memory()
    rank = json.loads((folders[0] / "adapter_config.json").read_text("utf-8"))["r"]
    return LiveModel(loaded.module, in_memory(checkpoint), vectors, loaded.views), int(rank)


def _live(folder: Path, adapters: Path, rank: int, device: str) -> "LiveModel":
    """Return a live model with a linear layer per matrix of a block, and the adapters on all."""
    import torch
    from torch import nn

    from merging import Checkpoint, LiveModel, LoraVector, View, in_memory

    checkpoint = Checkpoint(folder)
    base = in_memory(checkpoint)
    module = nn.Module()
    for name, values in base.items():
        *path, leaf = name.split(".")
        owner = module
        for number, part in enumerate(path):
            # The class must be exactly nn.Linear: adapters are mounted on no other matrix.
            is_linear = number == len(path) - 1 and values.dim() == 2 and "layers" in path
            if not hasattr(owner, part):
                rows, columns = values.shape if is_linear else (0, 0)
                child = (
                    nn.Linear(columns, rows, False, device, torch.bfloat16)
                    if is_linear
                    else nn.Module()
                )
                owner.add_module(part, child)
            owner = owner.get_submodule(part)
        if not isinstance(owner, nn.Linear):
            owner.register_parameter(leaf, nn.Parameter(torch.empty_like(values, device=device)))
    module.requires_grad_(False)
    vectors = {}
    for number in range(COUNTS[-1]):
        name = f"a{number}"
        _write_adapter(adapters / name, base, rank, number)
        vectors[name] = LoraVector(adapters / name, checkpoint, name)
        vectors[name].hold_in_memory()
    return LiveModel(module, base, vectors, {name: View(name) for name in base})


def _write_adapter(folder: Path, base: dict[str, Any], rank: int, seed: int) -> None:
    """Write an adapter in float32 on every matrix of the blocks, as PEFT saves it."""
    import torch
    from safetensors.torch import save_file

    generator, factors = torch.Generator().manual_seed(seed), {}
    for name, values in base.items():
        if values.dim() == 2 and "layers" in name:
            prefix = f"base_model.model.{name.removesuffix('.weight')}.lora_"
            rows, columns = values.shape
            wide = torch.randn(rank, columns, generator=generator)
            factors[f"{prefix}A.weight"] = wide * columns**-0.5
            factors[f"{prefix}B.weight"] = torch.randn(rows, rank, generator=generator) * 0.01
    folder.mkdir()
    save_file(factors, folder / "adapter_model.safetensors", {"format": "pt"})
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": rank})
    )


if __name__ == "__main__":
    main()
