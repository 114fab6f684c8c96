"""Names and factors decide what is mounted and what is composed, and each refusal says why."""

import pytest
import torch
from torch import nn

from merging import View
from merging.engine.low_rank import factors_of
from merging.engine.tasks import tasks
from merging.errors import NotMounted
from merging.live.mount import Mounts
from merging.methods import _contract as methods
from merging.methods._values import Site

LINEAR = [name for name in methods.names() if methods.load(name).linear]


def refused(live, settled, wanted, why):
    with pytest.raises(NotMounted, match=why):
        Mounts(live).plan(settled, wanted)


def test_the_methods_that_are_sums():
    assert LINEAR == ["linear", "lines", "metagpt", "passthrough", "task_arithmetic"]


@pytest.mark.parametrize("name", [name for name in LINEAR if name != "passthrough"])  # of one model
def test_a_method_that_calls_itself_linear_is_its_factors(name, network, at):
    """combine(stack) = Σ c_i stack_i for any stack, with the c that the unit vectors tell."""
    live = network()
    chance = torch.Generator().manual_seed(9)
    for task in tasks(at(0.4, 0.5, -0.3, method=name), live.base, live.vectors):
        stack = torch.randn(len(task.vectors), 13, generator=chance, dtype=torch.float64)
        site = Site(task.name, torch.randn(13, generator=chance, dtype=torch.float64), task.depth)
        omegas = torch.tensor(task.omegas, dtype=torch.float64)
        wanted = torch.tensor(factors_of(task), dtype=torch.float64) @ stack
        found = methods.load(name).combine(stack, omegas, site, **dict(task.arguments))
        assert torch.allclose(found, wanted, rtol=1e-12, atol=1e-14)


def test_a_change_in_numbers(network, at):
    """λ = 2, `one` from 0.25 to 0.75, `two` from 0 to −0.5; `two` is not in the embedding."""
    live, twice = network(), {"lambda": 2.0}
    plan = Mounts(live).plan(
        at(0.4, 0.25, 0.0, parameters=twice), at(0.4, 0.75, -0.5, parameters=twice)
    )
    both = {"one": 1.0, "two": -1.0}
    assert plan == {
        "embed.weight": {"one": 1.0},
        "layers.0.up.weight": both,
        "layers.2.down.weight": both,
    }


def test_no_move_is_nothing_to_mount(network, at, ids):
    live = network()
    assert Mounts(live).plan(at(0.4, 0.5, -0.3), at(0.4, 0.5, -0.3)) == {}
    live.apply(at(0.4, 0.5, -0.3))
    with Mounts(live).mounted(at(0.4, 0.5, -0.3)) as module:
        assert not any(one._forward_hooks for one in module.modules())


def test_the_same_factors_from_other_numbers_are_no_move(network, at):
    """ω 0.5 at λ 1 is ω 0.25 at λ 2."""
    live = network()
    assert (
        Mounts(live).plan(at(0.0, 0.5, 0.0), at(0.0, 0.25, 0.0, parameters={"lambda": 2.0})) == {}
    )


def test_a_full_checkpoint_is_composed(network, at):
    live = network()
    refused(live, at(0.4, 0.5, 0.0), at(0.5, 0.7, 0.0), "cot moves too, and it is not an adapter")
    # over their sum, the factors of all move with one
    normal = {"normalize": True}
    refused(
        live,
        at(0.4, 0.5, 0.0, parameters=normal),
        at(0.4, 0.7, 0.0, parameters=normal),
        "cot moves too",
    )


def test_methods_that_are_no_sums_are_composed(network, at):
    live, more = network(), {"method": "ties", "parameters": {"density": 0.5}}
    refused(
        live,
        at(0.4, 0.5, 0.0, **more),
        at(0.4, 0.6, 0.0, **more),
        "ties is not linear in the vectors",
    )
    refused(
        live,
        at(0.4, 0.5, 0.0, **more),
        at(0.4, 0.6, 0.0),
        "in more than ω and the method's parameters",
    )


def test_a_sum_of_weights_that_scales_the_base_is_composed(network, at):
    live, more = network(), {"method": "linear", "parameters": {"normalize": False}}
    refused(
        live,
        at(0.0, 0.5, 0.5, **more),
        at(0.0, 0.6, 0.5, **more),
        "linear without normalize scales the base too",
    )
    moved = Mounts(live).plan(
        at(0.0, 0.5, 0.5, **more), at(0.0, 0.25, 0.75, **more)
    )  # the base's share stays 1
    assert moved["layers.0.up.weight"] == {"one": -0.25, "two": 0.25}


def test_a_model_that_is_loaded_anew_is_composed(network, at):
    live = network()
    live.reload = lambda tensors: None
    refused(live, at(0.4, 0.5, 0.0), at(0.4, 0.6, 0.0), "each composition is loaded anew")


def test_parts_of_a_parameter_are_composed(network, at):
    live = network()
    live.views["layers.0.up.weight"] = View("up.weight", ((0, 11),))
    refused(
        live,
        at(0.4, 0.5, 0.0),
        at(0.4, 0.6, 0.0),
        "layers.0.up.weight is a part of up.weight, in which the module fuses",
    )


def test_two_tensors_of_one_parameter_are_composed(network, at):
    live = network(tied=False)
    live.views["layers.2.down.weight"] = live.views["layers.0.up.weight"]
    refused(
        live, at(0.4, 0.5, 0.0), at(0.4, 0.6, 0.0), "several tensors of the files fill up.weight"
    )


class Scaled(nn.Embedding):
    """As Gemma's: what it looks up is multiplied."""

    def forward(self, ids):
        return 3 * super().forward(ids)


class Bare(nn.Module):
    """Uses a weight in a way of its own."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight


class Named(nn.Module):
    """Called as GPT-2's layer, and another."""

    def __init__(self, weight, nf):
        super().__init__()
        self.nf, self.weight = nf, weight


class Special(nn.Linear):
    """As the output of torch's attention: its weight is read, and it is not called."""


def sliced(module):
    module.add_module("slice", nn.Linear(7, 2, False))
    module.slice.weight = nn.Parameter(module.up.weight[1:3], False)


def stacked(name, weight):
    def change(module):
        module.add_module(name, Bare(weight(module)))

    return change


def replaced(module):
    module.up.forward = lambda x: x


def clipped(module):
    module.embed.max_norm = 1.0


def other_conv(module):
    Named.__name__ = "Conv1D"
    module.other = Named(module.up.weight, 3)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            lambda module: setattr(module.embed, "__class__", Scaled),
            r"embed.weight is used by embed \(Scaled.weight\)",
        ),
        (
            lambda module: setattr(module.up, "__class__", Special),
            r"up.weight is used by up \(Special.weight\)",
        ),
        (sliced, r"up.weight is used by slice \(Linear.weight\)"),
        (
            replaced,
            r"up.weight is used by up \(Linear.weight\), which is not a plain linear layer or "
            "embedding",
        ),
        (clipped, r"embed.weight is used by embed \(Embedding.weight\)"),
        (
            stacked("again", lambda module: module.up.weight),
            r"up.weight is used by again \(Bare.weight\)",
        ),
        (
            stacked("part", lambda module: nn.Parameter(module.up.weight[1:3], False)),
            r"used by part \(Bare.weight\)",
        ),
        (
            lambda module: module.register_buffer("copy", module.up.weight.data),
            r"used by the model \(Net.copy\)",
        ),
        (other_conv, r"up.weight is used by other \(Conv1D.weight\)"),
    ],
)
def test_layers_that_may_compute_anything_are_composed(change, why, network, at):
    live = network()
    change(live.module)
    refused(live, at(0.4, 0.5, 0.0), at(0.4, 0.6, 0.0), why)
