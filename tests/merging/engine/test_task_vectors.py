"""A vector moves a tensor under whichever of its names it has, once."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from evaluation.model import load
from merging import (
    Checkpoint,
    DistributionVector,
    LiveModel,
    LoraVector,
    ModelEntry,
    Recipe,
    export,
    merge,
)
from merging.engine.task_vectors import under_first_name
from merging.engine.tasks import tasks
from merging.errors import MismatchError, RecipeError
from merging.inputs.saved_vector import SavedVector
from merging.inputs.statistics import StatisticsFacts, write
from merging.live.mount import Mounts
from merging.outputs.adapter_export import export_adapter
from merging.outputs.adapter_extract import extract
from merging.outputs.vector_folder import save_vector

EMBED, HEAD, LINEAR = "model.embed_tokens.weight", "lm_head.weight", "model.layers.0.up.weight"
ROWS, WIDTH, RANK = 23, 7, 3


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def folder_of(path, tensors, config=None):
    path.mkdir(parents=True)
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    (path / "config.json").write_text(json.dumps(config or {}))
    return path


def adapter_of(path, factors, **config):
    path.mkdir()
    at = "base_model.model."
    save_file(
        {at + name: value.contiguous() for name, value in factors.items()},
        path / "adapter_model.safetensors",
    )
    document = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK} | config
    (path / "adapter_config.json").write_text(json.dumps(document))
    return path


def on_table(seed):
    """Factors on the embeddings, as PEFT names them."""
    return {
        "model.embed_tokens.lora_embedding_A": drawn(seed, RANK, ROWS),
        "model.embed_tokens.lora_embedding_B": drawn(seed + 1, WIDTH, RANK),
    }


def on_head(factors):
    """The same factors once more, on the head: ensure_weight_tying."""
    a, b = factors.values()
    return {"lm_head.lora_A.weight": b.T, "lm_head.lora_B.weight": a.T}


@pytest.fixture
def base(tmp_path):
    table = drawn(1, ROWS, WIDTH)
    tensors = {EMBED: table, HEAD: table.clone(), LINEAR: drawn(2, WIDTH, WIDTH)}
    return Checkpoint(folder_of(tmp_path / "base", tensors))


def recipe_of(*names, **more):
    more = {"method": "task_arithmetic"} | more
    return Recipe.compose("base", dict.fromkeys(names, "x"), dict.fromkeys(names, 0.5), **more)


@pytest.mark.parametrize("twice", [False, True])
def test_an_adapter_on_the_embeddings_moves_the_tensor_once(base, tmp_path, twice):
    factors = on_table(3)
    more = on_head(factors) if twice else {}
    vector = LoraVector(adapter_of(tmp_path / "a", factors | more), base, "a")
    assert (HEAD in vector) == twice
    a, b = factors.values()
    wanted = base[EMBED].double() + 0.5 * 2 * (b.double() @ a.double()).T
    merged = dict(merge(recipe_of("a"), base, {"a": vector}))
    assert torch.allclose(merged[EMBED].double(), wanted, atol=1e-5)
    assert torch.equal(merged[HEAD], merged[EMBED])
    out = export(recipe_of("a", method="dare_linear"), base, {"a": vector}, tmp_path / "out")
    written = load_file(out / "model.safetensors")
    assert torch.equal(written[HEAD], written[EMBED])
    assert not torch.equal(written[HEAD], base[HEAD])


def test_an_adapter_that_moves_the_names_apart_is_refused(base, tmp_path):
    alone = LoraVector(adapter_of(tmp_path / "a", on_head(on_table(3))), base, "a")
    with pytest.raises(MismatchError, match=r"a \(.*\) moves lm_head.weight alone, and the base"):
        tasks(recipe_of("a"), base, {"a": alone})
    other = adapter_of(tmp_path / "b", on_table(3) | on_head(on_table(5)))
    apart = LoraVector(other, base, "b")
    for _ in range(2):
        with pytest.raises(MismatchError, match="moves lm_head.weight, model.embed_.* differently"):
            tasks(recipe_of("b"), base, {"b": apart})


def test_a_composition_of_adapters_holds_the_tensor_once(base, tmp_path):
    vectors = {}
    for number, name in enumerate("ab"):
        factors = on_table(10 * number)
        both = factors | on_head(factors) if number else factors
        vectors[name] = LoraVector(adapter_of(tmp_path / name, both), base, name)
    recipe = recipe_of("a", "b")
    fit = export_adapter(recipe, base, vectors, tmp_path / "out")
    # The first adapter has one name of the tensor and the second has both.
    assert [row.rank for row in fit.rows] == [2 * RANK]
    merged = dict(merge(recipe, base, vectors))
    folder = tmp_path / "out"
    again = dict(merge(recipe_of("o"), base, {"o": LoraVector(folder, base, "o")}))
    half = (again[EMBED] - base[EMBED]) * 2 + base[EMBED]
    assert torch.allclose(half, merged[EMBED], atol=1e-5)


def test_a_saved_vector_of_an_adapter_moves_it_too(base, tmp_path):
    vector = LoraVector(adapter_of(tmp_path / "a", on_table(3)), base, "a")
    saved = SavedVector(save_vector(vector, tmp_path / "saved"), base, "s")
    assert list(saved) == [EMBED]
    one, other = (dict(merge(recipe_of("v"), base, {"v": v})) for v in (vector, saved))
    assert torch.equal(one[HEAD], other[HEAD]) and torch.equal(one[EMBED], other[EMBED])
    seen = under_first_name(saved, (HEAD, EMBED))
    assert list(seen) == [HEAD, EMBED] and len(seen) == 2
    assert HEAD in seen and EMBED in seen and LINEAR not in seen
    assert torch.equal(seen[HEAD], saved[EMBED])
    assert torch.equal(seen.weights_block(HEAD, 0, 5), saved.weights_block(EMBED, 0, 5))
    assert under_first_name(saved, ()) is saved


def test_statistics_are_found_under_any_name(base, tmp_path):
    """One fine-tune stores the tensor twice, the other once: their files have other names."""
    moved = {EMBED: drawn(5, ROWS, WIDTH), LINEAR: drawn(6, WIDTH, WIDTH)}
    twice = folder_of(tmp_path / "a", moved | {HEAD: moved[EMBED].clone()})
    once = folder_of(tmp_path / "b", {EMBED: drawn(7, ROWS, WIDTH), LINEAR: drawn(8, WIDTH, WIDTH)})
    vectors = {
        n: DistributionVector(n, base, Checkpoint(p))
        for n, p in zip("ab", (twice, once), strict=True)
    }
    information = {"a": 3.0, "b": 1.0}
    for name, number in information.items():
        names = [EMBED, HEAD, LINEAR] if name == "a" else [EMBED, LINEAR]
        tensors = {each: torch.full(base.info(each).shape, number) for each in names}
        digest = vectors[name].digest
        facts = StatisticsFacts("fisher", digest, ["d"], 1, 1, False, 0, 1.0, [], {})
        write(tmp_path / f"{name}.stats", facts, tensors)
    models = [
        ModelEntry(n, n, {"weight": 1.0, "statistics": str(tmp_path / f"{n}.stats")}) for n in "ab"
    ]
    recipe = Recipe(base=None, models=tuple(models), method="fisher")
    merged = dict(merge(recipe, base, vectors))
    wanted = (3 * vectors["a"].tuned[EMBED].double() + vectors["b"].tuned[EMBED].double()) / 4
    assert torch.allclose(merged[HEAD].double(), wanted, atol=1e-5)
    assert torch.equal(merged[EMBED], merged[HEAD])


def test_an_adapter_cannot_hold_a_matrix_of_several_modules(base, tmp_path):
    moved = {EMBED: drawn(5, ROWS, WIDTH), LINEAR: drawn(6, WIDTH, WIDTH)}
    path = folder_of(tmp_path / "a", moved | {HEAD: moved[EMBED].clone()})
    vector = DistributionVector("a", base, Checkpoint(path))
    fit = extract(vector, base, tmp_path / "out", rank=2)
    (left,) = fit.left_out
    assert (left.kind, left.tensors) == ("embeddings", 1)
    assert left.norm == pytest.approx(float((moved[EMBED] - base[EMBED]).double().norm()))
    with pytest.raises(MismatchError, match="one matrix as lm_head.weight, model.embed_tokens"):
        extract(vector, base, tmp_path / "more", rank=2, embeddings=True)


def test_a_matrix_that_two_other_modules_share_is_left_out_aloud(tmp_path):
    names, own = ("left.proj.weight", "right.proj.weight"), "up.weight"
    matrices = {names[0]: drawn(1, 5, 3), own: drawn(2, 5, 3)}
    base, tuned = (
        Checkpoint(
            folder_of(
                tmp_path / name,
                {key: value + step for key, value in matrices.items()}
                | {names[1]: matrices[names[0]] + step},
            )
        )
        for name, step in (("base", 0.0), ("tuned", 0.5))
    )
    fit = extract(DistributionVector("a", base, tuned), base, tmp_path / "out", rank=1)
    assert [row.name for row in fit.rows] == [own]
    assert [(left.tensors, left.why[:15]) for left in fit.left_out] == [(1, "several modules")]


def test_a_live_model_equals_its_export_and_mounts_the_adapter_once(tmp_path):
    from transformers import AutoModelForCausalLM, CohereConfig, CohereForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "vocab_size": ROWS}
    config = CohereConfig(**sizes, num_attention_heads=2)
    CohereForCausalLM(config).save_pretrained(tmp_path / "base")
    file = tmp_path / "base" / "model.safetensors"
    tensors = load_file(file)
    tensors = {
        name: drawn(number, *value.shape) for number, (name, value) in enumerate(tensors.items())
    }
    save_file(tensors | {HEAD: tensors[EMBED].clone()}, file, {"format": "pt"})
    # The key is left out, as in files of classes that tie by default.
    document = json.loads((tmp_path / "base" / "config.json").read_text())
    del document["tie_word_embeddings"]
    (tmp_path / "base" / "config.json").write_text(json.dumps(document))
    base = Checkpoint(tmp_path / "base")
    table = {
        "model.embed_tokens.lora_embedding_A": drawn(3, RANK, ROWS),
        "model.embed_tokens.lora_embedding_B": drawn(4, 8, RANK),
    }
    vector = LoraVector(adapter_of(tmp_path / "a", table | on_head(table)), base, "a")
    loaded = load(tmp_path / "base", checkpoint=base)
    live = LiveModel(loaded.module, base, {"a": vector}, loaded.views)
    ids = torch.arange(9)[None]
    start = recipe_of("a").with_omegas({"a": 0.0})
    live.apply(start)
    with torch.no_grad(), Mounts(live).mounted(recipe_of("a")) as module:
        mounted = module(input_ids=ids).logits
    for method in ("task_arithmetic", "dare_linear"):
        recipe = recipe_of("a", method=method)
        live.apply(recipe)
        again = AutoModelForCausalLM.from_pretrained(
            export(recipe, base, {"a": vector}, tmp_path / method)
        )
        ours, theirs = live.module.state_dict(), again.state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        assert again.lm_head.weight is again.model.embed_tokens.weight
        if method == "task_arithmetic":
            with torch.no_grad():
                assert torch.allclose(mounted, live.module(input_ids=ids).logits, atol=1e-4)


def test_slices_that_give_the_names_other_models_are_refused(tmp_path):
    from merging.opening.open import open_recipe
    from merging.recipe import parse_recipe

    for name, seed in (("a", 1), ("b", 5)):
        layers = {f"model.layers.{i}.up.weight": drawn(seed + i, WIDTH, WIDTH) for i in range(2)}
        table = drawn(0, ROWS, WIDTH)
        folder_of(
            tmp_path / name, layers | {EMBED: table, HEAD: table.clone()}, {"num_hidden_layers": 2}
        )
    text = "\n".join(
        [
            "merge_method: passthrough",
            "slices:",
            f"  - sources: [{{model: {tmp_path / 'a'}, layer_range: [0, 1]}}]",
            f"  - sources: [{{model: {tmp_path / 'b'}, layer_range: [1, 2]}}]",
        ]
    )
    recipe = parse_recipe(text)
    with pytest.raises(RecipeError, match="stores one tensor under 2 names"):
        tasks(recipe, *open_recipe(recipe))
