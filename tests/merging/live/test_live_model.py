"""The live model equals the export, bit for bit, after any history of sliders."""

import math
import random
from dataclasses import replace

import pytest
import torch
from torch import nn

from merging import (
    Checkpoint,
    LiveModel,
    MergingError,
    ModelEntry,
    Recipe,
    View,
    export,
    in_memory,
    merge,
    open_vector,
)
from merging.live.live_model import resolve


@pytest.fixture(params=["one thread", "several"], autouse=True)
def threads(request, monkeypatch):
    """Each law holds for small compositions, which one thread computes, and for larger ones."""
    if request.param == "several":
        monkeypatch.setattr("merging.live.live_model.FEW", -1)


TARGETS = [f"model.layers.{layer}.self_attn.{side}_proj" for layer in (0, 2) for side in "qv"]


def opened(tmp_path, llama, tuned, adapter, write, *, dtype=torch.float32, tied=False, extra=None):
    """A base with two full fine-tunes and two LoRAs, on disk."""
    weights = llama(dtype=dtype, tied=tied) | (extra or {})
    base = Checkpoint(write(tmp_path / "base", weights, {"model_type": "llama"}))
    paths = [
        write(tmp_path / "cot", tuned(weights, 1)),
        write(tmp_path / "p3", tuned(weights, 2)),
        adapter(tmp_path / "lora", weights, TARGETS, dtype=torch.bfloat16),
        adapter(tmp_path / "more", weights, TARGETS[:3], rank=5, seed=1),
    ]
    return base, {path.name: open_vector(path, base) for path in paths}


def live_of(base, vectors, module_of, views_of, dtype=None):
    start = {
        name: torch.zeros_like(base[name]) + 99 for name in base
    }  # nothing of the base is there already
    return LiveModel(module_of(start, dtype), base, vectors, views_of(base))


def holds(live, weights, bits):
    """The names of tensors whose live bits differ from the weights'."""
    return [
        name for name in weights if not bits(resolve(live.module, live.views[name]), weights[name])
    ]


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("dtype", "tied", "moves"),
    [
        pytest.param(torch.bfloat16, True, 150, id="bfloat16-tied"),
        pytest.param(torch.float32, False, 150, id="float32-untied"),
        pytest.param(torch.bfloat16, True, 1000, id="bfloat16-tied-1000", marks=SLOW),
        pytest.param(torch.bfloat16, False, 1000, id="bfloat16-untied-1000", marks=SLOW),
        pytest.param(torch.float32, True, 1000, id="float32-tied-1000", marks=SLOW),
        pytest.param(torch.float32, False, 1000, id="float32-untied-1000", marks=SLOW),
    ],
)
def test_after_many_slider_moves_the_live_weights_equal_the_export_byte_for_byte(
    dtype, tied, moves, tmp_path, llama, tuned, adapter, write, module_of, views_of, bits, pieces
):
    base, vectors = opened(
        tmp_path,
        llama,
        tuned,
        adapter,
        write,
        dtype=dtype,
        tied=tied,
        extra={"steps": torch.tensor([3, 5])},
    )
    pieces(53, 211)  # several blocks per piece, several pieces per tensor
    live = live_of(in_memory(base), vectors, module_of, views_of)
    if tied:  # the head is the embedding's storage, and no file tensor of its own
        live.module.lm_head = nn.Module()
        live.module.lm_head.weight = live.module.model.embed_tokens.weight
    chance = random.Random(17)
    sliders = {"cot": 0.0, "p3": 0.0, "lora": 0.0, "more": 0.0}
    interrupted = 0
    for move in range(moves):
        name = chance.choice(list(sliders))
        sliders[name] = chance.choice(
            [0.0, 1.0, -0.0, round(chance.uniform(-2, 2), 2), chance.uniform(-2, 2)]
        )
        weight = sliders[name]
        if move % 7 == 3:  # a rule that reaches some tensors only
            weight = [
                {"filter": chance.choice(["mlp", "attn", "layers.1", "embed"]), "value": weight},
                {"value": 0.25},
            ]
        made = Recipe.compose("base", {key: key for key in sliders}, sliders)
        made = made.with_omegas({name: weight})
        if move % 5 == 2:  # superseded half way
            left = chance.randrange(30)

            def stop(left=left, asked=iter(range(1000))):
                return next(asked) >= left

            done = live.apply(made, stop)
            interrupted += live.recipe is None
            assert done <= left
        else:
            live.apply(made)
            assert live.recipe == made
    assert interrupted > moves / 20

    final = Recipe.compose(
        "base",
        {key: key for key in sliders},
        {"cot": 0.7, "p3": -0.31, "lora": 1.3, "more": -0.6},
    )
    live.apply(final)
    pieces(2**18)  # the export may cut elsewhere
    written = Checkpoint(export(final, base, vectors, tmp_path / "out"))
    assert list(written) == list(base)
    assert holds(live, written, bits) == []
    if tied:
        assert bits(live.module.lm_head.weight, written["model.embed_tokens.weight"])

    live.apply(final.with_omegas(dict.fromkeys(sliders, 0.0)))
    assert holds(live, base, bits) == []


def test_only_tensors_whose_omegas_changed_are_computed(
    tmp_path, llama, tuned, adapter, write, module_of, views_of, recipe
):
    base, vectors = opened(tmp_path, llama, tuned, adapter, write)
    live = live_of(base, vectors, module_of, views_of)
    first = recipe({"cot": 0.5, "p3": 0.0, "lora": 0.0})
    assert live.apply(first) == len(base) == 30
    assert live.apply(first) == 0
    assert live.apply(first.with_omegas({"lora": 0.4})) == len(
        TARGETS
    )  # the LoRA reaches four tensors
    assert (
        live.apply(
            first.with_omegas(
                {"lora": 0.4, "p3": [{"filter": "down_proj", "value": 1}, {"value": 0}]}
            )
        )
        == 3
    )
    live.forget()
    assert live.recipe is None
    assert live.apply(first) == 30


def test_a_composition_broken_off_is_not_claimed_and_the_next_call_goes_on(
    tmp_path, llama, tuned, adapter, write, module_of, views_of, recipe, bits
):
    base, vectors = opened(tmp_path, llama, tuned, adapter, write)
    live = live_of(base, vectors, module_of, views_of)
    wanted = recipe({"cot": 0.5, "p3": -0.3, "lora": 0.2})
    answers = iter([False, False, True])
    done = live.apply(wanted, lambda: next(answers))
    assert done <= 2
    assert live.recipe is None
    assert live.apply(wanted) == 30 - done
    assert live.recipe == wanted
    assert holds(live, dict(merge(wanted, base, vectors)), bits) == []


def test_a_recipe_that_cannot_be_carried_out_changes_nothing(
    tmp_path, llama, tuned, adapter, write, module_of, views_of, recipe, bits
):
    base, vectors = opened(tmp_path, llama, tuned, adapter, write)
    live = live_of(base, vectors, module_of, views_of)
    good = recipe({"cot": 0.5})
    live.apply(good)
    with pytest.raises(MergingError, match="names 'absent'"):
        live.apply(recipe({"cot": 0.7, "absent": 1}))
    assert live.recipe == good
    assert holds(live, dict(merge(good, base, vectors)), bits) == []


def test_a_file_that_fails_in_the_middle_is_not_claimed(
    tmp_path, llama, tuned, adapter, write, module_of, views_of, recipe, bits
):
    base, vectors = opened(tmp_path, llama, tuned, adapter, write)
    live = live_of(in_memory(base), vectors, module_of, views_of)
    former = recipe({"p3": 0.25})
    live.apply(former)
    (tmp_path / "cot" / "model.safetensors").rename(tmp_path / "away")
    with pytest.raises(MergingError, match="cannot be read: No such file"):
        live.apply(recipe({"p3": 0.25, "cot": 1}))
    assert live.recipe == former
    assert holds(live, dict(merge(former, base, vectors)), bits) == []
    (tmp_path / "away").rename(tmp_path / "cot" / "model.safetensors")
    live.apply(recipe({"p3": 0.25, "cot": 1}))
    assert holds(live, dict(merge(recipe({"p3": 0.25, "cot": 1}), base, vectors)), bits) == []


class Fused(nn.Module):
    """A module unlike its files: stacked experts, two matrices in one, a transposed matrix."""

    def __init__(self):
        super().__init__()
        self.experts = nn.Parameter(torch.zeros(3, 11, 7))
        self.gate_up = nn.Parameter(torch.zeros(2, 22, 7))
        self.turned = nn.Parameter(torch.zeros(5, 13))
        self.slices = nn.Parameter(torch.zeros(17, 3, dtype=torch.bfloat16))
        self.scalar = nn.Parameter(torch.tensor(0.0))
        self.register_buffer("steps", torch.zeros(1, dtype=torch.long))


FUSED_VIEWS = {
    **{f"experts.{i}.w": View("experts", (i,)) for i in range(3)},
    "gate.0": View("gate_up", (0, (0, 11))),
    "up.0": View("gate_up", (0, (11, 22))),
    "gate.1": View("gate_up", (1, (0, 11))),
    "up.1": View("gate_up", (1, (11, 22))),
    "turned.w": View("turned", (), True),
    "slice.w": View("slices", ((3, 14),), True),
    "scalar": View("scalar"),
    "steps": View("steps"),
}


def test_fused_stacked_sliced_and_transposed_parameters_hold_the_merge(tuned, recipe, bits):
    random_ = torch.Generator().manual_seed(3)
    shapes = {"turned.w": (13, 5), "slice.w": (3, 11), "scalar": ()}
    base = {
        name: torch.randn(shapes.get(name, (11, 7)), generator=random_)
        for name in [*FUSED_VIEWS, "ignored.w"]
        if name != "steps"
    } | {"steps": torch.tensor([11])}
    from merging import DistributionVector

    vectors = {"a": DistributionVector("a", base, tuned(base, 1))}
    live = LiveModel(Fused(), base, vectors, FUSED_VIEWS)
    made = recipe({"a": 0.6})
    assert live.apply(made) == len(FUSED_VIEWS)
    wanted = dict(merge(made, base, vectors))
    for name, view in FUSED_VIEWS.items():
        held = resolve(live.module, view)
        assert bits(held, wanted[name].to(held.dtype)), name
    assert live.module.slices[:3].eq(0).all()  # what no view names is left alone
    assert live.module.slices[14:].eq(0).all()
    assert torch.equal(live.module.turned.T, wanted["turned.w"])
    assert live.module.experts[1, 2, 3] == wanted["experts.1.w"][2, 3]


def test_a_view_of_another_shape_is_refused(recipe, tuned):
    from merging import DistributionVector

    base = {"w": torch.ones(7, 5)}
    module = nn.Module()
    module.w = nn.Parameter(torch.zeros(5, 7))
    live = LiveModel(
        module, base, {"a": DistributionVector("a", base, tuned(base, 1))}, {"w": View("w")}
    )
    message = r"w: its shape in the module is \[5, 7\], in the files \[7, 5\]"
    with pytest.raises(MergingError, match=message):
        live.apply(recipe({"a": 1}))
    assert live.recipe is None


def test_storage_is_written_in_place_and_gradients_are_untouched(
    llama, tuned, module_of, views_of, recipe
):
    from merging import DistributionVector

    base = llama()
    vectors = {"a": DistributionVector("a", base, tuned(base, 1))}
    module = module_of(base)
    addresses = [parameter.data_ptr() for parameter in module.parameters()]
    LiveModel(module, base, vectors, views_of(base)).apply(recipe({"a": 0.5}))
    assert [parameter.data_ptr() for parameter in module.parameters()] == addresses
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in module.parameters())


def test_a_bfloat16_module_of_a_float32_base_holds_the_merge_rounded(
    llama, tuned, module_of, views_of, recipe, bits
):
    from merging import DistributionVector

    base = llama()
    vectors = {"a": DistributionVector("a", base, tuned(base, 1))}
    live = LiveModel(module_of(base, torch.bfloat16), base, vectors, views_of(base))
    live.apply(recipe({"a": 0.5}))
    assert (
        holds(live, {n: v.bfloat16() for n, v in merge(recipe({"a": 0.5}), base, vectors)}, bits)
        == []
    )


class TestReload:
    """Models whose loading is no plain copy get all tensors of each result."""

    def live(self, llama, tuned, loader):
        from merging import DistributionVector

        base = llama()
        vectors = {"a": DistributionVector("a", base, tuned(base, 1))}
        return LiveModel(nn.Module(), base, vectors, {}, reload=loader), base, vectors

    def test_all_tensors_are_handed_over_and_only_when_something_changed(
        self, llama, tuned, recipe, bits
    ):
        loads = []
        live, base, vectors = self.live(llama, tuned, lambda tensors: loads.append(dict(tensors)))
        made = recipe({"a": [{"filter": "mlp", "value": 1}, {"value": 0}]})
        assert live.apply(made) == len(base)
        assert live.apply(made) == 0
        assert live.apply(recipe({"a": [{"filter": "mlp", "value": 2}, {"value": 0}]})) == len(base)
        assert len(loads) == 2
        wanted = dict(merge(made, base, vectors))
        assert all(bits(loads[0][name], wanted[name]) for name in base)

    def test_after_a_load_that_failed_the_former_recipe_is_not_taken_for_loaded(
        self, llama, tuned, recipe
    ):
        loads = []

        def loader(tensors):
            loads.append(len(dict(tensors)))
            if len(loads) == 2:
                raise MemoryError

        live, base, _ = self.live(llama, tuned, loader)
        first = recipe({"a": 0.5})
        live.apply(first)
        with pytest.raises(MemoryError):
            live.apply(recipe({"a": 0.7}))
        assert live.recipe is None
        assert live.apply(first) == len(base)
        assert len(loads) == 3


@pytest.mark.slow
def test_a_model_of_sources_with_filters_per_layer_survives_a_thousand_moves_in_any_order(
    llama, tuned, module_of, views_of, bits
):
    from merging import DistributionVector

    base = llama(dtype=torch.float16)
    vectors = {name: DistributionVector(name, base, tuned(base, i)) for i, name in enumerate("ab")}
    live = LiveModel(module_of(base), base, vectors, views_of(base))
    chance = random.Random(3)
    for _ in range(100):
        gradient = [round(chance.uniform(-1, 1), 1) for _ in range(chance.randint(1, 4))]
        models = (
            ModelEntry("a", "a", {"weight": gradient}),
            ModelEntry("b", "b", {"weight": chance.choice([0, 1, 0.5])}),
        )
        made = Recipe("base", models, chance.choice(["task_arithmetic"]))
        live.apply(made)
    assert holds(live, dict(merge(made, base, vectors)), bits) == []


class TestNotFinite:
    """What an export refuses the module never keeps: it equals the recipe before."""

    def live(self, llama, tuned, module_of, views_of, value=math.nan, dtype=None, **more):
        from merging import DistributionVector

        base = llama()
        broken = tuned(base, 1)
        broken["model.layers.2.mlp.up_proj.weight"][3, 5] = value
        vectors = {
            "good": DistributionVector("good", base, tuned(base, 2)),
            "broken": DistributionVector("broken", base, broken),
        }
        live = LiveModel(module_of(base, dtype), base, vectors, views_of(base), **more)
        return live, base, vectors

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_it_is_refused_by_name_and_the_former_recipe_comes_back(
        self, value, llama, tuned, module_of, views_of, recipe, bits, pieces
    ):
        live, base, vectors = self.live(llama, tuned, module_of, views_of, value)
        pieces(53, 211)
        good = recipe({"good": 0.7, "broken": 0.0})
        live.apply(good)
        message = (
            r"^model\.layers\.2\.mlp\.up_proj\.weight: 1 merged values are not finite. Look for"
        )
        with pytest.raises(MergingError, match=message):
            live.apply(recipe({"good": 0.2, "broken": 0.5}))
        assert live.recipe == good
        assert holds(live, dict(merge(good, base, vectors)), bits) == []
        assert live.apply(good) == 0
        better = recipe({"good": 0.3, "broken": 0.0})
        live.apply(better)
        assert holds(live, dict(merge(better, base, vectors)), bits) == []

    def test_after_an_interruption_too(self, llama, tuned, module_of, views_of, recipe, bits):
        live, base, vectors = self.live(llama, tuned, module_of, views_of)
        good = recipe({"good": 0.7, "broken": 0.0})
        live.apply(good)
        left = iter(range(7))
        live.apply(recipe({"good": 0.2, "broken": 0.0}), lambda: next(left, None) is None)
        assert live.recipe is None
        with pytest.raises(MergingError, match="not finite"):
            live.apply(recipe({"good": 0.2, "broken": 0.5}))
        assert live.recipe == good
        assert holds(live, dict(merge(good, base, vectors)), bits) == []

    def test_before_the_first_composition_the_module_equals_none(
        self, llama, tuned, module_of, views_of, recipe
    ):
        live, *_ = self.live(llama, tuned, module_of, views_of)
        with pytest.raises(MergingError, match="not finite"):
            live.apply(recipe({"good": 0.2, "broken": 0.5}))
        assert live.recipe is None

    def test_what_only_the_modules_dtype_cannot_hold(
        self, llama, tuned, module_of, views_of, recipe
    ):
        """1e5 is a float32, and beyond float16."""
        live, *_ = self.live(llama, tuned, module_of, views_of, 1e5, torch.float16)
        with pytest.raises(MergingError, match="1 merged values are not finite. float16 ends at"):
            live.apply(recipe({"good": 0.0, "broken": 1.0}))

    def test_a_tensor_that_lies_across_the_modules_memory(self, tuned, recipe):
        from merging import DistributionVector

        base = {"turned.w": torch.ones(13, 5)}
        broken = {"turned.w": torch.full((13, 5), math.nan)}
        large = {"turned.w": torch.full((13, 5), 1e5)}
        vectors = {
            key: DistributionVector(key, base, values)
            for key, values in (("broken", broken), ("large", large))
        }
        module = Fused().half()
        live = LiveModel(module, base, vectors, {"turned.w": FUSED_VIEWS["turned.w"]})
        live.apply(recipe({"broken": 0.0, "large": 0.25}))
        for bad in ({"broken": 1.0, "large": 0.0}, {"broken": 0.0, "large": 1.0}):
            with pytest.raises(MergingError, match="turned.w: 65 merged values are not finite"):
                live.apply(recipe(bad))
            assert live.recipe == recipe({"broken": 0.0, "large": 0.25})
        assert module.turned.eq(25000.75).all() or module.turned.eq(25008).all()

    @pytest.mark.parametrize("out_dtype", [None, "bfloat16"])
    def test_infinities_of_the_bases_own_are_copied(self, tuned, recipe, out_dtype):
        from merging import DistributionVector

        base = {"w": torch.ones(7), "kept": torch.tensor([1.0, -math.inf])}
        vectors = {"a": DistributionVector("a", base, {"w": torch.zeros(7), "kept": base["kept"]})}
        module = nn.Module()
        module.w, module.kept = nn.Parameter(torch.zeros(7)), nn.Parameter(torch.zeros(2))
        live = LiveModel(module, base, vectors, {name: View(name) for name in base})
        live.apply(recipe({"a": 0.5}, exclude=("kept",), out_dtype=out_dtype))
        assert module.kept.tolist() == [1.0, -math.inf]

    def test_a_model_that_is_loaded_anew_is_loaded_as_before(
        self, llama, tuned, module_of, views_of, recipe, bits
    ):
        loads = []
        live, base, vectors = self.live(
            llama, tuned, module_of, views_of, reload=lambda tensors: loads.append(dict(tensors))
        )
        good = recipe({"good": 0.7, "broken": 0.0})
        live.apply(good)
        with pytest.raises(MergingError, match="up_proj.weight: 1 merged values are not finite"):
            live.apply(recipe({"good": 0.2, "broken": 0.5}))
        assert live.recipe == good
        wanted = dict(merge(good, base, vectors))
        assert len(loads) == 2 and all(bits(loads[-1][name], wanted[name]) for name in base)

    def test_if_the_way_back_fails_too_the_error_says_so(
        self, llama, tuned, module_of, views_of, recipe
    ):
        live, _, vectors = self.live(llama, tuned, module_of, views_of)
        live.apply(recipe({"good": 0.7, "broken": 0.0}))
        bad = recipe({"good": 0.0, "broken": 0.5})
        del vectors["good"]
        with pytest.raises(MergingError, match="not finite") as caught:
            live.apply(replace(bad, models=bad.models[1:]))
        assert live.recipe is None
        assert "The weights from before could not be composed again" in caught.value.__notes__[0]
