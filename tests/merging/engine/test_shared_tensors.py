"""Several names of one parameter are one tensor: to masks, rounding, rules, live and export."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from merging import Checkpoint, DistributionVector, Recipe, export
from merging.analysis.geometry import measure
from merging.analysis.rounding_cost import rounding_cost
from merging.engine.loop import merge, unrounded_blocks
from merging.engine.shared_tensors import PROBE, shared_tensors
from merging.engine.tasks import tasks
from merging.errors import RecipeError
from merging.inputs.checkpoint import in_memory
from merging.inputs.vector_arithmetic import Combined

EMBED, HEAD, OTHER = "model.embed_tokens.weight", "lm_head.weight", "model.layers.0.w.weight"


BOTH = dict.fromkeys((HEAD, EMBED), (HEAD, EMBED))
"""Each name -> all names, in the base's order."""


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
    assert shared_tensors(base) == BOTH
    assert shared_tensors(in_memory(base)) == BOTH
    assert shared_tensors(dict(base)) == BOTH


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
        wanted = tuple(name for name in base if head or name != "lm_head.weight")
        assert shared_tensors(base) == dict.fromkeys(wanted, wanted)


def test_layers_that_were_copied_stay_two_tensors(tmp_path):
    copied = drawn(2, 8, 8)
    more = {"model.layers.0.w.weight": copied, "model.layers.1.w.weight": copied.clone()}
    assert shared_tensors(model(tmp_path / "base", 1, **more)) == BOTH


def test_tensors_that_differ_only_far_behind_are_two(tmp_path):
    long = drawn(2, PROBE + 9)
    other = long.clone()
    other[-1] += 1
    assert shared_tensors(model(tmp_path / "base", 1, a=long, b=other)) == BOTH
    assert shared_tensors(model(tmp_path / "equal", 1, a=long, b=long.clone())) == BOTH | {
        "a": ("a", "b"),
        "b": ("a", "b"),
    }


def test_tensors_of_one_value_are_one_only_if_fine_tuning_keeps_them_equal(tmp_path):
    zeros = {"cls.bias": torch.zeros(64), "cls.decoder.bias": torch.zeros(64)}
    norms = {"norm_a.weight": torch.ones(8), "norm_b.weight": torch.ones(8)}
    base = model(tmp_path / "base", 1, **zeros, **norms)
    assert shared_tensors(base) == BOTH
    bias = drawn(5, 64)
    moved = {"cls.bias": bias, "cls.decoder.bias": bias.clone()}
    apart = {"norm_a.weight": drawn(6, 8), "norm_b.weight": drawn(7, 8)}
    a = DistributionVector("a", base, model(tmp_path / "a", 3, **moved, **apart))
    biases = ("cls.bias", "cls.decoder.bias")
    assert shared_tensors(base, [a]) == BOTH | dict.fromkeys(biases, biases)
    frozen = DistributionVector("b", base, model(tmp_path / "b", 4, **zeros, **norms))
    assert shared_tensors(base, [frozen]) == BOTH
    other = {"cls.bias": bias, "cls.decoder.bias": bias + 1}
    c = DistributionVector("c", base, model(tmp_path / "c", 5, **other, **norms))
    assert shared_tensors(base, [a, c]) == BOTH


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
    with pytest.raises(
        RecipeError, match=f"under 2 names, {HEAD}, {EMBED}; include and exclude take"
    ):
        tasks(recipe_of(base, "task_arithmetic", **more), base, vectors)


def test_a_filter_on_one_of_the_names_is_refused_and_one_on_both_is_not(pair):
    base, vectors = pair
    one = [{"filter": "lm_head", "value": 0.2}, {"value": 0.7}]
    with pytest.raises(RecipeError, match=f"give {EMBED} other settings than {HEAD}"):
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


def test_a_recipe_names_all_of_several_names(tmp_path):
    names = ["shared.weight", "encoder.embed_tokens.weight", "lm_head.weight"]
    base = model(tmp_path / "base", 1, **{name: drawn(1, 64, 8) for name in names})
    tuned = model(tmp_path / "a", 3, **{name: drawn(3, 64, 8) for name in names})
    vectors = {"a": DistributionVector("a", base, tuned)}
    everything = "under 4 names, encoder.embed_tokens.weight, lm_head.weight, model.embed_tokens"
    with pytest.raises(RecipeError, match=everything):
        tasks(recipe_of(base, "task_arithmetic", exclude=("shared",)), base, vectors)


# Equal tables of a model that transformers knows: whether they are tied follows from its defaults.
LLAMA = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
LLAMA |= {"vocab_size": 64, "num_attention_heads": 2}


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (LLAMA, {}),
        (LLAMA | {"tie_word_embeddings": True}, BOTH),
        (LLAMA | {"model_type": "gemma"}, BOTH),
        # A class that has no head: its name is judged by the configuration's word alone.
        (LLAMA | {"tie_word_embeddings": True, "architectures": ["LlamaModel"]}, BOTH),
    ],
)
def test_transformers_says_what_is_tied(tmp_path, config, names):
    assert shared_tensors(model(tmp_path / "base", 1, config)) == names


def test_a_fine_tune_that_has_other_values_shows_two_tensors_where_nobody_says_it(tmp_path):
    base = model(tmp_path / "base", 1)
    tied = DistributionVector("tied", base, model(tmp_path / "tied", 2))
    apart = DistributionVector("apart", base, model(tmp_path / "a", 3, **{HEAD: drawn(9, 64, 8)}))
    assert shared_tensors(base, [tied]) == BOTH
    assert shared_tensors(base, [tied, apart]) == {}
    merged = dict(merge(recipe_of(base, "task_arithmetic", 1.0), base, {"a": apart}))
    assert torch.allclose(merged[HEAD], drawn(9, 64, 8))
    # The configuration's own word counts more; preflight tells it.
    said = model(tmp_path / "said", 1, {"tie_word_embeddings": True})
    own = DistributionVector("own", said, Checkpoint(tmp_path / "a"))
    assert shared_tensors(said, [own]) == BOTH


def test_names_that_one_checkpoint_does_not_store_stay_together(tmp_path):
    names = ("shared.weight", HEAD)
    base = model(tmp_path / "base", 1, **{names[0]: drawn(1, 64, 8)})
    folder = tmp_path / "a"
    folder.mkdir()
    tuned = {EMBED: drawn(3, 64, 8), HEAD: drawn(4, 64, 8), OTHER: drawn(5, 8, 8)}
    save_file(tuned, folder / "model.safetensors")
    vector = DistributionVector("a", base, Checkpoint(folder))
    # It has two values: those of the head, with which the name that it lacks stays, and another.
    assert shared_tensors(base, [vector]) == dict.fromkeys(
        (HEAD, "shared.weight"), (HEAD, "shared.weight")
    )


def test_a_tensor_with_two_names_counts_once_in_lengths_and_angles(pair, tmp_path):
    base, vectors = pair
    (tmp_path / "once").mkdir()
    for folder in ("base", "a"):
        tensors = load_file(tmp_path / folder / "model.safetensors")
        del tensors[HEAD]
        (tmp_path / "once" / folder).mkdir()
        save_file(tensors, tmp_path / "once" / folder / "model.safetensors")
    single = Checkpoint(tmp_path / "once" / "base")
    alone = DistributionVector("a", single, Checkpoint(tmp_path / "once" / "a"))
    whole, once = measure(base, vectors), measure(single, {"a": alone})
    assert whole.tensors == (OTHER, HEAD)
    assert whole.gram() == pytest.approx(once.gram())
    assert whole.base_squares.sum() == pytest.approx(once.base_squares.sum())
    longer = DistributionVector("b", base, Checkpoint(tmp_path / "base"))
    both = vectors | {"b": Combined("b", [(2.0, vectors["a"]), (1.0, longer)])}
    recipe = Recipe.compose("b", {"a": "a", "b": "b"}, {"a": 1.0, "b": 1.0}, method="metagpt")
    twice = next(task for task in tasks(recipe, base, both) if task.name == OTHER)
    other = {"a": alone, "b": Combined("b", [(2.0, alone)])}
    assert twice.omegas == pytest.approx(tasks(recipe, single, other)[-1].omegas)
    cost = rounding_cost(recipe_of(base, "task_arithmetic"), base, vectors)
    assert cost.geometry.tensors == (OTHER, HEAD)
