"""The cost of rounding: worked numbers, a float64 loop, the error's closed form, the advice."""

import dataclasses
import math
import re

import numpy as np
import pytest
import torch

from merging import DistributionVector, RecipeError, merge, open_vector
from merging.analysis.rounding_cost import COLUMNS, rounding_cost
from merging.engine.tasks import tasks
from merging.inputs.checkpoint import Checkpoint

STEP = 2.0**-7
"""Of bfloat16 between 1 and 2."""


def vector(base, tuned, name="a"):
    return {name: DistributionVector(name, base, tuned)}


def test_with_the_numbers_written_out(recipe):
    base = {"w": torch.tensor([1.0, 1.0, 1.0, 1.0], dtype=torch.bfloat16)}
    # Δ in steps: 1 is stored, 0.4 is lost without trace, 0.6 becomes 1, and 0 stays.
    tuned = {"w": torch.tensor([1 + STEP, 1 + 0.4 * STEP, 1 + 0.6 * STEP, 1.0])}
    found = rounding_cost(recipe({"a": 1.0}), base, vector(base, tuned))
    assert found.dtypes == ("bfloat16",)
    table = found.table()
    assert (table.rows, table.columns, table.unit) == (
        ("other",),
        ("lost", "kept", "cosine", "without trace"),
        "share",
    )
    wanted = (
        1 + 0.16 + 0.36
    )  # ‖d‖² in steps: [1, 0.4, 0.6]; s = [1, 0, 1]; ⟨s, d⟩ = 1.6, ‖s − d‖² = 0.16 + 0.16
    expected = [math.sqrt(0.32 / wanted), 1.6 / wanted, 1.6 / math.sqrt(wanted * 2), 1 / 3]
    np.testing.assert_allclose(
        table.values[0], expected, rtol=1e-4
    )  # 0.4 of a step is not a float32
    assert list(found.total.values()) == table.values[0].tolist()
    assert (found.moved.tolist(), found.unmoved.tolist(), found.overflown.tolist()) == (
        [3],
        [1],
        [0],
    )


@pytest.mark.parametrize("out", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float64])
def test_equals_a_plain_float64_loop_over_what_merge_gives(
    out, kind, llama, tuned, recipe, monkeypatch
):
    base = llama(dtype=kind) | {"steps": torch.tensor(3)}
    vectors = {
        f"v{i}": DistributionVector(f"v{i}", base, {**tuned(base, i, 1e-3), "steps": base["steps"]})
        for i in (1, 2)
    }
    wide = "float64" if kind == torch.float64 else "float32"
    given = recipe({"v1": 0.7, "v2": -0.4}, out_dtype=out)
    wanted = dict(merge(dataclasses.replace(given, out_dtype=wide), base, vectors))
    stored = dict(merge(given, base, vectors))
    monkeypatch.setattr("merging.analysis.rounding_cost.BLOCK", 17)
    seen = []
    found = rounding_cost(given, base, vectors, lambda done, total: seen.append((done, total)))
    assert (
        seen == sorted(seen)
        and seen[-1][0] == seen[-1][1] == sum(value.numel() for value in base.values()) - 1
    )
    table = found.table("tensor")
    assert set(table.rows) == set(base) - {"steps"} and table.rows[0] == "model.embed_tokens.weight"
    for name, row in zip(table.rows, table.values, strict=True):
        theta, d = (
            base[name].double().flatten(),
            (wanted[name].double() - base[name].double()).flatten(),
        )
        s = stored[name].double().flatten() - theta
        same = (stored[name] == base[name].to(stored[name].dtype)).flatten() & (d != 0)
        expected = [
            (s - d).norm() / d.norm(),
            (s @ d) / (d @ d),
            (s @ d) / (s.norm() * d.norm()),
            same.sum().double() / (d != 0).sum(),
        ]
        np.testing.assert_allclose(
            row, [float(value) for value in expected], rtol=1e-9, atol=1e-12, err_msg=name
        )


def test_groups_add_up(llama, tuned, recipe):
    base = llama(dtype=torch.bfloat16)
    found = rounding_cost(recipe({"a": 0.3}), base, vector(base, tuned(base, 1, 1e-3)))
    layers, parts = found.table(), found.table("part")
    assert layers.rows == ("embeddings", "0", "1", "2", "norms", "head")
    assert parts.rows == ("embeddings", "attention", "mlp", "norms", "head")
    assert found.table("model").values.tolist() == [list(found.total.values())]
    grams = found.geometry.grams
    assert found.total["lost"] == pytest.approx(
        math.sqrt(grams[:, 2, 2].sum() / grams[:, 0, 0].sum())
    )
    assert (
        found.worst()
        == sorted(zip(layers.rows, layers.values[:, 0], strict=True), key=lambda row: -row[1])[:3]
    )
    assert found.worst(1, "part") == [
        max(zip(parts.rows, parts.values[:, 0], strict=True), key=lambda row: row[1])
    ]


def gaussian(seed, scale, count=2**18):
    return (
        torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        * scale
    )


def measured_error(deltas, omegas, recipe, kind=torch.float32):
    base = {"model.layers.0.w": gaussian(0, 0.02).to(kind)}
    vectors = {
        f"v{i}": DistributionVector(
            f"v{i}", base, {"model.layers.0.w": base["model.layers.0.w"].double() + delta}
        )
        for i, delta in enumerate(deltas)
    }
    given = recipe(dict(zip(vectors, omegas, strict=True)), out_dtype="bfloat16")
    return rounding_cost(given, base, vectors).total


def test_bfloat16_at_the_scale_of_a_fine_tune_loses_what_the_closed_form_says(recipe):
    """Base σ = 0.02, Δ σ = 3e-4: 11.1 %, the root of E[step²]/12 over σ.

    Two such vectors at ω = 0.6 and 0.5 (√0.61 = 0.78): 14.2 %.
    """
    one, two = gaussian(1, 3e-4), gaussian(2, 3e-4)
    found = measured_error([one], [1.0], recipe)
    weights = (gaussian(0, 0.02) + one).abs()
    steps = torch.exp2(torch.floor(torch.log2(weights)) - 7)
    assert found["lost"] == pytest.approx(
        float((steps**2 / 12).mean().sqrt() / one.square().mean().sqrt()), rel=0.01
    )
    assert found["lost"] == pytest.approx(0.111, abs=0.001)
    assert measured_error([one, two], [0.6, 0.5], recipe)["lost"] == pytest.approx(0.142, abs=0.001)
    assert measured_error([one], [1.0], recipe, torch.bfloat16)["lost"] == pytest.approx(
        0.111, abs=0.001
    )


def test_tiny_deltas_on_a_bfloat16_base_are_pulled_back_to_it(recipe):
    found = measured_error([gaussian(1, 3e-5)], [1.0], recipe, torch.bfloat16)
    assert found["lost"] == pytest.approx(0.71, abs=0.01) and found[
        "without trace"
    ] == pytest.approx(0.68, abs=0.01)
    assert found["kept"] < 0.75
    spread = measured_error(
        [gaussian(1, 3e-5)], [1.0], recipe, torch.float32
    )  # a base between the steps dithers
    assert spread["lost"] == pytest.approx(1.10, abs=0.02) and spread["kept"] == pytest.approx(
        1.0, abs=0.02
    )
    assert spread["without trace"] == pytest.approx(0.60, abs=0.01)


def test_a_bfloat16_checkpoint_alone_loses_nothing(llama, tuned, recipe):
    base = llama(dtype=torch.bfloat16)
    found = rounding_cost(recipe({"a": 1.0}), base, vector(base, tuned(base, 1)))
    assert found.total == {
        "lost": 0.0,
        "kept": 1.0,
        "cosine": pytest.approx(1.0),
        "without trace": 0.0,
    }
    assert (
        found.advice() == "bfloat16 loses 0.0% of the displacement; nothing needs doing."
        and found.worst() == []
    )


def test_undefined_stays_undefined(recipe):
    base = {
        "h.0.w": torch.ones(3, dtype=torch.bfloat16),
        "h.1.w": torch.ones(3, dtype=torch.bfloat16),
    }
    tuned = {"h.0.w": torch.ones(3), "h.1.w": torch.full((3,), 1 + 0.1 * STEP)}
    found = rounding_cost(recipe({"a": 1.0}), base, vector(base, tuned))
    assert np.isnan(found.table().values[0]).all()  # it does not move
    lost, kept, cosine, trace = found.table().values[1].tolist()
    assert (lost, kept, trace) == (1.0, 0.0, 1.0) and math.isnan(
        cosine
    )  # it moves and nothing is stored of it
    still = rounding_cost(recipe({"a": 0.0}), base, vector(base, tuned))
    assert np.isnan(still.table().values).all() and still.total.keys() == set(COLUMNS)
    assert still.advice() == "The merge moves no weight, so rounding takes nothing from it."
    assert still.dtypes == ("bfloat16",) and still.worst() == []


def test_tensors_that_are_copied_are_not_read(tmp_path, llama, write, adapter, recipe, monkeypatch):
    folder = write(tmp_path / "base", llama())
    base = Checkpoint(folder)
    lora = open_vector(
        adapter(tmp_path / "lora", llama(), ["model.layers.1.self_attn.q_proj"]), base
    )
    tasks(recipe({"lora": 0.5}), base, {"lora": lora})  # compares tensors that may be one, once
    read = []
    monkeypatch.setattr(
        Checkpoint,
        "block",
        lambda self, name, *span, block=Checkpoint.block: (
            read.append(name) or block(self, name, *span)
        ),
    )
    seen = []
    found = rounding_cost(
        recipe({"lora": 0.5}), base, {"lora": lora}, lambda *counts: seen.append(counts)
    )
    assert {name for name in read if "lora" not in name} == {
        "model.layers.1.self_attn.q_proj.weight"
    }
    assert seen[-1] == (base.numel, base.numel)
    assert [math.isnan(row[0]) for row in found.table().values.tolist()] == [
        True,
        True,
        False,
        True,
        True,
        True,
    ]


def test_tensors_that_only_change_their_dtype_count_where_they_are(recipe):
    base = {"h.0.w": torch.tensor([1 + 0.4 * STEP]), "h.1.w": torch.ones(1)}
    tuned = {"h.0.w": base["h.0.w"].clone(), "h.1.w": torch.tensor([1 + STEP])}
    models = recipe({"a": [0.0, 1.0]}, out_dtype="bfloat16")
    found = rounding_cost(models, base, vector(base, tuned))
    assert found.table().values[:, 0].tolist() == [pytest.approx(math.nan, nan_ok=True), 0.0]
    assert found.total["lost"] == pytest.approx(0.4, rel=1e-4)
    assert (
        "loses 40.0% of the displacement, most in tensors that only change their dtype. It is noise"
        in found.advice()
    )


def test_the_dtypes_are_those_of_what_was_merged(recipe):
    base = {"w": torch.ones(2, dtype=torch.bfloat16), "rotary.inv_freq": torch.ones(3)}
    found = rounding_cost(recipe({"a": 1.0}), base, vector(base, {"w": torch.full((2,), 2.0)}))
    assert found.dtypes == ("bfloat16",) and found.geometry.tensors == ("rotary.inv_freq", "w")


def test_values_that_do_not_fit_are_counted_apart(recipe):
    base = {"w": torch.tensor([1.0, 60_000.0, math.inf, 2.0])}
    tuned = {"w": torch.tensor([2.0, 70_000.0, math.inf, 2.0])}
    found = rounding_cost(recipe({"a": 1.0}, out_dtype="float16"), base, vector(base, tuned))
    assert (found.moved.tolist(), found.overflown.tolist()) == ([1], [1])
    assert found.total["lost"] == 0.0 and found.geometry.grams.tolist() == [
        [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
    ]
    assert found.advice() == (
        "1 values do not fit float16, and an export is refused. "
        "Choose bfloat16 or float32, or smaller ω."
    )
    wide = {"w": torch.tensor([1e39], dtype=torch.float64)}
    narrow = rounding_cost(
        recipe({"a": 1.0}, out_dtype="float32"), wide, vector(wide, {"w": wide["w"] * 2})
    )
    assert "Choose float64, or smaller ω." in narrow.advice()


@pytest.mark.parametrize(
    ("deltas", "wanted"),
    [
        ([[1.0, 1.0]], r"bfloat16 loses 0.0% of the displacement; nothing needs doing\."),
        (
            [[4.0, 4.0], [0.1, 0.1]],
            r"loses 2.5% .*, more in layer 1 \(100%\)\. It is noise: in the mean "
            ".* float32 keeps all",
        ),
        ([[0.7, -0.7, 1.3, -1.3]], r"loses 28.7% .*, most in layer 0 \(29%\)\. It is noise"),
        (
            [[0.1, 0.2]],
            r"loses 100.0% .*, most in layer 0 \(100%\), and the file goes 0% of the wanted way "
            ".*stochastic rounding",
        ),
    ],
)  # fmt: skip
def test_the_advice_follows_from_the_numbers(deltas, wanted, recipe):
    base = {
        f"h.{i}.w": torch.full((len(row),), 1.5, dtype=torch.bfloat16)
        for i, row in enumerate(deltas)
    }
    tuned = {f"h.{i}.w": 1.5 + STEP * torch.tensor(row) for i, row in enumerate(deltas)}
    found = rounding_cost(recipe({"a": 1.0}), base, vector(base, tuned))
    assert re.search(wanted, found.advice()), found.advice()


def test_methods_that_average_weights_are_measured_too(llama, tuned, recipe):
    base = llama(dtype=torch.bfloat16)
    vectors = {f"v{i}": DistributionVector(f"v{i}", base, tuned(base, i)) for i in (1, 2)}
    found = rounding_cost(recipe({"v1": 1.0, "v2": 2.0}, "linear"), base, vectors)
    assert 0 < found.total["lost"] < 1


def test_a_recipe_that_cannot_be_carried_out_is_refused(llama, recipe):
    with pytest.raises(RecipeError, match="the recipe names 'a'"):
        rounding_cost(recipe({"a": 1.0}), llama(), {})
