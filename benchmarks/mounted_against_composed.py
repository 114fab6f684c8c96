"""Claim: a move of an adapter's slider costs less mounted on its layers than composed into the weights.

    python -m benchmarks.mounted_against_composed [--size 1.2B] [--rounds 5] [--rank 16] [--positions 512] [--device cuda]

One module of random weights in bfloat16, two adapters on every linear layer of its blocks, everything in RAM, the module
on the device that is named. Each move sets the ω of one adapter; then a batch of tokens goes through the linear layers,
as in a measurement of losses. The composition writes every weight that the adapter changes and runs the layers; mounted,
no weight is written and each layer adds its low-rank product. The forward alone, with the weights as they are, is
measured beside both, so that what each way adds to it is the difference.

The layers are run as they stand in a block, without attention: q, k, v, o, then gate, up, down, each on inputs of its
own width. What attention would take is the same for all three.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from benchmarks import machine, shapes

if TYPE_CHECKING:
    from torch import nn

    from merging import LiveModel, Recipe

ADAPTERS = ("one", "two")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure a move both ways, and print a table."""
    rank = {"type": int, "default": 16, "help": "of the adapters (16)"}
    positions = {
        "type": int,
        "default": 512,
        "help": "tokens of the batch (512, as losses are measured on a CPU)",
    }
    device = {"default": "cpu", "help": "where the module stands, as torch names it (cpu)"}
    more = {"rank": rank, "positions": positions, "device": device}
    options = machine.begin(__file__, __doc__, argv, rounds=5, size="0.5B", **more)
    import torch

    from merging.live.mount import Mounts

    with (
        shapes.checkpoints(options.size, 0, options.weights) as folder,
        TemporaryDirectory() as adapters,
    ):
        live = _live(folder / "base", Path(adapters), options.rank, options.device)
    chance = torch.Generator().manual_seed(1)
    widths = {layer.in_features for layer in _linear(live.module)}
    inputs = {
        width: torch.randn(options.positions, width, generator=chance).bfloat16().to(options.device)
        for width in widths
    }
    mounts, step = Mounts(live), iter(range(10**9))

    def wanted() -> "Recipe":
        return _recipe(0.5, 0.1 + 0.01 * (next(step) % 97))

    def composed() -> None:
        live.apply(wanted())
        _forward(live.module, inputs)

    def mounted() -> None:
        with mounts.mounted(wanted()) as module:
            _forward(module, inputs)

    live.apply(wanted())
    contenders: dict[str, Callable[[], object]] = {
        "composed": composed,
        "mounted": mounted,
        "forward alone": lambda: _forward(live.module, inputs),
        "compose alone": lambda: live.apply(wanted()),
        "mount alone": lambda: _mount(mounts, wanted()),
    }
    timed = {name: _on(options.device, work) for name, work in contenders.items()}
    machine.in_turn(1, timed)
    _show(options, machine.in_turn(options.rounds, timed), live)


def _show(options: Any, found: dict[str, list[machine.Cost]], live: "LiveModel") -> None:
    changed = sum(weight.numel() for weight in (layer.weight for layer in _linear(live.module)))
    print(
        f"{shapes.parameters(options.size):,} parameters, {changed:,} of them in {len(_linear(live.module))} layers that "
        f"the adapters change (rank {options.rank}); {options.positions} positions, module on {options.device}\n"
    )
    rows = []
    for what, costs in found.items():
        ratio = machine.ratio(costs, found["composed"]).text(".3f") if what != "composed" else ""
        rows.append([what, machine.seconds(costs).text(".4f"), ratio])
    machine.show(["one move", "seconds", "/ composed"], rows)


def _on(device: str, work: Callable[[], object]) -> Callable[[], machine.Cost]:
    """Timed until the device has done it."""
    import torch

    def whole() -> None:
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)

    return lambda: machine.timed(whole)


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

    return [one for one in module.modules() if isinstance(one, nn.Linear)]


def _recipe(*omegas: float) -> "Recipe":
    from merging import Recipe

    return Recipe.compose(
        "base", {name: name for name in ADAPTERS}, dict(zip(ADAPTERS, omegas, strict=True))
    )


def _live(folder: Path, adapters: Path, rank: int, device: str) -> "LiveModel":
    """A module with a linear layer for each matrix of a block, and the adapters on all of them."""
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
            last = number == len(path) - 1 and values.dim() == 2 and "layers" in path
            if not hasattr(owner, part):
                made = (
                    nn.Linear(values.shape[1], values.shape[0], False, device, torch.bfloat16)
                    if last
                    else nn.Module()
                )
                owner.add_module(part, made)
            owner = owner.get_submodule(part)
        if not isinstance(owner, nn.Linear):
            owner.register_parameter(leaf, nn.Parameter(torch.empty_like(values, device=device)))
    module.requires_grad_(False)
    vectors = {}
    for number, name in enumerate(ADAPTERS):
        _write_adapter(adapters / name, base, rank, number)
        vectors[name] = LoraVector(adapters / name, checkpoint, name)
        vectors[name].hold_in_memory()
    return LiveModel(module, base, vectors, {name: View(name) for name in base})


def _write_adapter(folder: Path, base: dict[str, Any], rank: int, seed: int) -> None:
    """An adapter in float32 on every matrix of the blocks, as PEFT saves it."""
    import torch
    from safetensors.torch import save_file

    chance, factors = torch.Generator().manual_seed(seed), {}
    for name, values in base.items():
        if values.dim() == 2 and "layers" in name:
            at, (rows, columns) = (
                f"base_model.model.{name.removesuffix('.weight')}.lora_",
                values.shape,
            )
            factors[f"{at}A.weight"] = torch.randn(rank, columns, generator=chance) * columns**-0.5
            factors[f"{at}B.weight"] = torch.randn(rows, rank, generator=chance) * 0.01
    folder.mkdir()
    save_file(factors, folder / "adapter_model.safetensors", {"format": "pt"})
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": rank})
    )


if __name__ == "__main__":
    main()
