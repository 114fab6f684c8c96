"""A small network of real layers with full vectors and adapters, and its float64 oracle."""

import json
import re

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import embedding, linear, tanh

from merging import Checkpoint, LiveModel, Recipe, View, in_memory, open_vector

TOKENS, WIDTH, INNER = 31, 7, 11
IDS = torch.tensor([[3, 17, 0, 30, 5], [1, 2, 29, 11, 3]])


class Conv1D(nn.Module):
    """GPT-2's layer as transformers has it: the weight is (in, out)."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf = nf
        self.weight, self.bias = nn.Parameter(torch.empty(nx, nf)), nn.Parameter(torch.empty(nf))

    def forward(self, x):
        return torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight).view(
            *x.shape[:-1], self.nf
        )


class Net(nn.Module):
    """An embedding, a linear layer, a Conv1D and a tied head; the files number the inner two."""

    def __init__(self, tied=True):
        super().__init__()
        self.embed = nn.Embedding(TOKENS, WIDTH)
        self.up = nn.Linear(WIDTH, INNER)
        self.down = Conv1D(WIDTH, INNER)
        self.head = nn.Linear(WIDTH, TOKENS, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(self.down(tanh(self.up(input=self.embed(ids)))))


def oracle(weights, ids=IDS):
    """The same network in float64."""
    weights = {name: value.double() for name, value in weights.items()}
    inner = tanh(
        linear(
            embedding(ids, weights["embed.weight"]),
            weights["layers.0.up.weight"],
            weights["layers.0.up.bias"],
        )
    )
    outer = inner @ weights["layers.2.down.weight"] + weights["layers.2.down.bias"]
    return outer @ weights.get("head.weight", weights["embed.weight"]).T


def made_weights(dtype, tied=True):
    chance = torch.Generator().manual_seed(5)
    shapes = {
        "embed.weight": (TOKENS, WIDTH),
        "layers.0.up.weight": (INNER, WIDTH),
        "layers.0.up.bias": (INNER,),
        "layers.2.down.weight": (INNER, WIDTH),
        "layers.2.down.bias": (WIDTH,),
    } | ({} if tied else {"head.weight": (TOKENS, WIDTH)})
    return {
        name: torch.randn(shape, generator=chance).mul_(0.4).to(dtype)
        for name, shape in shapes.items()
    }


def write_lora(folder, weights, targets, seed, rank=2, alpha=6):
    """An adapter on some tensors of the network, as PEFT names them there."""
    chance = torch.Generator().manual_seed(seed)
    folder.mkdir()
    factors = {}
    for name in targets:
        rows, columns = weights[name].shape
        at, end = f"base_model.model.{name.removesuffix('.weight')}.lora_", ".weight"
        if name in ("layers.2.down.weight", "embed.weight"):
            rows, columns = columns, rows
        if name == "embed.weight":
            at, end = at + "embedding_", ""
        factors[f"{at}A{end}"] = torch.randn(rank, columns, generator=chance) * 0.5
        factors[f"{at}B{end}"] = torch.randn(rows, rank, generator=chance) * 0.5
    save_file(factors, folder / "adapter_model.safetensors", {"format": "pt"})
    document = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "bias": "none",
        "fan_in_fan_out": False,
    }
    (folder / "adapter_config.json").write_text(json.dumps(document))
    return folder


EVERY = ["embed.weight", "layers.0.up.weight", "layers.2.down.weight"]


@pytest.fixture
def network(tmp_path, tuned, write):
    """network(dtype=…, tied=…, held=…) -> a LiveModel with three vectors.

    They are the full vector `cot` and the adapters `one` (all layers) and `two` (up and down).
    """

    def make(dtype=torch.float32, tied=True, held=None):
        weights = made_weights(dtype, tied)
        base = Checkpoint(write(tmp_path / "base", weights))
        paths = [
            write(tmp_path / "cot", tuned(weights, 1)),
            write_lora(tmp_path / "one", weights, EVERY, seed=1),
            write_lora(tmp_path / "two", weights, EVERY[1:], seed=2, rank=3, alpha=5),
        ]
        vectors = {path.name: open_vector(path, base) for path in paths}
        module = Net(tied).to(held or dtype).requires_grad_(False)
        return LiveModel(
            module,
            in_memory(base),
            vectors,
            {name: View(re.sub(r"^layers\.\d\.", "", name)) for name in weights},
        )

    return make


@pytest.fixture
def at():
    """at(cot, one, two) -> the recipe with these ω."""

    def made(*omegas, method="task_arithmetic", **more):
        names = ("cot", "one", "two")
        given = dict(zip(names, omegas, strict=True))
        return Recipe.compose("base", {name: name for name in names}, given, method=method, **more)

    return made


@pytest.fixture
def true_logits():
    return oracle


@pytest.fixture
def ids():
    return IDS
