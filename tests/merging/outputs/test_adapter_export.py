import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from merging import (
    Checkpoint,
    ExportError,
    LoraVector,
    MismatchError,
    ModelEntry,
    Recipe,
    RecipeError,
    merge,
    verify,
)
from merging.engine import low_rank
from merging.engine.identities import with_identities
from merging.engine.task import Task
from merging.methods import _contract as methods
from merging.opening.open import open_vector
from merging.outputs import adapter_folder
from merging.outputs.adapter_export import export_adapter
from merging.recipe import read_recipe, recipe_yaml
from merging.recipe.parts import Slice, SliceSource

UP, DOWN, SQUARE = (
    f"model.layers.0.{name}" for name in ("mlp.up_proj", "mlp.down_proj", "self_attn.q_proj")
)
LAST = "model.layers.2.mlp.up_proj"


@pytest.fixture
def base(tmp_path, llama, write):
    return Checkpoint(write(tmp_path / "base", llama(), {"model_type": "llama"}))


@pytest.fixture
def vectors(tmp_path, base, adapter):
    """Two adapters of rank 3 and 5 that share one module; the second has rsLoRA's scale 6/√5."""
    adapter(tmp_path / "a", base, [UP, DOWN], seed=1)
    adapter(tmp_path / "b", base, [UP, SQUARE, LAST], seed=2, rank=5, use_rslora=True)
    return {name: LoraVector(tmp_path / name, base, name) for name in ("a", "b")}


def written(folder):
    return load_file(folder / "adapter_model.safetensors"), json.loads(
        (folder / "adapter_config.json").read_text()
    )


def moved(recipe, base, vectors):
    return {
        name: value.double() - base[name].double() for name, value in merge(recipe, base, vectors)
    }


def test_the_factors_stand_side_by_side(tmp_path, base, vectors, recipe):
    fit = export_adapter(recipe({"a": 0.7, "b": -0.4}), base, vectors, tmp_path / "out")
    factors, config = written(tmp_path / "out")
    a, b = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("a", "b"))
    at = f"base_model.model.{UP}.lora_"
    assert torch.equal(
        factors[at + "A.weight"], torch.cat([a[at + "A.weight"], b[at + "A.weight"]])
    )
    wanted = torch.cat(
        [
            0.7 * (6 / 3) * a[at + "B.weight"].double(),
            -0.4 * 6 / 5**0.5 * b[at + "B.weight"].double(),
        ],
        1,
    )
    assert torch.equal(factors[at + "B.weight"], wanted.float())
    assert {row.name.removesuffix(".weight"): row.rank for row in fit.rows} == {
        UP: 8,
        DOWN: 3,
        SQUARE: 5,
        LAST: 5,
    }
    assert (config["r"], config["lora_alpha"], config["use_rslora"], config["fan_in_fan_out"]) == (
        8,
        8,
        False,
        False,
    )
    assert (
        config["rank_pattern"]
        == config["alpha_pattern"]
        == {f"^{DOWN}": 3, f"^{SQUARE}": 5, f"^{LAST}": 5}
    )
    assert sorted(config["target_modules"]) == sorted([UP, DOWN, SQUARE, LAST])
    assert (config["peft_type"], config["task_type"], config["bias"]) == (
        "LORA",
        "CAUSAL_LM",
        "none",
    )
    assert fit.error < 1e-7 and fit.left_out == ()


@pytest.mark.parametrize(
    ("omegas", "more"),
    [
        ({"a": 0.7, "b": -0.4}, {}),
        ({"a": [0.0, 0.5, 1.0], "b": [{"filter": "mlp", "value": 0.3}, {"value": -2.0}]}, {}),
        ({"a": 0.7, "b": 0.4}, {"parameters": {"normalize": True, "lambda": 0.8}}),
        ({"a": 0.0, "b": 1.0}, {}),
        ({"a": 1.0}, {}),
    ],
)
def test_read_again_it_is_the_composition(omegas, more, tmp_path, base, vectors, recipe):
    made = recipe(omegas, **more)
    fit = export_adapter(made, base, vectors, tmp_path / "out")
    again = LoraVector(tmp_path / "out", base)
    for name, wanted in moved(made, base, vectors).items():
        if name in again:
            torch.testing.assert_close(again[name].double(), wanted, rtol=1e-6, atol=3e-7)
        else:
            assert not wanted.any()
    wanted = {name for name, value in moved(made, base, vectors).items() if value.any()}
    assert set(again) == wanted == {row.name for row in fit.rows if row.rank}


def test_an_omega_of_zero_adds_no_rank(tmp_path, base, vectors, recipe):
    fit = export_adapter(recipe({"a": 0.0, "b": 1.0}), base, vectors, tmp_path / "out")
    assert {row.rank for row in fit.rows} == {5}


@pytest.mark.parametrize("rank", [1, 2, 4, 6, 50])
def test_truncated_its_error_is_the_float64_svds(rank, tmp_path, base, vectors, recipe):
    made = recipe({"a": 0.7, "b": -0.4})
    fit = export_adapter(made, base, vectors, tmp_path / "out", rank=rank)
    again = LoraVector(tmp_path / "out", base)
    squares, whole = 0.0, 0.0
    for row in fit.rows:
        exact = sum(
            omega * factors.scale * (factors.left.double() @ factors.right.double())
            for omega, factors in (
                (o, vectors[n].factors(row.name))
                for n, o in (("a", 0.7), ("b", -0.4))
                if row.name in vectors[n]
            )
        )
        sigma = torch.linalg.svdvals(exact)
        assert row.rank == min(rank, {UP: 7, DOWN: 3}.get(row.name.removesuffix(".weight"), 5))
        assert row.norm == pytest.approx(float(exact.norm()), rel=1e-10)
        assert row.error == pytest.approx(float(sigma[row.rank :].norm()), rel=1e-6, abs=3e-7)
        assert row.error == pytest.approx(
            float((exact - again[row.name].double()).norm()), rel=1e-5, abs=1e-6
        )
        squares, whole = squares + row.error**2, whole + row.norm**2
    assert fit.error == pytest.approx((squares / whole) ** 0.5)


@pytest.mark.parametrize(
    ("tensor", "shape", "sides", "fan_in"),
    [
        (
            "x.c_fc.weight",
            (7, 11),
            {"lora_A.weight": (3, 7), "lora_B.weight": (11, 3)},
            True,
        ),  # GPT-2's Conv1D: (in, out)
        (
            "x.embed.weight",
            (31, 7),
            {"lora_embedding_A": (3, 31), "lora_embedding_B": (7, 3)},
            False,
        ),
    ],
)
@pytest.mark.parametrize("rank", [None, 2])
def test_modules_that_hold_the_product_transposed(
    tensor, shape, sides, fan_in, rank, tmp_path, write, recipe
):
    random = torch.Generator().manual_seed(3)
    base = Checkpoint(write(tmp_path / "base", {tensor: torch.zeros(shape)}, {}))
    at = f"base_model.model.{tensor.removesuffix('.weight')}."
    (tmp_path / "a").mkdir()
    save_file(
        {at + side: torch.randn(size, generator=random) for side, size in sides.items()},
        tmp_path / "a" / "adapter_model.safetensors",
    )
    (tmp_path / "a" / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "r": 3, "lora_alpha": 5}'
    )
    vector = LoraVector(tmp_path / "a", base, "a")
    (row,) = export_adapter(
        recipe({"a": -0.5}), base, {"a": vector}, tmp_path / "out", rank=rank
    ).rows
    factors, config = written(tmp_path / "out")
    found = {key.removeprefix(at): tuple(value.shape) for key, value in factors.items()}
    assert found == {
        side: tuple(rank if rank and n == 3 else n for n in size) for side, size in sides.items()
    }
    assert config["fan_in_fan_out"] is fan_in
    error = float((LoraVector(tmp_path / "out", base)[tensor] + 0.5 * vector[tensor]).norm())
    assert error == pytest.approx(row.error, abs=1e-6 * row.norm) and (error > 0.01 * row.norm) == (
        rank == 2
    )


@pytest.mark.parametrize("named", ["bfloat16", "float16", "float64", None])
def test_the_dtype_of_the_file_is_the_recipes_and_its_rounding_is_in_the_error(
    named, tmp_path, base, vectors, recipe
):
    fit = export_adapter(
        recipe({"a": 0.7, "b": -0.4}, out_dtype=named), base, vectors, tmp_path / "out"
    )
    factors, _ = written(tmp_path / "out")
    assert {str(value.dtype) for value in factors.values()} == {f"torch.{named or 'float32'}"}
    low, high = {
        "bfloat16": (5e-4, 4e-3),
        "float16": (5e-5, 5e-4),
        "float64": (0, 0),
        None: (1e-9, 6e-8),
    }[named]
    assert low <= fit.error <= high


def test_on_a_float64_base_it_is_float64(tmp_path, llama, adapter, write, recipe):
    base = Checkpoint(write(tmp_path / "base", llama(dtype=torch.float64), {}))
    vector = LoraVector(adapter(tmp_path / "a", base, [UP]), base, "a")
    export_adapter(recipe({"a": 0.7}), base, {"a": vector}, tmp_path / "out")
    assert {value.dtype for value in written(tmp_path / "out")[0].values()} == {torch.float64}


def test_the_folder_carries_recipe_card_and_manifest(tmp_path, base, vectors, recipe):
    made = recipe({"a": 0.7, "b": -0.4})
    export_adapter(
        made, base, vectors, tmp_path / "out", command="dem merge r.yml out --as-adapter"
    )
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "MANIFEST.json",
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "recipe.yml",
    ]
    known = with_identities(made, base, vectors)
    assert read_recipe(tmp_path / "out" / "recipe.yml") == known
    assert verify(tmp_path / "out").recipe == known.digest != made.digest
    assert (tmp_path / "out" / "recipe.yml").read_text() == recipe_yaml(known)
    text = (tmp_path / "out" / "README.md").read_text()
    assert "Θ + 0.70·Δa − 0.40·Δb" in text and "dem merge r.yml out --as-adapter" in text
    assert "| 0 | 3 | 3 to 8 |" in text and "library_name: peft" in text
    assert (
        Checkpoint(tmp_path / "out", file="adapter_model.safetensors").metadata["dem_digest"]
        == made.digest
    )


@pytest.mark.parametrize(
    ("name", "place", "revision"),
    [("org/name@abc", "org/name", "abc"), ("org/name", "org/name", None), ("base", "base", None)],
)
def test_the_configuration_names_the_base_and_its_revision(name, place, revision, base):
    config = adapter_folder.config_of({adapter_folder.Module(UP, False): 3}, base, name)
    assert (config["base_model_name_or_path"], config["revision"]) == (place, revision)


def test_a_folder_with_an_at_sign_is_a_folder(base, tmp_path):
    (tmp_path / "a@b").mkdir()
    config = adapter_folder.config_of(
        {adapter_folder.Module(UP, False): 3}, base, str(tmp_path / "a@b")
    )
    assert (config["base_model_name_or_path"], config["revision"]) == (str(tmp_path / "a@b"), None)


def test_an_encoder_decoder_has_another_task(tmp_path, llama, write):
    base = Checkpoint(write(tmp_path / "t5", llama(), {"is_encoder_decoder": True}))
    assert (
        adapter_folder.config_of({adapter_folder.Module(UP, False): 3}, base, "")["task_type"]
        == "SEQ_2_SEQ_LM"
    )


# ------------------------------------------------------------------------------ methods that are sums

SUMS = {
    "task_arithmetic": ({"a": 0.7, "b": -0.4}, {"lambda": 1.5}),
    "linear": ({"a": 0.5, "b": 0.25}, {}),
    "lines": ({"a": 0.7, "b": -0.4}, {"alpha": 0.3, "beta": 0.6}),
    "metagpt": ({"a": None, "b": None}, {"lambda": 0.8}),
    "passthrough": ({"b": None}, {}),
}


@pytest.mark.parametrize("name", methods.names())
def test_every_method_is_written_as_an_adapter_or_is_no_sum(name, tmp_path, base, vectors, recipe):
    """The oracle is the full merge; test_contract proves that the others are no sums."""
    if not methods.load(name).linear:
        task = Task("w", (2, 2), torch.float32, methods.load(name), ("a",), (1.0,))
        with pytest.raises(RecipeError, match=f"merge_method {name} .* is not a sum of the"):
            low_rank.coefficients(task)
        return
    omegas, parameters = SUMS[name]
    made = recipe(omegas, name, parameters=parameters)
    export_adapter(made, base, vectors, tmp_path / "out")
    again = LoraVector(tmp_path / "out", base)
    for tensor, wanted in moved(made, base, vectors).items():
        found = again[tensor].double() if tensor in again else torch.zeros((), dtype=torch.float64)
        assert torch.allclose(found.expand(wanted.shape), wanted, atol=2e-6), tensor


def test_an_average_may_have_the_base_as_one_more_model(tmp_path, base, vectors, recipe):
    """(1·Θ + 3·(Θ + Δa)) / 4 = Θ + 0.75·Δa; the adapter's own scale is 6/3."""
    both = {**vectors, "base": open_vector(base.path, base, "base")}
    made = recipe({"base": 1.0, "a": 3.0}, "linear")
    export_adapter(made, base, both, tmp_path / "out")
    factors, ours = (
        written(tmp_path / "out")[0],
        load_file(tmp_path / "a" / "adapter_model.safetensors"),
    )
    assert factors.keys() == ours.keys()
    for key, value in ours.items():
        wanted = value.double() * (0.75 * 2 if "lora_B" in key else 1)
        assert torch.equal(factors[key], wanted.float())


@pytest.mark.parametrize(
    ("name", "omegas", "parameters", "factor"),
    [
        ("linear", {"a": 0.5, "b": 0.25}, {"normalize": False}, "0.75"),
        ("passthrough", {"b": None}, {"scale": 2.0}, "2"),
    ],
)
def test_a_sum_of_weights_that_scales_the_base_is_refused(
    name, omegas, parameters, factor, tmp_path, base, vectors, recipe
):
    made = recipe(omegas, name, parameters=parameters)
    with pytest.raises(RecipeError, match=f"{name} multiplies the base's own weights by {factor} "):
        export_adapter(made, base, vectors, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------ refused


def test_slices_are_refused(tmp_path, base, vectors):
    sources = (SliceSource("b", 0, 3, {"weight": 1.0}),)
    made = Recipe(None, (ModelEntry("base", "b"),), "linear", slices=(Slice(sources),))
    with pytest.raises(RecipeError, match="slices make a model of other layers than the base's"):
        export_adapter(made, base, vectors, tmp_path / "out")


def test_a_full_checkpoint_among_the_models_is_refused_by_name(
    tmp_path, base, vectors, llama, tuned, write, recipe
):
    folder = write(tmp_path / "full", tuned(llama(), 1), {})
    both = {**vectors, "full": open_vector(folder, base, "full")}
    with pytest.raises(
        RecipeError,
        match=r"full \(full\) is not an adapter.*Use --as-adapter only if.*dem extract BASE",
    ):
        export_adapter(recipe({"a": 1.0, "full": 0.5}), base, both, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("omegas", "more"), [({"a": 0.0, "b": 0.0}, {}), ({"a": 1.0}, {"parameters": {"lambda": 0.0}})]
)
def test_the_base_itself_is_no_adapter(omegas, more, tmp_path, base, vectors, recipe):
    with pytest.raises(
        RecipeError, match="nothing moves the base's matrices.*Set an ω that is not 0"
    ):
        export_adapter(recipe(omegas, **more), base, vectors, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_what_cancels_is_left_out(tmp_path, base, vectors, recipe):
    twice = {**vectors, "c": LoraVector(tmp_path / "a", base, "c")}
    fit = export_adapter(recipe({"a": 0.7, "c": -0.7, "b": 1.0}), base, twice, tmp_path / "out")
    assert {row.name.removesuffix(".weight"): row.rank for row in fit.rows} == {
        UP: 11,
        DOWN: 0,
        SQUARE: 5,
        LAST: 5,
    }
    assert f"{DOWN}.weight" not in LoraVector(tmp_path / "out", base)


@pytest.mark.parametrize(
    ("value", "named"), [(float("nan"), None), (float("inf"), "float32"), (3e5, "float16")]
)
def test_values_that_are_not_finite_are_refused(value, named, tmp_path, base, vectors, recipe):
    factors = load_file(tmp_path / "a" / "adapter_model.safetensors")
    factors[f"base_model.model.{UP}.lora_B.weight"][0, 0] = value
    save_file(factors, tmp_path / "a" / "adapter_model.safetensors")
    vector = LoraVector(tmp_path / "a", base, "a")
    word = (
        "float16 ends at 65,504: choose float32"
        if named == "float16"
        else "Look for NaN or infinity"
    )
    with pytest.raises(
        ExportError, match=rf"{UP}.weight: values of its displacement are not finite. {word}"
    ):
        export_adapter(recipe({"a": 0.7}, out_dtype=named), base, {"a": vector}, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_adapters_that_disagree_how_a_square_matrix_stands_are_refused(
    tmp_path, base, adapter, recipe
):
    for name, turned in (("x", True), ("y", False)):
        adapter(tmp_path / name, base, [SQUARE], fan_in_fan_out=turned)
    both = {name: LoraVector(tmp_path / name, base, name) for name in ("x", "y")}
    with pytest.raises(
        MismatchError,
        match=rf"x, y disagree about the orientation of '{SQUARE}.weight' \(fan_in_fan_out\)",
    ):
        export_adapter(recipe({"x": 1.0, "y": 1.0}), base, both, tmp_path / "out")


def test_of_two_paths_of_a_module_the_fuller_is_taken(tmp_path, base, vectors, recipe):
    """An adapter trained on the decoder alone names its modules without the model's prefix."""
    factors, _ = written(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    save_file(
        {key.replace("model.model.", "model."): value for key, value in factors.items()},
        tmp_path / "c" / "adapter_model.safetensors",
    )
    for order in (["c", "a"], ["a", "c"]):
        both = {name: LoraVector(tmp_path / name, base, name) for name in order}
        export_adapter(recipe(dict.fromkeys(order, 1.0)), base, both, tmp_path / "-".join(order))
        assert sorted(written(tmp_path / "-".join(order))[1]["target_modules"]) == sorted(
            [UP, DOWN]
        )


@pytest.mark.parametrize("rank", [0, -1])
def test_a_rank_below_one_is_refused(rank, tmp_path, base, vectors, recipe):
    with pytest.raises(RecipeError, match=rf"rank is {rank}, expected a whole number from 1"):
        export_adapter(recipe({"a": 1.0}), base, vectors, tmp_path / "out", rank=rank)


def test_a_dtype_that_there_is_not(base):
    with pytest.raises(
        RecipeError, match="dtype is 'int8', expected one of float16, bfloat16, float32, float64"
    ):
        adapter_folder.file_dtype("int8", base, [])


# ----------------------------------------------------------------------------- whole, or not at all


def test_a_folder_that_exists_is_left_alone(tmp_path, base, vectors, recipe):
    (tmp_path / "out").mkdir()
    with pytest.raises(ExportError, match="exists. Give a new folder"):
        export_adapter(recipe({"a": 1.0}), base, vectors, tmp_path / "out")


@pytest.mark.parametrize("stage", ["factor", "verify"])
@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt, None),
        (
            OSError(28, "No space left on device"),
            ExportError,
            "out could not be written: No space left.*Nothing was left",
        ),
    ],
)
def test_ended_on_the_way_nothing_is_left(
    stage, error, raised, message, tmp_path, base, vectors, recipe
):
    def progress(at, done, total):
        assert 0 < done <= total
        assert not (tmp_path / "out").exists() and list(tmp_path.glob(".out.staging-*"))
        if at == stage:
            raise error

    with pytest.raises(raised, match=message):
        export_adapter(recipe({"a": 1.0}), base, vectors, tmp_path / "out", progress=progress)
    assert not list(tmp_path.glob("*out*"))


def test_what_a_killed_export_left_is_removed(tmp_path, base, vectors, recipe):
    (tmp_path / ".out.staging-999999999-1").mkdir()
    export_adapter(recipe({"a": 1.0}), base, vectors, tmp_path / "out")
    assert not list(tmp_path.glob(".out*"))


def test_progress_counts_tensors_then_bytes(tmp_path, base, vectors, recipe):
    seen = []
    export_adapter(
        recipe({"a": 1.0}),
        base,
        vectors,
        tmp_path / "out",
        progress=lambda *step: seen.append(step),
    )
    assert [step for step in seen if step[0] == "factor"] == [("factor", 1, 2), ("factor", 2, 2)]
    assert seen[-1][0] == "verify" and seen[-1][1] == seen[-1][2]


@pytest.mark.parametrize("change", [{"lora_alpha": 7}, {"fan_in_fan_out": True}])
def test_what_reads_back_otherwise_is_not_kept(
    change, tmp_path, base, adapter, recipe, monkeypatch
):
    vector = LoraVector(adapter(tmp_path / "s", base, [SQUARE]), base)
    right = adapter_folder.config_of
    monkeypatch.setattr(
        adapter_folder, "config_of", lambda *given, **more: right(*given, **more) | change
    )
    with pytest.raises(ExportError, match="is not the adapter that was wanted. Please report this"):
        export_adapter(recipe({"s": 1.0}), base, {"s": vector}, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


# ------------------------------------------------------------------------------------- PEFT, oracle


def train(model, folder, seed, **config):
    """An adapter that PEFT wrote, with random factors in place of training."""
    from peft import LoraConfig, get_peft_model

    transposed = model.config.model_type == "gpt2"
    model = get_peft_model(
        model, LoraConfig(task_type="CAUSAL_LM", fan_in_fan_out=transposed, **config)
    )
    random = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=random)
    model.save_pretrained(folder, save_embedding_layers=False)


CASES = {
    "llama": ("llama", ["q_proj", "up_proj"], ["q_proj", "v_proj", "down_proj", "lm_head"]),
    "every linear module": ("llama", "all-linear", ["gate_proj"]),
    "embedding": ("llama", ["embed_tokens", "k_proj"], ["embed_tokens", "o_proj"]),
    "gpt2": ("gpt2", ["c_attn", "c_fc"], ["attn.c_proj", "mlp.c_proj", "c_fc"]),
}


@pytest.mark.filterwarnings("ignore:.*save_embedding_layers:UserWarning")
@pytest.mark.parametrize("rank", [None, 4])
@pytest.mark.parametrize("case", CASES)
def test_peft_loads_it_and_merges_the_same_weights(case, rank, tmp_path, recipe, tiny_model):
    from peft import PeftModel

    kind, first, second = CASES[case]
    tiny_model(kind).save_pretrained(tmp_path / "base")
    base = Checkpoint(tmp_path / "base")
    train(tiny_model(kind), tmp_path / "a", 1, r=3, lora_alpha=8, target_modules=first)
    ranks = {second[0]: 2}
    train(
        tiny_model(kind),
        tmp_path / "b",
        2,
        r=5,
        lora_alpha=7,
        use_rslora=True,
        rank_pattern=ranks,
        target_modules=second,
    )
    vectors = {name: open_vector(tmp_path / name, base) for name in ("a", "b")}
    made = recipe({"a": 0.7, "b": [-0.4, 0.9]})
    fit = export_adapter(made, base, vectors, tmp_path / "out", rank=rank)

    merged = (
        PeftModel.from_pretrained(tiny_model(kind), tmp_path / "out")
        .merge_and_unload()
        .state_dict()
    )
    errors = {row.name: row.error for row in fit.rows}
    changed = set()
    for name, wanted in merge(made, base, vectors):
        error, scale = float((merged[name] - wanted).double().norm()), float(wanted.double().norm())
        if rank is None:
            assert error <= 1e-6 * scale
        else:
            assert error == pytest.approx(errors.get(name, 0.0), rel=1e-5, abs=1e-6 * scale)
        if not torch.equal(merged[name], base[name]):
            changed.add(name)
    assert changed == set(errors) == set(vectors["a"]) | set(vectors["b"])
    assert (fit.error < 1e-7) == (rank is None)
