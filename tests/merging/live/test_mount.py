"""Mounts give what composing would give, move no bit of a weight, and leave nothing behind."""

import random

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from merging import Checkpoint, LiveModel, MergingError, Recipe, View, merge, open_vector
from merging.errors import NotMounted
from merging.live.live_model import resolve
from merging.live.mount import Mounts
from merging.live.mount_layers import pair, product_output

TOLERANCE = 2e-6
"""Relative to the largest value: a few roundings of float32 in sums of at most 20 terms."""


def bytes_of(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def hooks(module):
    return sum(len(one._forward_hooks) for one in module.modules())


def composed(live, recipe):
    return dict(merge(recipe, live.base, live.vectors))


def error(found, wanted):
    return float((found.double() - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("method", ["task_arithmetic", "lines"])
def test_a_mounted_forward_is_the_composed_one(method, tied, network, at, ids, true_logits):
    live = network(tied=tied)
    mounts, settled = Mounts(live), at(0.4, 0.5, -0.3, method=method)
    live.apply(settled)
    for omegas in ((0.4, 1.25, -0.3), (0.4, 0.5, 0.9), (0.4, -1.0, 2.0), (0.4, 0.0, 0.0)):
        wanted = at(*omegas, method=method)
        truth = true_logits(composed(live, wanted))
        before = error(live.module(ids), truth)
        with mounts.mounted(wanted) as module:
            found = module(ids)
        other = LiveModel(
            type(live.module)(tied).requires_grad_(False), live.base, live.vectors, live.views
        )
        other.apply(wanted)
        assert error(found, truth) < TOLERANCE
        assert error(found, other.module(ids).double()) < TOLERANCE
        assert before > 100 * TOLERANCE  # the twin: without it, it is another model
    assert live.recipe == settled


def test_a_drag_may_begin_at_the_base(network, at, ids, true_logits):
    live = network()
    live.apply(at(0.0, 0.0, 0.0))
    wanted = at(0.0, 0.75, 0.0)
    with Mounts(live).mounted(wanted) as module:
        found = module(ids)
    assert error(found, true_logits(composed(live, wanted))) < TOLERANCE


def test_parameters_shared_by_all_vectors_are_moves_too(network, at, ids, true_logits):
    """λ from 1 to 1.5 with adapters only; and averages, whose factors are over their sum."""
    live = network()
    mounts = Mounts(live)
    for settled, wanted in [
        (at(0.0, 0.5, -0.3), at(0.0, 0.5, -0.3, parameters={"lambda": 1.5})),
        (
            at(0.0, 0.5, 0.3, parameters={"normalize": True}),
            at(0.0, 0.5, 0.9, parameters={"normalize": True}),
        ),
        (at(0.0, 0.5, 0.3, method="linear"), at(0.0, 0.25, 0.6, method="linear")),
    ]:
        live.apply(settled)
        with mounts.mounted(wanted) as module:
            found = module(ids)
        assert error(found, true_logits(composed(live, wanted))) < TOLERANCE


def test_float64_stays_float64(network, at, ids, true_logits):
    live = network(torch.float64)
    live.apply(at(0.4, 0.5, -0.3))
    wanted = at(0.4, 1.5, 0.3)
    with Mounts(live).mounted(wanted) as module:
        found = module(ids)
    assert found.dtype == torch.float64
    assert error(found, true_logits(composed(live, wanted))) < 1e-14


def test_rules_by_tensor_are_followed(network, at, ids, true_logits):
    live = network()
    live.apply(at(0.4, 0.5, -0.3))
    wanted = at(0.4, 0.5, -0.3).with_omegas(
        {"one": [{"filter": "up", "value": 1.0}, {"value": 0.5}]}
    )
    mounts = Mounts(live)
    assert mounts.plan(live.recipe, wanted) == {"layers.0.up.weight": {"one": 0.5}}
    with mounts.mounted(wanted) as module:
        found = module(ids)
    assert error(found, true_logits(composed(live, wanted))) < TOLERANCE


def test_in_bfloat16_the_product_is_computed_and_added_in_float32(network, at, ids):
    """The composition rounds W + Δ; a mount rounds W x + Δ x, which is nearer to the truth."""
    live = network(torch.bfloat16)
    live.apply(at(0.4, 0.5, -0.3))
    assert live.module.up.weight.dtype == torch.bfloat16
    wanted = at(0.4, 1.25, 0.3)
    given = torch.randn(3, 7, generator=torch.Generator().manual_seed(3)).bfloat16()
    left, right, scale = live.vectors["one"].factors("layers.0.up.weight")
    moved = 0.75 * scale * (left.double() @ right.double())
    left, right, scale = live.vectors["two"].factors("layers.0.up.weight")
    moved += 0.6 * scale * (left.double() @ right.double())
    plain = live.module.up(given).double()
    with Mounts(live).mounted(wanted):
        found = live.module.up(given)
        live.module(ids)
    truth = plain + given.double() @ moved.T
    assert found.dtype == torch.bfloat16
    assert bool(((found.double() - truth).abs() <= 2**-8 * truth.abs() + 1e-6).all())


def test_what_bfloat16_would_lose():
    """A x = (1, 2^-10), B = (1, 1): no bfloat16 is 1 + 2^-10; W x = −1 leaves 2^-10 of it."""
    held = pair(
        "linear", left=torch.tensor([[1.0, 1.0]]), right=torch.tensor([[1.0, 0.0], [0.0, 2.0**-10]])
    )
    part = product_output("linear", torch.ones(1, 2, dtype=torch.bfloat16), held, torch.ones(2))
    assert part.dtype == torch.float32
    assert (torch.tensor([[-1.0]], dtype=torch.bfloat16) + part).tolist() == [[2.0**-10]]
    assert (part.bfloat16() - 1).tolist() == [[0.0]]


def test_no_bit_of_a_weight_moves_in_a_drag_and_the_settled_ones_are_exact_after_any(
    network, at, ids, bits
):
    live = network(torch.bfloat16)
    mounts, chance = Mounts(live), random.Random(3)
    standing = [0.4, 0.5, -0.3]
    live.apply(at(*standing))
    settles = 0
    for move in range(300):
        standing[chance.choice([1, 2])] = chance.choice([0.0, 1.0, round(chance.uniform(-1, 2), 2)])
        wanted = at(*standing)
        before = bytes_of(live.module)
        if move % 7 == 3:  # the forward fails
            with pytest.raises(ZeroDivisionError), mounts.mounted(wanted) as module:
                module(ids)
                raise ZeroDivisionError
        else:
            with mounts.mounted(wanted) as module:
                module(ids)
                assert hooks(module) > 0 or wanted == live.recipe
        assert hooks(live.module) == 0
        assert all(bits(value, before[name]) for name, value in live.module.state_dict().items())
        if move % 11 == 5:  # the drag ends; some settles are overtaken half way
            standing[0] = round(chance.uniform(-1, 2), 2)
            if move % 2:
                live.apply(at(*standing), lambda asked=iter(range(99)): next(asked) >= 2)
            live.apply(at(*standing))
            settles += 1
            exact = composed(live, at(*standing))
            assert all(bits(resolve(live.module, live.views[name]), exact[name]) for name in exact)
    assert settles > 20


def test_hooks_are_gone_when_mounting_itself_fails(network, at, monkeypatch):
    live = network()
    live.apply(at(0.4, 0.5, -0.3))
    placed = []
    real = nn.Module.register_forward_hook

    def third_fails(self, *words, **more):
        placed.append(self)
        if len(placed) == 3:
            raise RuntimeError("no more hooks")
        return real(self, *words, **more)

    monkeypatch.setattr(nn.Module, "register_forward_hook", third_fails)
    with (
        pytest.raises(RuntimeError, match="no more hooks"),
        Mounts(live).mounted(at(0.4, 1.0, -0.3)),
    ):
        pass
    assert len(placed) == 3 and hooks(live.module) == 0 and not live.mounted


def test_nothing_is_composed_or_mounted_under_what_is_mounted(network, at):
    live = network()
    live.apply(at(0.4, 0.5, -0.3))
    mounts, wanted = Mounts(live), at(0.4, 1.0, -0.3)
    with mounts.mounted(wanted):
        with pytest.raises(
            MergingError,
            match="adapters are mounted on this module. Leave the `mounted` block before composing",
        ):
            live.apply(wanted)
        with (
            pytest.raises(MergingError, match="mounted on this module already"),
            mounts.mounted(wanted),
        ):
            pass
    live.apply(wanted)
    assert live.recipe == wanted


def test_a_move_changes_scales_and_the_factors_stay(network, at, ids):
    live = network()
    live.apply(at(0.4, 0.5, -0.3))
    mounts = Mounts(live)
    with mounts.mounted(at(0.4, 1.0, -0.3)) as module:
        module(ids)
    first = {name: held.pairs for name, held in mounts._factors.items()}
    with mounts.mounted(at(0.4, 1.5, -0.3)) as module:
        module(ids)
    assert all(mounts._factors[name].pairs is pairs for name, pairs in first.items())
    with mounts.mounted(at(0.4, 1.5, 0.3)) as module:  # another set of adapters
        module(ids)
    assert mounts._factors["layers.0.up.weight"].pairs is not first["layers.0.up.weight"]
    assert mounts._factors["embed.weight"].pairs is first["embed.weight"]  # of one adapter
    live.vectors["one"], again = (
        open_vector(live.vectors["one"].path, live.base),
        mounts._factors["embed.weight"].pairs,
    )
    with mounts.mounted(at(0.4, 1.5, 0.3)) as module:  # exchanged for another of its name
        module(ids)
    assert mounts._factors["embed.weight"].pairs is not again


def test_a_layer_that_is_not_called_is_told(network, at, ids):
    """Its weight may be read past the layer: what is mounted there would not be seen."""
    live = network()

    class Around(type(live.module)):
        def forward(self, ids):
            return self.head(
                torch.tanh(nn.functional.linear(self.embed(ids), self.up.weight)) @ self.down.weight
            )

    live.module.__class__ = Around
    live.apply(at(0.4, 0.5, -0.3))
    with (
        pytest.raises(
            NotMounted,
            match="the model does not call down, up, so the adapters mounted there have no effect",
        ),
        Mounts(live).mounted(at(0.4, 1.0, -0.3)) as module,
    ):
        module(ids)
    with Mounts(live).mounted(
        at(0.4, 1.0, -0.3)
    ):  # nothing was called at all: nothing was seen either
        pass


def test_a_transposed_view_is_followed(network, at, ids, true_logits):
    """The module holds `up` as (in, out), like a Conv1D, and the file as (out, in)."""
    live = network()
    live.module.up = type(live.module.down)(11, 7).requires_grad_(False)
    live.views["layers.0.up.weight"] = View("up.weight", transposed=True)
    live.apply(at(0.4, 0.5, -0.3))
    wanted = at(0.4, 1.0, 0.9)
    with Mounts(live).mounted(wanted) as module:
        found = module.head(module.down(torch.tanh(module.up(module.embed(ids)))))
    assert error(found, true_logits(composed(live, wanted))) < TOLERANCE


def test_only_what_the_module_has_is_mounted(network, at, ids):
    live = network(tied=False)
    del live.views["layers.2.down.weight"]
    live.apply(at(0.4, 0.5, -0.3))
    assert set(Mounts(live).plan(live.recipe, at(0.4, 1.0, -0.3))) == {
        "embed.weight",
        "layers.0.up.weight",
    }


def test_nothing_is_mounted_on_weights_that_are_no_composition(network, at):
    live = network()
    with (
        pytest.raises(NotMounted, match="an incomplete composition. Compose a recipe first"),
        Mounts(live).mounted(at(0, 1, 0)),
    ):
        pass


def test_recipes_of_other_names_are_refused_as_composing_refuses_them(network, at):
    live = network()
    live.apply(at(0.4, 0.5, -0.3))
    stranger = Recipe.compose("base", {"who": "who"}, {"who": 1.0})
    with pytest.raises(MergingError, match="'who'"):
        Mounts(live).plan(live.recipe, stranger)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_an_adapter_that_is_not_finite_is_left_to_composing_which_refuses_it(
    value, network, at, tmp_path
):
    """Nor may one move a weight out of its dtype: the product has entries of about 1e60."""
    live = network()
    file = tmp_path / "one" / "adapter_model.safetensors"
    factors = load_file(file)
    for key in factors:
        if "up" in key:
            factors[key][0, 0] = value
    save_file(factors, file, {"format": "pt"})
    path, base = tmp_path / "one", Checkpoint(tmp_path / "base")
    live.vectors["one"] = open_vector(path, base)
    settled, wanted = at(0.4, 0.0, 0.5), at(0.4, 0.25, 0.5)
    live.apply(settled)
    before = bytes_of(live.module)
    with (
        pytest.raises(NotMounted, match="the change of layers.0.up.weight is too large"),
        Mounts(live).mounted(wanted),
    ):
        pass
    assert not live.mounted and hooks(live.module) == 0
    with pytest.raises(MergingError, match="layers.0.up.weight: .* merged values are not finite"):
        live.apply(wanted)
    assert live.recipe == settled
    assert all(torch.equal(before[name], now) for name, now in bytes_of(live.module).items())
