"""Several names of one parameter are one tensor: to masks, rounding, rules, live and export."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from merging import Checkpoint, DistributionVector, Recipe, export
from merging.engine.loop import merge, unrounded_blocks
from merging.engine.shared_tensors import shared_tensors
from merging.engine.tasks import tasks
from merging.errors import RecipeError
from merging.inputs.checkpoint import in_memory

EMBED, HEAD, OTHER = "model.embed_tokens.weight", "lm_head.weight", "model.layers.0.w.weight"


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def model(folder, seed, config=None, **more):
    """A folder whose embedding is stored twice, with a layer that is stored once."""
    folder.mkdir()
    table = drawn(seed, 64, 8)
    tensors = {EMBED: table, OTHER: drawn(seed + 1, 8, 8), HEAD: table.clone()} | more
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config or {}))
    return Checkpoint(folder)


@pytest.fixture
def pair(tmp_path):
    base = model(tmp_path / "base", 1)
    return base, {"a": DistributionVector("a", base, model(tmp_path / "a", 3))}


def recipe_of(base, method="dare_ties", weight=0.7, **more):
    return Recipe.compose(str(base.path), {"a": "a"}, {"a": weight}, method=method, **more)


def test_equal_tensors_outside_the_layers_are_one(pair):
    base, _ = pair
    assert shared_tensors(base) == {EMBED: HEAD}
    assert shared_tensors(in_memory(base)) == {EMBED: HEAD}
    assert shared_tensors(dict(base)) == {EMBED: HEAD}


def test_a_head_that_the_configuration_keeps_apart_is_its_own_tensor(tmp_path):
    for number, config in enumerate(
        ({"tie_word_embeddings": False}, {"text_config": {"tie_word_embeddings": False}})
    ):
        base = model(tmp_path / str(number), 1, config)
        assert shared_tensors(base) == {} == shared_tensors(in_memory(base))


def test_names_of_several_stacks_share_one_tensor_and_a_head_apart_does_not(tmp_path):
    names = ["shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
    table = drawn(1, 32, 4)
    tensors = {name: table.clone() for name in [*names, "lm_head.weight"]}
    (tmp_path / "t5").mkdir()
    save_file(tensors, tmp_path / "t5" / "model.safetensors")
    for config, head in (({}, True), ({"tie_word_embeddings": False}, False)):
        (tmp_path / "t5" / "config.json").write_text(json.dumps(config))
        base = Checkpoint(tmp_path / "t5")
        first = next(iter(base))
        wanted = set(tensors) - {first} - (set() if head else {"lm_head.weight"})
        assert shared_tensors(base) == dict.fromkeys(wanted, first)


def test_layers_that_were_copied_stay_two_tensors(tmp_path):
    copied = drawn(2, 8, 8)
    more = {"model.layers.0.w.weight": copied, "model.layers.1.w.weight": copied.clone()}
    assert shared_tensors(model(tmp_path / "base", 1, **more)) == {EMBED: HEAD}


def test_tensors_of_one_value_are_one_only_if_fine_tuning_keeps_them_equal(tmp_path):
    zeros = {"cls.bias": torch.zeros(64), "cls.decoder.bias": torch.zeros(64)}
    norms = {"norm_a.weight": torch.ones(8), "norm_b.weight": torch.ones(8)}
    base = model(tmp_path / "base", 1, **zeros, **norms)
    assert shared_tensors(base) == {EMBED: HEAD}
    bias = drawn(5, 64)
    moved = {"cls.bias": bias, "cls.decoder.bias": bias.clone()}
    apart = {"norm_a.weight": drawn(6, 8), "norm_b.weight": drawn(7, 8)}
    a = DistributionVector("a", base, model(tmp_path / "a", 3, **moved, **apart))
    assert shared_tensors(base, [a]) == {EMBED: HEAD, "cls.decoder.bias": "cls.bias"}
    frozen = DistributionVector("b", base, model(tmp_path / "b", 4, **zeros, **norms))
    assert shared_tensors(base, [frozen]) == {EMBED: HEAD}
    other = {"cls.bias": bias, "cls.decoder.bias": bias + 1}
    c = DistributionVector("c", base, model(tmp_path / "c", 5, **other, **norms))
    assert shared_tensors(base, [a, c]) == {EMBED: HEAD}


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("dare_ties", {"parameters": {"density": 0.4}}),
        ("dare_linear", {"parameters": {"density": 0.4}}),
        ("della", {"parameters": {"density": 0.4}}),
        ("della_linear", {"parameters": {"density": 0.4}}),
        ("task_arithmetic", {"rounding": "stochastic", "out_dtype": "bfloat16"}),
    ],
)
def test_both_names_get_the_same_mask_and_the_same_rounding(pair, tmp_path, method, more):
    base, vectors = pair
    recipe = recipe_of(base, method, **more)
    merged = dict(merge(recipe, base, vectors))
    assert torch.equal(merged[EMBED], merged[HEAD])
    assert not torch.equal(merged[EMBED].float(), base[EMBED])
    folder = export(recipe, base, vectors, tmp_path / "out")
    written = load_file(folder / "model.safetensors")
    assert torch.equal(written[EMBED], written[HEAD])
    assert torch.equal(written[EMBED], merged[EMBED])
    twin = next(task for task in tasks(recipe, base, vectors) if task.name == EMBED)
    first = next(task for task in tasks(recipe, base, vectors) if task.name == HEAD)
    for one, other in zip(
        unrounded_blocks(twin, base, vectors), unrounded_blocks(first, base, vectors), strict=True
    ):
        assert torch.equal(one[2], other[2])


@pytest.mark.parametrize(
    "more",
    [
        {"exclude": ("lm_head",)},
        {"include": ("embed_tokens", "layers")},
    ],
)
def test_a_recipe_that_takes_only_one_of_the_names_is_refused_with_both(pair, more):
    base, vectors = pair
    with pytest.raises(RecipeError, match=f"{HEAD} and {EMBED} are one tensor"):
        tasks(recipe_of(base, "task_arithmetic", **more), base, vectors)


def test_a_filter_on_one_of_the_names_is_refused_and_one_on_both_is_not(pair):
    base, vectors = pair
    one = [{"filter": "lm_head", "value": 0.2}, {"value": 0.7}]
    with pytest.raises(RecipeError, match="takes? both"):
        tasks(recipe_of(base, "task_arithmetic", weight=one), base, vectors)
    both = [
        {"filter": "lm_head", "value": 0.2},
        {"filter": "embed", "value": 0.2},
        {"value": 0.7},
    ]
    done = tasks(recipe_of(base, "task_arithmetic", weight=both), base, vectors)
    assert {task.name: task.omegas for task in done} == {
        EMBED: (0.2,),
        HEAD: (0.2,),
        OTHER: (0.7,),
    }
    excluded = recipe_of(base, "task_arithmetic", exclude=("lm_head", "embed"))
    assert [task.vectors for task in tasks(excluded, base, vectors)].count(()) == 2
