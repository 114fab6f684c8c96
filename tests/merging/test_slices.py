"""Recipes with slices: layers restacked and renumbered, with mergekit 0.1.5's numbers where it is there to be asked."""

import hashlib
import json
from contextlib import ExitStack

import pytest
import torch
import yaml
from safetensors.torch import load_file

from merging import Checkpoint, DistributionVector, LiveModel, check, export, merge, open_recipe
from merging.engine.identities import with_identities
from merging.engine.restack import comes_first, renumber
from merging.engine.tasks import effective_weights, tasks
from merging.errors import MismatchError, RecipeError
from merging.inputs.digest import combined
from merging.inputs.lora_vector import LoraVector
from merging.opening.stacked import Stacked
from merging.opening.stacked_config import LayerOrigin, restack_config
from merging.recipe import parse_recipe, read_recipe, recipe_yaml
from merging.recipe.formula import formula

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 14,
    "intermediate_size": 23,
    "num_attention_heads": 7,
    "num_key_value_heads": 1,
    "head_dim": 2,
    "vocab_size": 31,
    "max_position_embeddings": 17,
    "dtype": "float32",
}
LAYERS = {"a": 3, "b": 3, "c": 5}
"""Model -> how many layers it has."""


def weights(name, tied=False):
    """A Llama of 14 dimensions; those of one depth differ little, as fine-tunes do."""
    common, own = (
        torch.Generator().manual_seed(LAYERS[name]),
        torch.Generator().manual_seed(ord(name)),
    )
    shapes = {"model.embed_tokens.weight": (31, 14), "model.norm.weight": (14,)}
    for layer in range(LAYERS[name]):
        at = f"model.layers.{layer}."
        shapes |= {at + f"mlp.{side}_proj.weight": (23, 14) for side in ("gate", "up")}
        shapes |= {at + f"self_attn.{side}_proj.weight": (2, 14) for side in "kv"}
        shapes |= {at + f"self_attn.{side}_proj.weight": (14, 14) for side in "qo"}
        shapes |= {at + f"{side}_layernorm.weight": (14,) for side in ("input", "post_attention")}
        shapes[at + "mlp.down_proj.weight"] = (14, 23)
    if not tied:
        shapes["lm_head.weight"] = (31, 14)
    return {
        key: torch.randn(shape, generator=common) + 0.1 * torch.randn(shape, generator=own)
        for key, shape in shapes.items()
    }


def run(model, start, stop, **parameters):
    """One source of a slice."""
    source = {"model": model, "layer_range": [start, stop]}
    return source | ({"parameters": parameters} if parameters else {})


def slices(*parts):
    """Slices of lists of sources."""
    return [{"sources": part} for part in parts]


FILTERS = [
    {"filter": "self_attn", "value": [0, 0.5, 1]},
    {"filter": "mlp", "value": [1, 0.25]},
    {"value": 0.5},
]

# name: (tied head, the recipe); folders are letters
CASES = {
    "one after the other": (
        False,
        {"merge_method": "passthrough", "slices": slices([run("a", 0, 3)], [run("b", 0, 3)])},
    ),
    "tied": (
        True,
        {"merge_method": "passthrough", "slices": slices([run("a", 0, 3)], [run("b", 1, 3)])},
    ),
    "overlapping and scaled": (
        False,
        {
            "merge_method": "passthrough",
            "base_model": "a",
            "slices": slices(
                [run("a", 0, 2)],
                [
                    run(
                        "a",
                        1,
                        3,
                        scale=[
                            {"filter": "o_proj", "value": 0.0},
                            {"filter": "down_proj", "value": 0.5},
                        ],
                    )
                ],
                [run("c", 2, 5, scale=[{"filter": "layers.3.", "value": 3.0}, {"value": 1.0}])],
            ),
        },
    ),
    "slerp": (
        False,
        {
            "merge_method": "slerp",
            "base_model": "a",
            "slices": slices([run("a", 0, 3), run("b", 0, 3)]),
            "parameters": {"t": FILTERS},
        },
    ),
    "slerp of other layers, and of one": (
        False,
        {
            "merge_method": "slerp",
            "base_model": "a",
            "slices": [
                {"sources": [run("c", 1, 3), run("a", 0, 2)], "parameters": {"t": [0.2, 0.8]}},
                {
                    "sources": [run("a", 2, 3), run("b", 2, 3)],
                    "parameters": {"t": [{"filter": "mlp", "value": [0, 1]}]},
                },
                {"sources": [run("a", 0, 3), run("b", 0, 3)]},
            ],
            "parameters": {
                "t": [
                    {"filter": "layers.4.", "value": 0.9},
                    {"filter": "norm", "value": [0.3, 0.6]},
                    {"value": 0.4},
                ]
            },
        },
    ),
    "a base of each slice": (
        False,
        {
            "merge_method": "slerp",
            "base_model": "a",
            "slices": [
                {"sources": [run("a", 0, 2), run("b", 1, 3)], "base_model": "b"},
                {"sources": [run("a", 1, 3), run("b", 1, 3)]},
                {"sources": [run("c", 1, 3), run("b", 1, 3)], "base_model": "c"},
            ],
            "parameters": {"t": 0.25},
        },
    ),
    "ties": (
        True,
        {
            "merge_method": "ties",
            "base_model": "a",
            "slices": [
                {
                    "sources": [
                        run("a", 0, 2),
                        run(
                            "b",
                            0,
                            2,
                            weight=0.7,
                            density=[{"filter": "mlp", "value": 0.3}, {"value": 0.8}],
                        ),
                        run("c", 3, 5, weight=[0.2, 0.9]),
                    ],
                    "parameters": {"density": 0.4},
                },
                {
                    "sources": [run("a", 1, 2), run("b", 2, 3), run("c", 0, 1)],
                    "parameters": {"weight": [0.1, 0.6]},
                },
            ],
            "parameters": {
                "density": [{"filter": "layers.0.", "value": 0.9}, {"value": 0.5}],
                "weight": 0.5,
            },
        },
    ),
    "sums": (
        False,
        {
            "merge_method": "task_arithmetic",
            "base_model": "a",
            "slices": [
                {"sources": [run("a", 0, 1)]},  # the base alone
                {
                    "sources": [run("b", 0, 3, weight=[0, 1.2]), run("a", 0, 3, weight=5.0)],
                    "parameters": {"lambda": 0.8},
                },
                {
                    "sources": [
                        run("a", 1, 3),
                        run("b", 1, 3, weight=[{"filter": "layers.2.mlp", "value": -0.4}]),
                        run("c", 0, 2, weight=0.3),
                    ],
                    "parameters": {
                        "weight": [
                            {"filter": "norm", "value": 0.6},
                            {"filter": "layers.1.", "value": 0.15},
                        ]
                    },
                },
            ],
            "parameters": {
                "weight": 0.25,
                "normalize": [{"filter": "q_proj", "value": True}, {"value": False}],
            },
        },
    ),
    "averages": (
        False,
        {
            "merge_method": "linear",
            "base_model": "c",
            "slices": slices(
                [run("a", 0, 2, weight=1)],
                [run("c", 2, 5, weight=[0.5, 1]), run("b", 0, 3, weight=2)],
            ),
        },
    ),
    "an empty slice gives the embeddings": (
        False,
        {
            "merge_method": "passthrough",
            "slices": slices([run("b", 0, 0)], [run("a", 1, 3)], [run("c", 0, 1)]),
        },
    ),
    "nuslerp with a base": (
        False,
        {
            "merge_method": "nuslerp",
            "base_model": "a",
            "slices": slices(
                [run("b", 0, 3, weight=1), run("a", 0, 3), run("c", 1, 4, weight=[1, 3])]
            ),
        },
    ),
    "karcher": (
        False,
        {
            "merge_method": "karcher",
            "slices": slices([run("b", 0, 2), run("a", 1, 3)], [run("a", 0, 1), run("c", 4, 5)]),
            "parameters": {"max_iter": 30},
        },
    ),
    "bfloat16": (
        False,
        {
            "merge_method": "passthrough",
            "dtype": "float32",
            "out_dtype": "bfloat16",
            "slices": slices([run("a", 0, 3, scale=0.7)], [run("b", 0, 3)]),
        },
    ),
}
ASKED_AGAIN = ("ties", "sums", "overlapping and scaled")
"""mergekit also runs what `to_yaml` writes of these."""


def placed(document, root):
    """The recipe with letters replaced by folders."""
    text = json.dumps(document)
    for letter in LAYERS:
        text = text.replace(f'model": "{letter}"', f'model": "{root / letter}"')
    return json.loads(text)


@pytest.fixture(scope="module")
def roots(tmp_path_factory, write_once):
    """Tied or not -> a folder with the three models."""
    found = {}
    for tied in (False, True):
        found[tied] = tmp_path_factory.mktemp("slices")
        for name, layers in LAYERS.items():
            config = CONFIG | {"num_hidden_layers": layers, "tie_word_embeddings": tied}
            write_once(found[tied] / name, weights(name, tied), config)
    return found


@pytest.fixture(scope="module")
def exported(roots):
    """Case -> (recipe, our folder)."""
    found = {}
    for case, (tied, document) in CASES.items():
        recipe = parse_recipe(yaml.safe_dump(placed(document, roots[tied])))
        base, vectors = open_recipe(recipe)
        check(recipe, base, vectors)
        found[case] = (
            recipe,
            export(recipe, base, vectors, roots[tied] / f"ours-{case.replace(' ', '_')}"),
        )
    return found


@pytest.fixture(scope="module")
def theirs(roots, exported, run_mergekit):
    """Case -> mergekit's folder; (case, 'again') -> that of the recipe as we write it."""
    root = roots[False] / "mergekit"
    root.mkdir()
    texts = {
        case: yaml.safe_dump(placed(document, roots[tied]))
        for case, (tied, document) in CASES.items()
    }
    texts |= {(case, "again"): recipe_yaml(exported[case][0]) for case in ASKED_AGAIN}
    jobs, found = [], {}
    for number, (case, text) in enumerate(texts.items()):
        (root / f"{number}.yml").write_text(text)
        jobs.append((str(root / f"{number}.yml"), str(root / str(number))))
        found[case] = root / str(number)
    run_mergekit(jobs, root)
    return found


def tensors(folder):
    return {
        name: value
        for file in folder.glob("*.safetensors")
        for name, value in load_file(file).items()
    }


@pytest.mark.oracle
@pytest.mark.parametrize("case", [*CASES, *((case, "again") for case in ASKED_AGAIN)], ids=str)
def test_the_same_file_gives_mergekits_tensors(case, exported, theirs):
    name = case if isinstance(case, str) else case[0]
    ours, wanted = tensors(exported[name][1]), tensors(theirs[case])
    assert ours.keys() == wanted.keys()
    for tensor, value in wanted.items():
        assert (ours[tensor].dtype, ours[tensor].shape) == (value.dtype, value.shape)
        limit = 1e-6 * float(value.abs().max())
        torch.testing.assert_close(ours[tensor], value, rtol=0, atol=limit, msg=f"{name}: {tensor}")
    config = json.loads((theirs[case] / "config.json").read_text())
    assert (
        json.loads((exported[name][1] / "config.json").read_text())["num_hidden_layers"]
        == config["num_hidden_layers"]
    )


def opened(document, root):
    """A recipe by letters, its base and vectors."""
    recipe = parse_recipe(yaml.safe_dump(placed(document, root)))
    return recipe, *open_recipe(recipe)


def test_layers_are_stacked_and_renumbered_bit_for_bit(exported, bits):
    recipe, folder = exported["one after the other"]
    found, a, b = tensors(folder), weights("a"), weights("b")
    assert recipe.layers == 6 and len(found) == 2 * len(a) - 3
    for name, value in a.items():
        if "layers" in name or "embed" in name:
            assert bits(found[name], value)
    for name, value in b.items():
        if "layers" in name:
            layer = int(name.split(".")[2])
            name = name.replace(f".{layer}.", f".{layer + 3}.")
        if "embed" not in name:
            assert bits(found[name], value)


@pytest.mark.parametrize("case", CASES)
def test_the_exported_folder_is_a_model_of_so_many_layers(case, exported):
    from transformers import AutoModelForCausalLM

    recipe, folder = exported[case]
    model, notes = AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, output_loading_info=True
    )
    assert model.config.num_hidden_layers == len(model.model.layers) == recipe.layers
    assert not any(notes[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.isfinite(model(torch.tensor([[3, 1, 4]])).logits).all()


@pytest.mark.parametrize("case", CASES)
def test_a_recipe_comes_back_from_its_file(case, exported):
    recipe, _ = exported[case]
    again = parse_recipe(recipe_yaml(recipe))
    assert again == recipe and again.digest == recipe.digest


def test_the_digest_speaks_of_the_slices(roots):
    one = {"merge_method": "passthrough", "slices": slices([run("a", 0, 3)])}
    digests = {
        opened(document, roots[False])[0].digest
        for document in (
            one,
            {"merge_method": "passthrough", "slices": slices([run("a", 0, 2)])},
            {"merge_method": "passthrough", "slices": slices([run("a", 0, 3, scale=0.5)])},
            {"merge_method": "passthrough", "slices": slices([run("a", 0, 2)], [run("a", 2, 3)])},
        )
    }
    assert len(digests) == 4


def test_the_formula_shows_the_layers(exported):
    assert formula(exported["one after the other"][0]) == "passthrough: Θa[0:3] ⧺ Θb[0:3]"
    assert formula(exported["slerp"][0]) == "slerp: (Θa[0:3], Θb[0:3])"


def test_the_export_carries_all_that_it_came_from(exported):
    recipe, folder = exported["ties"]
    known = with_identities(recipe, *open_recipe(recipe))
    assert read_recipe(folder / "recipe.yml") == known
    assert "Θa[0:2], Θb[0:2], Θc[3:5]" in (folder / "README.md").read_text()
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is True


def test_the_slices_of_whole_models_are_the_models(roots, bits):
    """One slice of all layers is what `models:` gives, with every method's parameters."""
    setting = [{"filter": "layers.1.", "value": [0.2, 0.9]}, {"value": [0.1, 0.5, 0.3]}]
    common = {"merge_method": "ties", "base_model": "a", "parameters": {"density": 0.4}}
    whole = opened(
        common | {"models": [{"model": "b", "parameters": {"weight": setting}}]}, roots[False]
    )
    part = opened(
        common | {"slices": slices([run("a", 0, 3), run("b", 0, 3, weight=setting)])}, roots[False]
    )
    wanted, found = dict(merge(*whole)), dict(merge(*part))
    assert wanted.keys() == found.keys()
    assert all(bits(wanted[name], found[name]) for name in wanted)


def test_weights_are_shown_as_they_are_resolved(exported):
    recipe, _ = exported["sums"]
    base, vectors = open_recipe(recipe)
    table = effective_weights(recipe, base, vectors)
    at = "model.layers.{}.mlp.up_proj.weight".format
    assert table[at(0)] == {"a": 0.0, "b": 0.0, "c": 0.0}  # the base alone
    # t = 0, ½, 1 in the second slice; in the third the filters are read under the names that b and c have there
    assert [table[at(layer)]["b"] for layer in (1, 2, 3)] == [0.0, 0.6, 1.2]
    assert [table[at(layer)]["b"] for layer in (4, 5)] == [0.15, -0.4]
    assert [table[at(layer)]["c"] for layer in (4, 5)] == [0.3, 0.3]
    # The first slice has one source, so that mergekit takes one of the last slice's for the norm: the base.
    assert table["model.norm.weight"] == {"a": 0.0, "b": 0.0, "c": 0.0}


def test_digests_of_inputs_are_compared(exported, roots):
    from dataclasses import replace

    recipe, _ = exported["slerp"]
    base, vectors = open_recipe(recipe)
    assert base.digest == vectors["a"].digest == Checkpoint(roots[False] / "a").digest
    told = replace(recipe, inputs={"base": base.digest, "b": vectors["b"].digest})
    open_recipe(told)
    with pytest.raises(MismatchError, match="b: the recipe was made for weights with digest 0000"):
        open_recipe(replace(told, inputs={"b": "0" * 64}))


def test_identities_tell_what_was_stacked(roots):
    same, again, other = (
        opened({"merge_method": "passthrough", "slices": slices(*parts)}, roots[False])[1]
        for parts in ([[run("a", 0, 3)]], [[run("a", 0, 3)]], [[run("a", 1, 3)], [run("a", 0, 1)]])
    )
    assert same.identity == again.identity != other.identity
    assert same.digest == other.digest and same.nbytes == other.nbytes


@pytest.mark.parametrize("method", ["passthrough", "linear"])
def test_an_adapter_is_merged_into_its_layers(method, roots, adapter, tmp_path):
    module = "model.layers.1.mlp.up_proj"
    folder = adapter(tmp_path / "lora", weights("a"), [module])
    document = {
        "merge_method": method,
        "slices": slices([run("a", 0, 3)], [run(f"{roots[False] / 'a'}+{folder}", 1, 3)]),
    }
    if method == "linear":  # which reads files by itself, where a tensor is in one
        document["parameters"] = {"weight": 1}
    recipe, base, vectors = opened(document, roots[False])
    check(recipe, base, vectors)
    assert [source.name for source in recipe.models] == ["a", "lora"]
    found, plain = dict(merge(recipe, base, vectors)), weights("a")
    factors = load_file(folder / "adapter_model.safetensors")
    at = f"base_model.model.{module}.lora_"
    wanted = plain[f"{module}.weight"] + factors[f"{at}B.weight"] @ factors[f"{at}A.weight"] * 2
    torch.testing.assert_close(
        found["model.layers.3.mlp.up_proj.weight"], wanted, rtol=1e-6, atol=1e-6
    )
    assert torch.equal(found["model.layers.1.mlp.up_proj.weight"], plain[f"{module}.weight"])
    assert torch.equal(
        found["model.layers.4.mlp.up_proj.weight"], plain["model.layers.2.mlp.up_proj.weight"]
    )
    whole, lora = Checkpoint(roots[False] / "a"), LoraVector(folder, vectors["a"].tuned.whose)
    vectors["lora"].gather_digest()
    assert vectors["lora"].digest == combined(whole.digest, lora.digest)
    # As earlier versions wrote it into recipes.
    both = f"{whole.sampled_digest} {lora.sampled_digest}"
    assert vectors["lora"].sampled_digest == hashlib.sha256(both.encode()).hexdigest()
    assert vectors["lora"].identity != vectors["a"].identity
    assert parse_recipe(recipe_yaml(recipe)) == recipe


def test_include_and_exclude_are_of_the_output(roots):
    common = {
        "merge_method": "linear",
        "slices": slices([run("b", 0, 2), run("a", 1, 3)]),
        "parameters": {"weight": 1},
    }
    recipe, base, vectors = opened(
        common | {"dem": {"exclude": ["layers.1.mlp", "norm"]}}, roots[False]
    )
    moved = {task.name: task.vectors for task in tasks(recipe, base, vectors)}
    assert moved["model.layers.0.mlp.up_proj.weight"] == ("b", "a")
    assert moved["model.layers.1.mlp.up_proj.weight"] == moved["model.norm.weight"] == ()
    with pytest.raises(
        RecipeError, match="dem.exclude: 'layers.7' matches no tensor of the restacked model"
    ):
        tasks(*opened(common | {"dem": {"exclude": ["layers.7"]}}, roots[False]))


def test_integers_and_buffers_come_from_the_layer_below(write, tmp_path, llama):
    base = llama() | {
        "model.rotary_emb.inv_freq": torch.arange(5.0),
        "model.layers.0.steps": torch.arange(7),
    }
    base |= {f"model.layers.{layer}.steps": torch.arange(7) + layer for layer in range(3)}
    write(tmp_path / "a", base, {"num_hidden_layers": 3})
    source = {
        "model": "a",
        "layer_range": [1, 3],
        "parameters": {"weight": {"filter": "mlp", "value": 1}},
    }
    document = {"merge_method": "linear", "slices": [{"sources": [source]}]}
    recipe = parse_recipe(yaml.safe_dump(document))
    base_, vectors = open_recipe(recipe, tmp_path.joinpath)
    with pytest.raises(RecipeError, match="a: no rule for weight matches 'lm_head.weight'"):
        tasks(recipe, base_, vectors)
    source["parameters"]["weight"] = 1
    recipe = parse_recipe(yaml.safe_dump(document))
    found = dict(merge(recipe, base_, vectors))
    assert found["model.layers.1.steps"].tolist() == [2, 3, 4, 5, 6, 7, 8]
    assert found["model.rotary_emb.inv_freq"].tolist() == [0, 1, 2, 3, 4]


def test_layers_alone_need_no_vocabulary_of_their_own(roots, write, tmp_path):
    """A model that gives only layers from the middle may have other embeddings."""
    wide = weights("b") | {
        "model.embed_tokens.weight": torch.ones(37, 14),
        "lm_head.weight": torch.ones(37, 14),
    }
    write(tmp_path / "wide", wide, CONFIG | {"num_hidden_layers": 3, "vocab_size": 37})
    middle = run(str(tmp_path / "wide"), 1, 2)
    document = {
        "merge_method": "passthrough",
        "slices": slices([run("a", 0, 1)], [middle], [run("a", 2, 3)]),
    }
    recipe, base, vectors = opened(document, roots[False])
    check(recipe, base, vectors)
    found = dict(merge(recipe, base, vectors))
    assert torch.equal(
        found["model.layers.1.mlp.up_proj.weight"], wide["model.layers.1.mlp.up_proj.weight"]
    )
    for folder, tokens in (("plain", {"x": 0}), ("wide", {"x": 0, "y": 1})):
        if folder == "plain":
            write(tmp_path / "plain", weights("a"), CONFIG | {"num_hidden_layers": 3})
        (tmp_path / folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": tokens}}))
    plain = str(tmp_path / "plain")
    told = opened(
        document | {"slices": slices([run(plain, 0, 1)], [middle], [run(plain, 2, 3)])},
        roots[False],
    )
    assert not [problem for problem in check(*told) if problem.severity == "error"]
    first = document | {"base_model": "a", "slices": slices([middle], [run("a", 2, 3)])}
    with pytest.raises(
        MismatchError,
        match=r"model.embed_tokens.weight has shape \[37, 14\] in the slices and \[31, 14\]",
    ):
        opened(first, roots[False])


def test_checkpoints_of_another_base_are_found_where_layers_are_aligned(roots, write, tmp_path):
    strange = {name: torch.randn(value.shape) for name, value in weights("a").items()}
    write(
        tmp_path / "strange",
        strange,
        CONFIG | {"num_hidden_layers": 3, "tie_word_embeddings": False},
    )
    other = str(tmp_path / "strange")
    document = {"merge_method": "slerp", "base_model": "a", "parameters": {"t": 0.5}}
    with pytest.raises(MismatchError, match="strange .* is a checkpoint of another base"):
        check(
            *opened(document | {"slices": slices([run("a", 0, 3), run(other, 0, 3)])}, roots[False])
        )
    check(*opened(document | {"slices": slices([run("a", 0, 2), run(other, 1, 3)])}, roots[False]))


def test_the_live_model_refuses_other_layers(exported, module_of, views_of):
    recipe, _ = exported["one after the other"]
    _, vectors = open_recipe(recipe)
    held = weights("a")
    live = LiveModel(module_of(held), held, vectors, views_of(held))
    with pytest.raises(
        RecipeError,
        match="has other layers than the model in memory. Write it with `dem merge RECIPE OUT`",
    ):
        live.apply(recipe)


def test_a_recipe_with_slices_is_edited_in_its_file(exported):
    recipe, _ = exported["averages"]
    with pytest.raises(
        RecipeError, match="in a recipe with slices, the ω belong to the sources of the slices"
    ):
        recipe.with_omegas({"a": 0.5})
    with pytest.raises(RecipeError, match="a recipe with slices keeps its method"):
        recipe.with_method("ties")


def test_folders_are_looked_up_beside_the_recipe(roots):
    file = roots[False] / "recipe.yml"
    file.write_text(yaml.safe_dump(CASES["slerp"][1]))
    recipe = read_recipe(file)
    assert recipe.base == str(roots[False] / "a") and recipe.layers == 3
    open_recipe(recipe)


def text(**changes):
    """A sound recipe with some keys changed."""
    document = {
        "merge_method": "linear",
        "slices": slices([run("a", 0, 2, weight=1), run("b", 1, 3, weight=2)]),
    }
    return yaml.safe_dump(document | changes)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (text(slices=[]), r"slices is \[\], expected a list of \{sources: "),
        (text(slices={"sources": []}), "slices is {'sources': "),
        (text(slices=[3]), r"slices\[0\] is 3, expected keys and values"),
        (
            text(slices=[{"sources": []}]),
            r"slices\[0\].sources is \[\], expected a list of \{model: folder, layer_range",
        ),
        (
            text(slices=[{"source": []}]),
            r"slices\[0\]: unknown key 'source'; did you mean 'sources'",
        ),
        (
            text(slices=[{"sources": [run("a", 0, 1)], "residual_weight": 0.1}]),
            r"slices\[0\].residual_weight is not read",
        ),
        (
            text(slices=[{"sources": [{"model": "a"}]}]),
            r"slices\[0\].sources\[0\].layer_range is None, expected \[first",
        ),
        (text(slices=slices([run("a", 2, 1)])), r"layer_range is \[2, 1\]"),
        (text(slices=slices([run("a", -1, 1)])), r"layer_range is \[-1, 1\]"),
        (text(slices=slices([run("a", True, 1)])), r"layer_range is \[True, 1\]"),
        (
            text(slices=slices([{"model": "a", "layer_range": [0, 1, 2]}])),
            r"layer_range is \[0, 1, 2\]",
        ),
        (text(slices=slices([run("a", 0, 0, weight=1)])), "slices: no layer is in any layer_range"),
        (
            text(slices=slices([run("", 0, 1)])),
            r"slices\[0\].sources\[0\].model is '', expected the folder",
        ),
        (text(slices=slices([run(["a"], 0, 1)])), r"sources\[0\].model is \['a'\]"),
        (
            text(slices=slices([run("a", 0, 1) | {"range": 1}])),
            r"sources\[0\]: unknown key 'range'; did you mean 'layer_range'",
        ),
        (
            text(slices=slices([run("a", 0, 1) | {"parameters": 3}])),
            r"sources\[0\].parameters is 3",
        ),
        (
            text(slices=[{"sources": [run("a", 0, 1)], "parameters": [1]}]),
            r"slices\[0\].parameters is \[1\]",
        ),
        (
            text(slices=slices([run("a", 0, 1), run("b", 0, 2)])),
            r"slices\[0\]: its sources have \[1, 2\] layers",
        ),
        (
            text(slices=slices([run("a", 0, 1), run("a", 1, 2)])),
            r"slices\[0\]: 'a' is a source twice",
        ),
        (
            text(slices=[{"sources": [run("a", 0, 1)], "base_model": "c"}]),
            r"slices\[0\].base_model is 'c', which is not one",
        ),
        (text(models=[{"model": "a"}]), "models and slices are both given"),
        (
            text(dem={"names": ["x"]}),
            r"dem.names is \['x'\], expected 2 names, one for each model that the slices name",
        ),
        (text(dem={"names": ["x", "x"]}), "two models are called 'x'"),
        (
            text(dem={"vocabulary": "base"}),
            "dem.vocabulary is 'base', and slices take their embeddings",
        ),
        (
            text(slices=slices([run("a", 0, 1)])),
            r"slices\[0\]: models: a: parameters.weight is missing",
        ),
        (
            text(slices=slices([run("a", 0, 1, wieght=1)])),
            r"slices\[0\]: models: a: unknown parameter 'wieght'; did you",
        ),
        (
            text(slices=slices([run("a", 0, 1, weight="x")])),
            r"slices\[0\]: models: a: weight is 'x', expected a number",
        ),
        (
            text(parameters={"normalise": True}),
            r"slices\[0\]: parameters: unknown key 'normalise'; did you mean 'normal",
        ),
        (
            text(
                merge_method="slerp",
                base_model="a",
                parameters={"t": 1},
                slices=slices([run("b", 0, 1)]),
            ),
            r"slices\[0\]: base_model is 'a', which is not one of its sources, and slerp needs the base's layers. Add \{model: a",
        ),
        (
            text(
                merge_method="slerp",
                base_model="a",
                parameters={"t": 1},
                slices=slices([run("a", 0, 1)]),
            ),
            r"slices\[0\]: models is empty",
        ),
        (
            text(
                merge_method="slerp",
                base_model="a",
                slices=slices([run("a", 0, 1), run("b", 0, 1)]),
            ),
            r"slices\[0\]: parameters.t is missing",
        ),
        (
            text(
                merge_method="ties",
                base_model="a",
                parameters={"weight": 1},
                slices=slices([run("a", 0, 1, wieght=1), run("b", 0, 1)]),
            ),
            r"slices\[0\]: models: a: unknown parameter 'wieght'; did you mean 'weight'",
        ),
        (
            text(merge_method="ties", slices=slices([run("a", 0, 1, weight=1)])),
            r"slices\[0\]: base_model is missing",
        ),
        (
            text(merge_method="passthrough"),
            r"slices\[0\]: passthrough takes exactly 1 model, and 2 are given: a, b",
        ),
        (
            text(merge_method="metagpt", base_model="a"),
            "metagpt computes ω from whole models, and slices are parts of models",
        ),
        (
            text(merge_method="fisher"),
            "fisher needs statistics, which are of whole models.*models: first, and restack the result",
        ),
        (text(modules={}), "'modules' is not read: .*multi-modal"),
        (text(experts=[]), "'experts' is not read: it makes a mixture of experts"),
        (
            text(gate_mode="hidden"),
            "'gate_mode' is not read: it makes a mixture of experts .mergekit-moe.*name its folder here",
        ),
        (
            text(tokenizer={"source": "union"}),
            "'tokenizer' is not read: .*the base's is used; remove the key",
        ),
        (
            text(tokenizer_source="union"),
            "tokenizer_source is 'union'; only the base's tokenizer is used. Remove the key",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_the_slice_and_the_key(given, message):
    with pytest.raises(RecipeError, match=message):
        parse_recipe(given)


def test_the_bases_tokenizer_may_be_asked_for():
    assert parse_recipe(text(tokenizer={"source": "base"})) == parse_recipe(
        text(tokenizer_source="base")
    )


def test_what_only_a_program_can_write_is_refused():
    from dataclasses import replace

    from merging import ModelEntry
    from merging.recipe.parts import Slice, SliceSource

    recipe = parse_recipe(text())
    with pytest.raises(
        RecipeError, match="models: a: in a recipe with slices, parameters belong to the sources"
    ):
        replace(recipe, models=(ModelEntry("a", "a", {"weight": 1}), recipe.models[1]))
    with pytest.raises(
        RecipeError, match=r"slices\[0\]: no model is called 'z'; the recipe has a, b"
    ):
        replace(recipe, slices=(Slice((SliceSource("z", 0, 1),)),))


def test_only_the_base_is_called_base(tmp_path):
    named = parse_recipe(text(slices=slices([run("x/base", 0, 1, weight=1)])))
    assert [source.name for source in named.models] == ["base-2"]
    named = parse_recipe(text(base_model="x/base", slices=slices([run("x/base", 0, 1, weight=1)])))
    assert [source.name for source in named.models] == ["base"]


def test_a_layer_that_a_model_lacks_is_named(roots):
    with pytest.raises(
        MismatchError,
        match=r"slices\[1\]: b has 3 layers, and layer_range is \[2, 4\]. Give a range within",
    ):
        opened(
            {"merge_method": "passthrough", "slices": slices([run("c", 3, 5)], [run("b", 2, 4)])},
            roots[False],
        )


def test_models_of_tied_and_untied_heads_are_not_stacked(roots):
    mixed = {
        "merge_method": "passthrough",
        "slices": slices([run(str(roots[True] / "a"), 0, 3)], [run("b", 0, 3)]),
    }
    with pytest.raises(
        MismatchError,
        match=r"configuration is used: the slices also have lm_head.weight. .*save both the same way",
    ):
        opened(mixed, roots[False])


def test_models_of_several_stacks_are_refused(write, tmp_path):
    recipe = parse_recipe(
        yaml.safe_dump({"merge_method": "passthrough", "slices": slices([run("two", 0, 1)])})
    )
    folder = tmp_path / "two"
    write(folder, {f"{side}.block.0.w": torch.ones(3, 5) for side in ("encoder", "decoder")})
    with pytest.raises(
        RecipeError,
        match=r"two .* has 2 stacks of layers \(decoder.block, encoder.block\); slices need a model",
    ):
        open_recipe(recipe, tmp_path.joinpath)
    (folder / "model.safetensors").unlink()
    folder.rmdir()
    write(folder, {"head.weight": torch.ones(3, 5)})
    with pytest.raises(RecipeError, match="two .* has no layers"):
        open_recipe(recipe, tmp_path.joinpath)


def test_an_ordinary_base_cannot_take_other_layers(exported, roots):
    recipe, _ = exported["one after the other"]
    _, vectors = open_recipe(recipe)
    held = {name: value for name, value in weights("b").items() if "layers.2" not in name}
    with pytest.raises(
        MismatchError,
        match="has other tensors|changes .* which the base lacks|the slices make 6 layers",
    ):
        tasks(recipe, held, {name: DistributionVector(name, held, held) for name in vectors})
    with pytest.raises(MismatchError, match="belongs to layer 9, but the slices make only 6"):
        tasks(
            recipe,
            {"layers.9.w": torch.ones(3)},
            {name: DistributionVector(name, {}, {}) for name in vectors},
        )


def test_filters_must_match(roots):
    common = {"merge_method": "passthrough"}
    wrong = [
        {"filter": "layers.3.", "value": 2},
        {"value": 1},
    ]  # the output has a layer 3, and so has c, which is not here
    recipe, base, vectors = opened(
        common | {"slices": slices([run("a", 0, 2, scale=wrong)])}, roots[False]
    )
    with pytest.raises(
        RecipeError,
        match=r"slices\[0\]: a: scale: the filter 'layers.3.' matches no tensor of the restacked",
    ):
        tasks(recipe, base, vectors)
    recipe, base, vectors = opened(
        common | {"slices": slices([run("a", 0, 2)]), "parameters": {"scale": wrong}}, roots[False]
    )
    with pytest.raises(
        RecipeError, match="parameters: scale: the filter 'layers.3.' matches no tensor"
    ):
        tasks(recipe, base, vectors)


def test_a_parameter_that_no_rule_gives_is_missing_there(roots):
    rules = {"t": [{"filter": "mlp", "value": 0.5}]}
    document = {"merge_method": "slerp", "base_model": "a", "parameters": rules}
    recipe, base, vectors = opened(
        document | {"slices": slices([run("a", 0, 3), run("b", 0, 3)])}, roots[False]
    )
    with pytest.raises(
        RecipeError, match="lm_head.weight: parameters.t is missing; for slerp it is"
    ):
        tasks(recipe, base, vectors)


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("model.embed_tokens.weight", True),
        ("transformer.wpe.weight", True),
        ("word_embeddings_layernorm.weight", True),
        ("embed_out.weight", False),
        ("lm_head.weight", False),
        ("model.norm.weight", False),
        ("transformer.ln_f.bias", False),
    ],
)
def test_embeddings_are_of_the_first_slice_and_the_rest_of_the_last(name, first):
    assert comes_first(name) is first


def test_renumbering_changes_the_layer_alone():
    assert (
        renumber("model.layers.3.mlp.experts.0.w1.weight", 12)
        == "model.layers.12.mlp.experts.0.w1.weight"
    )
    assert renumber("h.0", 7) == "h.7" and renumber("0.w.1", 5) == "5.w.1"


class TestConfiguration:
    def test_lists_of_layers_are_cut_to_the_new_order(self):
        one = {
            "num_hidden_layers": 3,
            "layer_types": ["full", "slide", "wide"],
            "eos_token_id": [1, 2, 3],
        }
        one |= {
            "intermediate_size": [5, 7, 11],
            "mlp_only_layers": [1],
            "no_rope_layers": [],
            "rms_norm_eps": 1e-6,
        }
        other = {
            "num_hidden_layers": 2,
            "layer_types": ["x", "y"],
            "intermediate_size": [13, 17],
            "mlp_only_layers": [0, 1],
        }
        origins = [
            LayerOrigin(one, 2),
            LayerOrigin(one, 1),
            LayerOrigin(other, 0),
            LayerOrigin(other, 1),
            LayerOrigin(one, 0),
        ]
        found = restack_config(one, 3, origins, "one")
        assert found == one | {
            "num_hidden_layers": 5,
            "layer_types": ["wide", "slide", "x", "y", "full"],
            "intermediate_size": [11, 7, 13, 17, 5],
            "mlp_only_layers": [1, 2, 3],
        }

    def test_a_text_model_among_others_is_found(self):
        config = {"model_type": "vl", "text_config": {"n_layer": 2, "layer_types": ["a", "b"]}}
        found = restack_config(config, 2, [LayerOrigin(config, 1)] * 3, "vl")
        assert found == {
            "model_type": "vl",
            "text_config": {"n_layer": 3, "layer_types": ["b", "b", "b"]},
        }

    def test_without_a_configuration_there_is_none(self):
        assert restack_config({}, 3, [LayerOrigin({}, 1)], "x") == {}

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            (
                {"model_type": "x"},
                "x: config.json has no number of layers, the files hold 3 layers. Slices need a key",
            ),
            ({"num_layers": 4}, "x: config.json has num_layers = 4, the files hold 3 layers"),
            ({"num_layers": True}, "has no number of layers"),
        ],
    )
    def test_the_number_of_layers_must_be_found(self, config, message):
        with pytest.raises(MismatchError, match=message):
            restack_config(config, 3, [], "x")

    def test_models_must_describe_their_layers_alike(self):
        one = {"n_layer": 3, "layer_types": ["a", "b", "c"]}
        with pytest.raises(
            MismatchError,
            match="x: layer_types is a list in config.json, and None in a model of the slices",
        ):
            restack_config(one, 3, [LayerOrigin({"n_layer": 3}, 1)], "x")
        with pytest.raises(
            MismatchError,
            match="layer_types in config.json has one entry per layer.* 1 entries there, and none for its layer 1",
        ):
            restack_config(one, 3, [LayerOrigin({"layer_types": ["a"]}, 1)], "x")


def test_a_stack_is_a_checkpoint_over_the_same_files(roots, bits):
    a, c = Checkpoint(roots[False] / "a"), Checkpoint(roots[False] / "c")
    name = "model.layers.{}.mlp.up_proj.weight".format
    stack = Stacked(
        a, {name(0): (c, name(4)), name(1): (a, name(2)), name(2): (c, name(0))}, {"x": 1}
    )
    assert list(stack) == [name(0), name(1), name(2)] and len(stack) == 3 and name(3) not in stack
    assert (
        bits(stack[name(0)], c[name(4)])
        and bits(stack[name(1)], a[name(2)])
        and bits(stack[name(2)], c[name(0)])
    )
    assert torch.equal(stack.block(name(2), 5, 17), c[name(0)].flatten()[5:17])
    with ExitStack() as files:
        where, there = stack.in_file(name(2), 5, 17, files), c.in_file(name(0), 5, 17, files)
        assert where._replace(file=0) == there._replace(file=0)
    assert stack.path == a.path and stack.config == {"x": 1} and stack.numel == 3 * 14 * 23
