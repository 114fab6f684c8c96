"""A sum of several adapters is one product of stacked factors, with the same bits everywhere."""

import sys

import pytest
import torch

from merging import (
    Checkpoint,
    DistributionVector,
    LiveModel,
    LoraVector,
    RecipeError,
    export,
    merge,
    open_vector,
)
from merging.engine.loop import unrounded_blocks
from merging.engine.task_vectors import summands_of
from merging.engine.tasks import tasks
from merging.inputs.vector_arithmetic import AdapterSum
from merging.live.live_model import resolve
from merging.methods import _contract as methods
from merging.methods._values import Site
from merging.outputs.adapter_export import export_adapter

UP, DOWN, QUERY = (f"model.layers.1.{part}_proj" for part in ("mlp.up", "mlp.down", "self_attn.q"))
OMEGAS = {"full": 0.3, "a": -0.7, "b": 1.1, "c": 0.45}


@pytest.fixture
def opened(tmp_path, llama, tuned, write, adapter):
    """opened(dtype) -> the base, a full fine-tune and three adapters of different ranks.

    All three change UP, the first two change DOWN, and only the second changes QUERY.
    """

    def make(dtype=torch.float32):
        weights = llama(dtype=dtype)
        base = Checkpoint(write(tmp_path / "base", weights, {"model_type": "llama"}))
        reach = {"a": [UP, DOWN], "b": [UP, DOWN, QUERY], "c": [UP]}
        vectors = {"full": DistributionVector("full", base, tuned(weights, 1))}
        for seed, (name, modules) in enumerate(reach.items()):
            folder = adapter(tmp_path / name, weights, modules, rank=(3, 5, 2)[seed], seed=seed)
            vectors[name] = LoraVector(folder, base, name)
        return base, vectors

    return make


def task_of(recipe, base, vectors, module=UP):
    return next(task for task in tasks(recipe, base, vectors) if task.name == f"{module}.weight")


# --------------------------------------------------------------------------------------------- laws


SUMS = {
    "task_arithmetic": {"normalize": True, "lambda": 0.7},
    "linear": {},
    "lines": {"alpha": 0.5, "beta": 0.9},
    "metagpt": {"lambda": 1.3},
}


def test_every_method_that_is_a_sum_of_several_is_tested_here():
    several = [name for name in methods.names() if methods.load(name).vectors[1] != 1]
    assert set(SUMS) == {name for name in several if methods.load(name).linear}


@pytest.mark.parametrize("method", SUMS)
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str
)
def test_it_equals_the_sum_of_each_adapter_in_float64(method, dtype, opened, recipe):
    base, vectors = opened(dtype)
    made = recipe(OMEGAS, method, parameters=SUMS[method])
    merged = dict(merge(made, base, vectors))
    eps = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    for task in tasks(made, base, vectors):
        theta = base[task.name].double()
        stack = torch.zeros(len(task.vectors), *task.shape, dtype=torch.float64)
        for row, name in zip(stack, task.vectors, strict=True):
            if task.name in vectors[name]:
                row += vectors[name][task.name]
        omegas = torch.tensor(task.omegas, dtype=torch.float64)
        site = Site(task.name, theta, task.depth)
        stack = stack if task.space == "deltas" else stack + theta
        wanted = task.method.combine(stack, omegas, site, **dict(task.arguments))
        wanted = wanted + theta if task.space == "deltas" else wanted
        slack = 0.51 * torch.finfo(dtype).eps * wanted.abs() + 40 * eps
        assert ((merged[task.name].double() - wanted).abs() <= slack).all(), task.name


@pytest.mark.parametrize("method", SUMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_blocks_the_compiled_loop_and_what_is_held_change_no_bit(
    method, dtype, opened, recipe, bits, pieces, monkeypatch
):
    base, vectors = opened(dtype)
    made = recipe(OMEGAS, method, parameters=SUMS[method])
    wanted = dict(merge(made, base, vectors))
    task = task_of(made, base, vectors)
    rounded = torch.cat([v.to(dtype) for _, _, v in unrounded_blocks(task, base, vectors)])
    assert bits(rounded, wanted[task.name].flatten())
    for name in "ab":
        vectors[name].hold_products()
    pieces(13, 29)
    assert all(bits(value, wanted[name]) for name, value in merge(made, base, vectors))
    monkeypatch.setattr(sys.modules["merging.engine.kernel"], "library", lambda: None)
    assert all(bits(value, wanted[name]) for name, value in merge(made, base, vectors))


def test_an_omega_of_0_equals_the_recipe_without_that_adapter(opened, recipe, bits):
    base, vectors = opened()
    for left_out in ("a", "b", "full"):
        rest = {name: omega for name, omega in OMEGAS.items() if name != left_out}
        wanted = dict(merge(recipe(rest), base, vectors))
        found = merge(recipe(OMEGAS | {left_out: 0.0}), base, vectors)
        assert all(bits(value, wanted[name]) for name, value in found)


def test_one_adapter_alone_has_the_bits_of_its_own_product(opened, recipe, bits):
    base, vectors = opened()
    merged = dict(merge(recipe({"b": 0.7}), base, vectors))
    for name in vectors["b"]:
        assert bits(merged[name], base[name] + vectors["b"][name] * torch.tensor(0.7))


def test_the_adapter_that_a_composition_exports_to_gives_the_same_bits(
    opened, recipe, bits, tmp_path
):
    base, vectors = opened()
    made = recipe({name: omega for name, omega in OMEGAS.items() if name != "full"})
    export_adapter(made, base, vectors, tmp_path / "out")
    one = open_vector(tmp_path / "out", base)
    wanted = dict(merge(recipe({"one": 1.0}), base, {"one": one}))
    assert bits(dict(merge(made, base, vectors))[f"{UP}.weight"], wanted[f"{UP}.weight"])
    assert bits(dict(merge(made, base, vectors))[f"{DOWN}.weight"], wanted[f"{DOWN}.weight"])


def test_the_live_model_equals_the_export(opened, recipe, bits, module_of, views_of, tmp_path):
    base, vectors = opened(torch.bfloat16)
    live = LiveModel(module_of(dict(base)), base, vectors, views_of(base))
    live.apply(recipe(OMEGAS | {"a": 0.2}))
    live.apply(recipe(OMEGAS))
    written = Checkpoint(export(recipe(OMEGAS), base, vectors, tmp_path / "out"))
    assert all(bits(resolve(live.module, live.views[name]), written[name]) for name in base)


# ------------------------------------------------------------------------------- what is computed


def test_adapters_are_one_row_and_checkpoints_keep_their_own(opened, recipe):
    base, vectors = opened()
    task = task_of(recipe(OMEGAS, parameters={"lambda": 2.0}), base, vectors)
    summed, rows = summands_of(task, vectors)
    assert [row.name for row in rows] == list(summed.vectors) == ["full", "a + b + c"]
    assert summed.omegas == (2 * 0.3, 1.0) and isinstance(rows[1], AdapterSum)
    assert rows[1]._product.factors.left.shape[1] == 3 + 5 + 2


def test_an_adapter_that_does_not_change_the_tensor_counts_in_the_divisor_only(opened, recipe):
    base, vectors = opened()
    made = recipe(OMEGAS, parameters={"normalize": True})
    summed, rows = summands_of(task_of(made, base, vectors, DOWN), vectors)
    assert [row.name for row in rows] == ["full", "a + b"]
    assert summed.omegas[0] == pytest.approx(0.3 / sum(OMEGAS.values()))
    _, rows = summands_of(task_of(recipe(OMEGAS, "linear"), base, vectors, DOWN), vectors)
    assert [row.name for row in rows] == ["full", "c", "a + b"], "its weights are the base's"
    task = task_of(made, base, vectors, QUERY)
    assert summands_of(task, vectors)[0] is task, "of one adapter"


def test_methods_that_are_no_sums_see_each_adapter(opened, recipe):
    base, vectors = opened()
    task = task_of(recipe(OMEGAS, "ties"), base, vectors)
    same, rows = summands_of(task, vectors)
    assert same is task and rows == [vectors[name] for name in OMEGAS]


def test_the_factors_are_stacked_once_for_all_pieces_of_a_tensor(opened, recipe):
    base, vectors = opened()
    up, down = (task_of(recipe(OMEGAS), base, vectors, module) for module in (UP, DOWN))
    first, second = (summands_of(task, vectors) for task in (up, down))
    assert summands_of(up, vectors) is first and summands_of(down, vectors) is second
    moved = task_of(recipe(OMEGAS | {"c": 0.5}), base, vectors)
    assert summands_of(moved, vectors) is not first
    assert summands_of(up, vectors) is not first, "the last two are kept"
    other = vectors | {"b": LoraVector(vectors["b"].path, base, "b")}
    assert summands_of(up, other) is not summands_of(up, vectors), "of other vectors"


def test_weights_that_cancel_are_refused_as_before(opened, recipe):
    base, vectors = opened()
    made = recipe({"a": 1.0, "b": -1.0}, parameters={"normalize": True})
    with pytest.raises(RecipeError, match="the ω sum to 0"):
        dict(merge(made, base, vectors))


# ------------------------------------------------------------------------------------- PEFT, oracle


@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings.*:UserWarning")
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_peft_merging_one_after_the_other_agrees_but_for_rounding(
    kind, tmp_path, recipe, tiny_model
):
    """merge_and_unload adds each adapter to float32 weights, which are rounded after each."""
    from peft import LoraConfig, PeftModel, get_peft_model
    from peft.tuners.lora import LoraLayer

    tiny_model(kind).save_pretrained(tmp_path / "base")
    base = Checkpoint(tmp_path / "base")
    modules = ["c_attn", "c_fc"] if kind == "gpt2" else ["q_proj", "up_proj", "down_proj"]
    names, omegas = ["a", "b", "c"], {"a": 0.7, "b": -0.4, "c": 1.0}
    for seed, name in enumerate(names):
        config = LoraConfig(
            r=3 + seed, lora_alpha=8, target_modules=modules, fan_in_fan_out=kind == "gpt2"
        )
        model = get_peft_model(tiny_model(kind), config)
        random = torch.Generator().manual_seed(seed)
        for path, parameter in model.named_parameters():
            if "lora_" in path:
                parameter.data = 0.2 * torch.randn(parameter.shape, generator=random)
        model.save_pretrained(tmp_path / name)
    model = PeftModel.from_pretrained(tiny_model(kind), tmp_path / "a", adapter_name="a")
    for name in names[1:]:
        model.load_adapter(tmp_path / name, name)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            for name, omega in omegas.items():
                module.scaling[name] *= omega
    merged = model.merge_and_unload(adapter_names=names).state_dict()

    vectors = {name: LoraVector(tmp_path / name, base, name) for name in names}
    moved = 0
    for name, found in merge(recipe(omegas), base, vectors):
        if name not in vectors["a"]:
            assert torch.equal(found, merged[name])
            continue
        moved += 1
        # PEFT rounds the weights after each adapter: by a step of float32 of all that is added up.
        size = base[name].abs()
        for each in names:
            left, right, scale = vectors[each].factors(name)
            size = size + abs(omegas[each]) * scale * (left.abs() @ right.abs())
        step = torch.finfo(torch.float32).eps * size
        assert ((found - merged[name]).abs() <= len(names) * step).all()
        # In bfloat16, in which both are rounded once at the end, they are at most one step apart.
        ours, theirs = found.bfloat16(), merged[name].bfloat16()
        assert ((ours - theirs).abs() <= torch.finfo(torch.bfloat16).eps * theirs.abs()).all()
        assert (ours == theirs).float().mean() > 0.99
    assert moved == len(vectors["a"]) > 0
