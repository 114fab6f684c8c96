import json
import math

import pytest
import torch
from safetensors.torch import load_file

from merging import Checkpoint, ExportError, LoraVector, MismatchError, RecipeError
from merging.opening.open import open_vector
from merging.outputs.adapter_extract import extract

UP, DOWN, SQUARE = (
    f"model.layers.0.{name}" for name in ("mlp.up_proj", "mlp.down_proj", "self_attn.q_proj")
)


@pytest.fixture
def opened(tmp_path, llama, tuned, write):
    """A base, and a fine-tune that moved every tensor."""
    base = Checkpoint(write(tmp_path / "base", llama(), {}))
    write(tmp_path / "full", tuned(llama(), 1), {})
    return base, open_vector(tmp_path / "full", base)


def linear(base):
    return [name for name in base if "_proj" in name]


def config_of(folder):
    return json.loads((folder / "adapter_config.json").read_text())


@pytest.mark.parametrize("rank", [1, 3, 5, 31])
def test_each_matrix_is_the_best_of_its_rank(rank, tmp_path, opened):
    base, vector = opened
    fit = extract(vector, base, tmp_path / "out", rank=rank)
    again = LoraVector(tmp_path / "out", base)
    assert [row.name for row in fit.rows] == linear(base) == list(again)
    for row in fit.rows:
        delta = vector[row.name].double()
        sigma = torch.linalg.svdvals(delta)
        assert row.rank == min(rank, *delta.shape)
        assert row.norm == pytest.approx(float(delta.norm()), rel=1e-12)
        assert row.error == pytest.approx(
            float(sigma[row.rank :].norm()), rel=1e-6, abs=1e-7 * row.norm
        )
        assert row.error == pytest.approx(
            float((delta - again[row.name].double()).norm()), rel=1e-5, abs=3e-7 * row.norm
        )
    assert fit.error == pytest.approx(
        math.hypot(*(row.error for row in fit.rows)) / math.hypot(*(row.norm for row in fit.rows))
    )


@pytest.mark.parametrize("energy", [0.3, 0.9, 1.0])
def test_the_least_rank_of_each_matrix_that_keeps_the_energy(energy, tmp_path, opened):
    base, vector = opened
    fit = extract(vector, base, tmp_path / "out", energy=energy)
    for row in fit.rows:
        squares = torch.linalg.svdvals(vector[row.name].double()).square()
        shares = squares.cumsum(0) / squares.sum()
        assert row.rank == int((shares < energy - 1e-12).sum()) + 1
        assert 1 - (row.error / row.norm) ** 2 == pytest.approx(
            float(shares[row.rank - 1]), rel=1e-9
        )
    config = config_of(tmp_path / "out")
    ranks = {row.name.removesuffix(".weight"): row.rank for row in fit.rows}
    assert config["r"] == config["lora_alpha"] == fit.rank == max(ranks.values())
    assert config["rank_pattern"] == config["alpha_pattern"]
    assert config["rank_pattern"] == {
        f"^{name}": rank for name, rank in ranks.items() if rank != fit.rank
    }


def test_what_is_not_in_the_adapter_is_reported_with_its_share(tmp_path, opened):
    base, vector = opened
    fit = extract(vector, base, tmp_path / "out", rank=2)
    kinds = {
        "embeddings": ["model.embed_tokens.weight"],
        "head": ["lm_head.weight"],
        "norms": [name for name in base if "norm" in name],
    }
    whole = sum(float(vector[name].double().square().sum()) for name in vector)
    assert {part.kind: part.tensors for part in fit.left_out} == {
        "embeddings": 1,
        "head": 1,
        "norms": 7,
    }
    for part in fit.left_out:
        squares = sum(float(vector[name].double().square().sum()) for name in kinds[part.kind])
        assert fit.share(part) == pytest.approx(squares / whole)
    assert fit.missing == pytest.approx(sum(fit.share(part) for part in fit.left_out))
    assert "‖Δ‖²: norms (tensors: 7).\n" in (tmp_path / "out" / "README.md").read_text()
    assert not (tmp_path / "out" / "recipe.yml").exists()


def test_a_tensor_that_did_not_move_is_left_out(tmp_path, llama, tuned, write):
    start = llama()
    full = tuned(start, 1) | {f"{UP}.weight": start[f"{UP}.weight"]}
    base = Checkpoint(write(tmp_path / "base", start, {}))
    fit = extract(
        open_vector(write(tmp_path / "full", full, {}), base), base, tmp_path / "out", rank=2
    )
    (still,) = (row for row in fit.rows if row.norm == 0)
    assert (still.name, still.rank, still.error) == (f"{UP}.weight", 0, 0.0)
    assert UP not in config_of(tmp_path / "out")["target_modules"]
    assert len(LoraVector(tmp_path / "out", base)) == len(fit.rows) - 1


def test_a_checkpoint_equal_to_its_base_is_no_adapter(tmp_path, llama, write):
    base = Checkpoint(write(tmp_path / "base", llama(), {}))
    same = open_vector(write(tmp_path / "same", llama(), {}), base)
    with pytest.raises(
        RecipeError,
        match="An adapter extracted from same: nothing moves.*a checkpoint that differs",
    ):
        extract(same, base, tmp_path / "out", rank=2)
    assert not list(tmp_path.glob("*out*"))


def test_a_merged_adapter_comes_back_at_its_rank(tmp_path, llama, adapter, write, recipe):
    """Round trip: an adapter merged into its base, in float64, and extracted again."""
    from merging import merge

    base = Checkpoint(write(tmp_path / "base", llama(dtype=torch.float64), {}))
    vector = LoraVector(adapter(tmp_path / "a", base, [UP, SQUARE], rank=3), base)
    write(tmp_path / "full", dict(merge(recipe({"a": 1.0}), base, {"a": vector})), {})
    fit = extract(open_vector(tmp_path / "full", base), base, tmp_path / "out", energy=1.0)
    assert {row.name.removesuffix(".weight"): row.rank for row in fit.rows if row.rank} == {
        UP: 3,
        SQUARE: 3,
    }
    again = LoraVector(tmp_path / "out", base)
    for name in again:
        assert again[name].dtype == torch.float64
        torch.testing.assert_close(again[name], vector[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "low", "high"), [("bfloat16", 1e-3, 1e-2), ("float32", 1e-9, 1e-7)]
)
def test_the_error_includes_the_rounding_of_the_file(dtype, low, high, tmp_path, opened):
    base, vector = opened
    fit = extract(vector, base, tmp_path / "out", rank=31, dtype=dtype, base_name="org/name@r1")
    found = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert {str(value.dtype) for value in found.values()} == {f"torch.{dtype}"}
    assert low < fit.error < high
    assert (
        config_of(tmp_path / "out")["base_model_name_or_path"],
        config_of(tmp_path / "out")["revision"],
    ) == (
        "org/name",
        "r1",
    )


def test_progress_counts_the_matrices(tmp_path, opened):
    base, vector = opened
    seen = []
    extract(vector, base, tmp_path / "out", rank=2, progress=lambda *step: seen.append(step))
    assert [step[1:] for step in seen if step[0] == "factor"] == [(n, 21) for n in range(1, 22)]


# ------------------------------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({}, "give either a rank .--rank 16. or an energy"),
        ({"rank": 2, "energy": 0.9}, "give either a rank .--rank 16. or an energy"),
        ({"rank": 0}, "rank is 0, expected a whole number from 1"),
        ({"energy": 0.0}, "energy is 0.0, expected a share above 0 and at most 1"),
        ({"energy": 1.1}, "energy is 1.1, expected a share above 0 and at most 1"),
        ({"energy": math.nan}, "energy is nan, expected a share"),
        ({"rank": 2, "dtype": "int8"}, "dtype is 'int8', expected one of"),
    ],
)
def test_requests_that_cannot_be(wanted, message, tmp_path, opened):
    base, vector = opened
    with pytest.raises(RecipeError, match=message):
        extract(vector, base, tmp_path / "out", **wanted)


def test_an_adapter_is_one_already(tmp_path, opened, adapter):
    base, _ = opened
    vector = LoraVector(adapter(tmp_path / "a", base, [UP]), base, "a")
    with pytest.raises(RecipeError, match=r"a \(.*\) is an adapter already.*--as-adapter --rank N"):
        extract(vector, base, tmp_path / "out", rank=2)


def test_a_value_that_is_not_finite(tmp_path, llama, tuned, write):
    full = tuned(llama(), 1)
    full[f"{UP}.weight"][0, 0] = math.inf
    base = Checkpoint(write(tmp_path / "base", llama(), {}))
    with pytest.raises(
        ExportError, match=rf"{UP}.weight: values of its displacement are not finite. Look for NaN"
    ):
        extract(
            open_vector(write(tmp_path / "full", full, {}), base), base, tmp_path / "out", rank=2
        )
    assert not list(tmp_path.glob("*out*"))


def pair(tmp_path, write, config=None, **shapes):
    """A base of zeros with a fine-tune of random numbers, `__` for a point in names."""
    random = torch.Generator().manual_seed(3)
    zeros = {name.replace("__", "."): torch.zeros(shape) for name, shape in shapes.items()}
    base = Checkpoint(write(tmp_path / "base", zeros, config or {}))
    moved = {name: torch.randn(value.shape, generator=random) for name, value in zeros.items()}
    return base, open_vector(write(tmp_path / "full", moved, config or {}), base)


def test_a_model_without_linear_modules(tmp_path, write):
    base, vector = pair(tmp_path, write, norm__weight=(7,), embed_tokens__weight=(31, 7))
    with pytest.raises(MismatchError, match="has no matrix of a linear module, and .* else.$"):
        extract(vector, base, tmp_path / "out", rank=2)


def test_what_is_no_linear_module_is_left_out(tmp_path, write):
    base, vector = pair(
        tmp_path,
        write,
        m__0__mlp__experts__0__w1__weight=(7, 5),
        m__0__mlp__gate__weight=(3, 5),
        m__0__mlp__gate_proj__weight=(7, 5),
        m__0__mlp__gate_proj__bias=(7,),
        m__0__router__weight=(3, 5),
        m__0__attn__relative_attention_bias__weight=(11, 2),
        m__0__conv1d__weight=(5, 1, 3),
        m__0__A_log=(5, 3),
        m__0__empty__weight=(5, 0),
        m__0__shared_experts__up_proj__weight=(7, 5),
    )
    fit = extract(vector, base, tmp_path / "out", rank=2)
    assert [row.name for row in fit.rows] == [
        "m.0.mlp.gate_proj.weight",
        "m.0.shared_experts.up_proj.weight",
    ]
    assert {part.kind: part.tensors for part in fit.left_out} == {"other": 7, "biases": 1}


def test_tables_of_another_vocabulary_are_left_out_aloud(tmp_path, llama, tuned, write):
    """A fine-tune with six added tokens: its linear modules are as those of any other."""
    from merging.preflight.preflight import preflight

    fine = tuned(llama(), 1)
    grown = fine | {
        name: torch.cat([fine[name], torch.ones(6, 7)])
        for name in ("model.embed_tokens.weight", "lm_head.weight")
    }
    untied = {"tie_word_embeddings": False}
    write(tmp_path / "base", llama(), untied)
    write(tmp_path / "grown", grown, untied)
    opened = preflight(tmp_path / "base", [tmp_path / "grown"], vocabularies="base")
    vector = opened.vectors["grown"]
    fit = extract(vector, opened.base, tmp_path / "out", rank=31)
    assert [row.name for row in fit.rows] == linear(opened.base)
    for row in fit.rows:
        torch.testing.assert_close(
            LoraVector(tmp_path / "out", opened.base)[row.name],
            fine[row.name] - opened.base[row.name],
        )
    assert {part.kind: bool(part.why) for part in fit.left_out} == {
        "embeddings": True,
        "head": True,
        "norms": False,
    }
    label = "embeddings (tensors: 1): the checkpoint has another vocabulary, and an adapter cannot"
    assert label in [part.label[: len(label)] for part in fit.left_out]
    assert label in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(MismatchError, match="grown .* has another vocabulary than .*Leave --embed"):
        extract(vector, opened.base, tmp_path / "all", rank=2, embeddings=True)


# ------------------------------------------------------------------------------------- PEFT, oracle


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        pytest.param(
            kind, wanted, marks=[] if "energy" in wanted or kind == "llama" else pytest.mark.slow
        )
        for kind in ("llama", "qwen2", "gpt2", "gpt_neox", "mixtral")
        for wanted in ({"rank": 5}, {"energy": 0.8}, {"rank": 100})
    ],
)
def test_peft_loads_it_and_misses_what_the_report_says(kind, wanted, tmp_path, tiny_model):
    from peft import PeftModel

    tiny_model(kind).save_pretrained(tmp_path / "base")
    tuned = tiny_model(kind)
    random = torch.Generator().manual_seed(5)
    for parameter in tuned.parameters():
        parameter.data += 0.03 * torch.randn(parameter.shape, generator=random)
    tuned.save_pretrained(tmp_path / "full")
    base = Checkpoint(tmp_path / "base")
    vector = open_vector(tmp_path / "full", base)
    fit = extract(vector, base, tmp_path / "out", **wanted)

    merged = (
        PeftModel.from_pretrained(tiny_model(kind), tmp_path / "out")
        .merge_and_unload()
        .state_dict()
    )
    start, goal = tiny_model(kind).state_dict(), tuned.state_dict()
    assert fit.rows
    for row in fit.rows:
        assert float((goal[row.name] - start[row.name]).norm()) == pytest.approx(row.norm, rel=1e-5)
        assert float((goal[row.name] - merged[row.name]).norm()) == pytest.approx(
            row.error, rel=1e-3, abs=1e-6
        )
    held = {row.name for row in fit.rows}
    assert all(torch.equal(merged[name], start[name]) for name in start if name not in held)


@pytest.mark.filterwarnings("ignore:.*save_embedding_layers:UserWarning")
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_embeddings_and_head_mean_to_peft_what_they_mean_here(kind, tmp_path, tiny_model):
    """At full rank PEFT's model has the fine-tune's matrices and logits, merged or not."""
    from peft import PeftModel

    tiny_model(kind).save_pretrained(tmp_path / "base")
    tuned, random = tiny_model(kind), torch.Generator().manual_seed(5)
    names = (
        "model.embed_tokens.weight",
        "lm_head.weight",
        "model.layers.1.self_attn.q_proj.weight",
    )
    for name in names:
        value = tuned.get_parameter(name)
        value.data += 0.3 * torch.randn(value.shape, generator=random)
    tuned.save_pretrained(tmp_path / "full")
    base = Checkpoint(tmp_path / "base")
    vector = open_vector(tmp_path / "full", base)
    fit = extract(vector, base, tmp_path / "out", energy=1.0, embeddings=True)
    assert {row.name for row in fit.rows if row.rank} == set(names) and fit.missing == 0
    again = LoraVector(tmp_path / "out", base)
    for name in names:
        torch.testing.assert_close(
            base[name] + again[name], tuned.get_parameter(name), rtol=1e-5, atol=1e-6
        )

    ids = torch.tensor([[3, 7, 11, 2, 29]])
    model = PeftModel.from_pretrained(tiny_model(kind), tmp_path / "out").eval()
    with torch.no_grad():
        goal, start = (one.eval()(ids).logits for one in (tuned, tiny_model(kind)))
        torch.testing.assert_close(model(ids).logits, goal, rtol=1e-4, atol=1e-5)
        merged = model.merge_and_unload()
        torch.testing.assert_close(merged(ids).logits, goal, rtol=1e-4, atol=1e-5)
    assert (goal - start).abs().max() > 0.1
    for name in names:
        torch.testing.assert_close(
            merged.get_parameter(name), tuned.get_parameter(name), rtol=1e-5, atol=1e-6
        )


def test_embeddings_are_cut_to_a_rank_and_the_rest_is_reported(tmp_path, opened):
    base, vector = opened
    fit = extract(vector, base, tmp_path / "out", rank=2, embeddings=True)
    held = {row.name: row for row in fit.rows}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        sigma = torch.linalg.svdvals(vector[name].double())
        assert held[name].rank == 2 and held[name].error == pytest.approx(
            float(sigma[2:].norm()), rel=1e-5
        )
    assert {part.kind for part in fit.left_out} == {"norms"}
    assert LoraVector(tmp_path / "out", base).targets["model.embed_tokens.weight"].transposed


@pytest.mark.parametrize(("stored", "config"), [(False, {}), (True, {"tie_word_embeddings": True})])
def test_tied_embeddings_are_refused(tmp_path, llama, tuned, write, stored, config):
    base = llama(tied=not stored)
    opened = Checkpoint(write(tmp_path / "base", base, config))
    vector = open_vector(write(tmp_path / "full", tuned(base, 1), config), opened)
    with pytest.raises(
        MismatchError, match=r"base ties its output head to its embeddings.*Leave --embeddings out"
    ):
        extract(vector, opened, tmp_path / "out", rank=2, embeddings=True)
    assert (
        not (tmp_path / "out").exists() and extract(vector, opened, tmp_path / "out", rank=2).rows
    )


def test_a_head_that_transformers_renames_is_left_out(tmp_path, llama, tuned, write):
    """GPT-NeoX's embed_out, which PEFT would not find; and a tensor that the vector lacks."""
    base = {name.replace("lm_head", "embed_out"): value for name, value in llama().items()}
    opened = Checkpoint(write(tmp_path / "base", base, {"tie_word_embeddings": False}))
    vector = open_vector(write(tmp_path / "full", tuned(base, 1), {}), opened)
    fit = extract(vector, opened, tmp_path / "out", rank=2, embeddings=True)
    assert "model.embed_tokens.weight" in {row.name for row in fit.rows}
    assert "head" in {part.kind for part in fit.left_out}
