"""Restacked layers are in the export what they were: transformers, asked for each of them, is the oracle."""

import json
import shutil

import pytest
import torch
import yaml

from merging import check, export, open_recipe
from merging.errors import MismatchError
from merging.opening.layer_fit import fitted_config
from merging.opening.layer_kinds import layers_of
from merging.opening.layer_names import Move, StackedModel
from merging.opening.stacked_config import LayerOrigin, level_of, restack_config
from merging.recipe import parse_recipe

COMMON = {
    "vocab_size": 37,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 64,
    "sliding_window": 4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 8,
    "shared_expert_intermediate_size": 8,
}
LATENT = {
    "n_routed_experts": 4,
    "n_group": 2,
    "topk_group": 1,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 4,
    "num_key_value_heads": 4,
}
LINEAR = {
    "linear_num_value_heads": 2,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 4,
}
# model_type: what its config.json says of its layers, without the lists that transformers derives
FAMILIES = {
    "llama": {},
    "gemma2": {},
    "gemma3_text": {"num_hidden_layers": 6, "sliding_window_pattern": 3},
    "cohere2": {"sliding_window_pattern": 2},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 2},
    "qwen2_moe": EXPERTS | {"decoder_sparse_step": 2},
    "qwen3_moe": EXPERTS | {"mlp_only_layers": [1]},
    "qwen3_next": EXPERTS | LINEAR | {"full_attention_interval": 2},
    "deepseek_v3": EXPERTS | LATENT | {"first_k_dense_replace": 2},
    "glm4_moe": EXPERTS | {"n_routed_experts": 4, "first_k_dense_replace": 1},
    "jamba": EXPERTS
    | {
        "attn_layer_period": 4,
        "attn_layer_offset": 2,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "mamba_dt_rank": 4,
        "mamba_d_state": 4,
        "use_mamba_kernels": False,
    },
    "llama4_text": EXPERTS
    | {
        "interleave_moe_layer_step": 2,
        "no_rope_layer_interval": 4,
        "intermediate_size_mlp": 24,
        "attention_chunk_size": 4,
    },
    "smollm3": {"no_rope_layer_interval": 3},
    "gpt_oss": EXPERTS,
    "modernbert": {"global_attn_every_n_layers": 3, "local_attention": 4},
    "gpt_neo": {
        "num_layers": 4,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 2]],
        "window_size": 4,
    },
    "gpt2": {
        "n_layer": 4,
        "n_embd": 16,
        "n_head": 4,
        "n_positions": 64,
        "scale_attn_by_inverse_layer_idx": True,
    },
    "olmo3": {},
    "exaone4": {"sliding_window_pattern": 2},
    "diffllama": {},
    "bamba": {
        "attn_layer_indices": [1],
        "mamba_n_heads": 4,
        "mamba_d_head": 8,
        "mamba_d_state": 4,
    },
}
OTHER_NAMES = {"gpt_neo": ("num_hidden_layers",), "gpt2": ("num_hidden_layers", "hidden_size")}
REFUSED = {
    "deepseek_v3": {"twice", "overlapping", "last and first"},
    "glm4_moe": {"twice", "last and first"},
    "jamba": {"overlapping"},
    "modernbert": {"twice", "without the first", "last and first"},
    "gpt2": {"twice", "overlapping", "without the first", "last and first"},
    "diffllama": {"twice", "overlapping", "without the first", "last and first"},
}
"""What no config.json of the family can say: a dense layer after a sparse one, a scale by number."""


def config_of(family):
    said = {"model_type": family} | COMMON | FAMILIES[family]
    if family == "deepseek_v3":
        del said["head_dim"]  # derived there
    return {key: value for key, value in said.items() if key not in OTHER_NAMES.get(family, ())}


def ranges_of(count):
    return {
        "as it was": [(0, count)],
        "twice": [(0, count), (0, count)],
        "overlapping": [(0, count - 1), (1, count)],
        "without the first": [(1, count)],
        "last and first": [(count - 1, count), (0, 1)],
    }


def restacked(config, ranges, tensors=None, stack="model.layers"):
    """The configuration of a model restacked with itself, and the origin of each layer."""
    level = level_of(config)
    count = next(
        level[key] for key in ("num_hidden_layers", "num_layers", "n_layer") if key in level
    )
    model = StackedModel("self", config, stack, tensors or [frozenset({("w", (3, 5))})] * count)
    numbers = [number for part in ranges for number in range(*part)]
    made = restack_config(config, count, [LayerOrigin(config, one) for one in numbers], "self")
    moves = [Move(model, one, to, True) for to, one in enumerate(numbers)]
    return fitted_config(made, model, moves), numbers


def loaded(config, tmp_path):
    from transformers import AutoConfig

    (tmp_path / "config.json").write_text(json.dumps(config))
    return AutoConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("family", "which"),
    [
        ("gemma2", "without the first"),
        ("gemma3_text", "overlapping"),
        ("qwen2", "twice"),
        ("llama4_text", "last and first"),
    ],
)
def test_lists_that_transformers_derives_are_written_out(family, which, tmp_path):
    """Gemma 2's config.json says nothing of its layers; its class computes the alternation."""
    config = config_of(family)
    made, origins = restacked(config, ranges_of(config["num_hidden_layers"])[which])
    kinds = loaded(config, tmp_path).layer_types
    assert loaded(made, tmp_path).layer_types == [kinds[layer] for layer in origins]
    assert len(set(kinds)) == 2 and made["layer_types"] == [kinds[layer] for layer in origins]


def test_what_is_right_already_is_not_written(tmp_path):
    config = config_of("gemma2")
    made, _ = restacked(config, [(0, 4), (0, 4)])
    assert made == config | {"num_hidden_layers": 8}
    assert restacked(config, [(0, 4)])[0] == config
    one = StackedModel("one", {}, "model.layers", [frozenset({("w", (3,))})] * 4)
    assert fitted_config({}, one, [Move(one, 3, 0, True)]) == {}


def test_a_text_model_among_others_is_told_in_its_own_part(tmp_path):
    vision = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 3,  # as many as the output's text layers
        "num_attention_heads": 4,
        "image_size": 28,
        "patch_size": 14,
    }
    text = COMMON | {"model_type": "gemma3_text", "sliding_window_pattern": 2}
    config = {"model_type": "gemma3", "text_config": text, "vision_config": vision}
    made, _ = restacked(config, [(1, 4)], stack="language_model.model.layers")
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    assert made["text_config"]["layer_types"] == kinds and made["vision_config"] == vision
    assert loaded(made, tmp_path).text_config.layer_types == kinds


@pytest.mark.parametrize(
    ("family", "ranges", "said"),
    [
        ("deepseek_v3", [(1, 4)], {"first_k_dense_replace": 1}),
        pytest.param(
            "qwen2_moe",
            [(1, 4)],
            {"decoder_sparse_step": 1, "mlp_only_layers": [1]},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_numbers_that_place_the_kinds_are_changed(family, ranges, said):
    made, _ = restacked(config_of(family), ranges)
    assert {key: made[key] for key in said} == said


@pytest.mark.parametrize(
    ("family", "which", "message"),
    [
        (
            "deepseek_v3",
            "last and first",
            r"slices: layer 3 of self would become layer 0 of the output, and it is of another kind "
            r"\(no mlp.down_proj.weight\) than config.json says there \(mlp.down_proj.weight of "
            r"shape \[16, 24\]\)\. Choose ranges in which each layer comes to",
        ),
        pytest.param(
            "gpt2",
            "twice",
            r"layer 0 of self would become layer 4 .*attn.scaling 0.5\) than .* 0.1\)",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "modernbert", "twice", r"\(no attn_norm.weight\) than", marks=pytest.mark.slow
        ),
    ],
)
def test_what_no_configuration_can_say_is_refused(family, which, message):
    with pytest.raises(MismatchError, match=message):
        restacked(config_of(family), ranges_of(4)[which], stack="layers")


def test_parts_outside_the_layers_may_depend_on_their_number():
    """Gemma 3n's table of embeddings has a width for each layer."""
    config = COMMON | {
        "model_type": "gemma3n_text",
        "hidden_size_per_layer_input": 4,
        "vocab_size_per_layer_input": 37,
        "altup_num_inputs": 2,
        "laurel_rank": 4,
        "num_kv_shared_layers": 0,
        "activation_sparsity_pattern": [0.0] * 4,
        "layer_types": ["full_attention"] * 4,
    }
    with pytest.raises(
        MismatchError,
        match=r"embed_tokens_per_layer.weight of shape \[37, 16\]; with 5 layers, config.json "
        r"describes embed_tokens_per_layer.weight of shape \[37, 20\].*slices that make 4 layers",
    ):
        restacked(config, [(0, 4), (3, 4)])


def test_settings_of_single_layers_go_with_them():
    """Gemma 4's last layer has wider heads than all others."""
    config = COMMON | {
        "model_type": "gemma4_text",
        "num_hidden_layers": 6,
        "hidden_size_per_layer_input": 0,
        "per_layer_config": {"5": {"head_dim": 8}},
    }
    made, _ = restacked(config, [(5, 6), (0, 6)])
    assert made["per_layer_config"] == {"0": {"head_dim": 8}, "6": {"head_dim": 8}}
    slide, full = "sliding_attention", "full_attention"
    assert made["layer_types"] == [full, slide, slide, slide, slide, slide, full]


def test_lists_of_runs_are_written_layer_by_layer():
    config = config_of("gpt_neo")
    made, _ = restacked(config, [(3, 4), (0, 3)], stack="transformer.h")
    assert made["attention_types"] == [
        [["local"], 1],
        [["global"], 1],
        [["local"], 1],
        [["global"], 1],
    ]
    assert restacked(config, [(0, 4)])[0] == config
    other = {key: value for key, value in config.items() if key != "attention_types"}
    # Repeats that are no number of times make no list of runs.
    odd = config | {"attention_types": [[["global"], "four"]]}
    with pytest.raises(MismatchError, match="attention_types is a list in config.json, and"):
        restack_config(config, 4, [LayerOrigin(odd, 0)], "one")
    with pytest.raises(MismatchError, match="attention_types is a list in config.json, and None"):
        restack_config(config, 4, [LayerOrigin(other, 0)], "one")
    with pytest.raises(MismatchError, match="attention_types is a list in config.json, and None"):
        restack_config(config, 4, [LayerOrigin({}, 0)], "one")


def test_a_model_may_leave_out_a_list_that_the_donor_has(tmp_path):
    short = config_of("gemma2")
    slide, full = "sliding_attention", "full_attention"
    long = short | {"layer_types": [slide, full, slide, full]}
    (tmp_path / "long").mkdir()
    make_model(tmp_path / "long", "gemma2")
    shutil.copytree(tmp_path / "long", tmp_path / "short")
    for folder, config in ((tmp_path / "long", long), (tmp_path / "short", short)):
        (folder / "config.json").write_text(json.dumps(config))
    slices = [
        {"sources": [{"model": str(tmp_path / name), "layer_range": [1, 3]}]}
        for name in ("long", "short")
    ]
    recipe = parse_recipe(yaml.safe_dump({"merge_method": "passthrough", "slices": slices}))
    base, vectors = open_recipe(recipe)
    assert base.config == long | {"layer_types": [full, slide, full, slide]}
    # The vectors are described as the output is, so that preflight finds no difference.
    assert [vector.tuned.config["layer_types"] for vector in vectors.values()] == [
        base.config["layer_types"]
    ] * 2
    assert not [one for one in check(recipe, base, vectors) if "config.json" in one.message]


def test_a_function_that_a_module_holds_is_known_by_its_name():
    layers = layers_of(config_of("modernbert"), "layers", 4)
    assert layers.facts[1]["setting", "mlp.act.act"] == "gelu"
    assert layers.facts[0]["list", "layer_types"] == "full_attention"


def test_a_stack_that_transformers_does_not_build_is_not_known():
    assert layers_of(config_of("llama"), "model.layers", 3) is None
    assert layers_of(config_of("llama") | {"hidden_act": "nobody_knows"}, "model.layers", 4) is None


def two_models(config, other, tmp_path):
    one = StackedModel("one", config, "model.layers", [frozenset({("w", (3,))})] * 4)
    two = StackedModel("two", other, "model.layers", [frozenset({("w", (3,))})] * 4)
    return one, two


def test_a_layer_that_is_merged_into_another_kind_is_refused(tmp_path):
    config = config_of("gemma2")
    one, two = two_models(config, config, tmp_path)
    made = config | {"num_hidden_layers": 4}
    moves = [Move(one, number, number, True) for number in range(4)]
    assert fitted_config(made, one, [*moves, Move(two, 2, 0, False)]) == made
    with pytest.raises(
        MismatchError, match=r"layer 3 of two would become layer 0 .*layer_types 'full_attention'"
    ):
        fitted_config(made, one, [*moves, Move(two, 3, 0, False)])


def test_a_kind_that_the_donor_lacks_needs_its_settings_too():
    """A layer with a window of 4 in a model without windows: the list alone would not do."""
    full = config_of("qwen2") | {"use_sliding_window": False}
    slide = config_of("qwen2") | {"max_window_layers": 0}
    one, two = two_models(full, slide, None)
    moves = [Move(one, 0, 0, True), Move(two, 1, 1, True)]
    made = restack_config(full, 4, [LayerOrigin(full, 0), LayerOrigin(slide, 1)], "one")
    with pytest.raises(MismatchError, match="layer 1 of two would become layer 1"):
        fitted_config(made, one, moves)
    # Settings that a whole model shares are no kind of a layer: preflight tells of them.
    moves = [
        Move(one, 0, 0, True),
        Move(two._replace(config=full | {"rms_norm_eps": 1e-3}), 1, 1, True),
    ]
    assert fitted_config(made, one, moves) == made


# --- whole models: an export's layers compute what the layers that they came from compute


def make_model(folder, family):
    from transformers import AutoModel, AutoModelForCausalLM

    config = loaded(config_of(family), folder)
    torch.manual_seed(3)
    try:
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    except ValueError:  # an encoder
        model = AutoModel.from_config(config, attn_implementation="eager")
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.3)
    model.float().save_pretrained(folder)
    # As folders on the hub are: without the lists that transformers derives.
    (folder / "config.json").write_text(
        json.dumps(
            config_of(family) | {"architectures": [type(model).__name__], "dtype": "float32"}
        )
    )


def hidden_states(folder):
    """What each layer makes of one and the same input."""
    import transformers

    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    model = getattr(transformers, name).from_pretrained(folder, attn_implementation="eager").eval()
    model.config.use_cache = False  # a cache wants at least one layer of attention
    count = model.config.get_text_config().num_hidden_layers
    layers = next(
        part
        for part in model.modules()
        if isinstance(part, torch.nn.ModuleList) and len(part) == count
    )
    given = torch.randn(1, 20, 16, generator=torch.Generator().manual_seed(5))
    seen = []

    def replace(_, args, kwargs):
        if args:
            return (given, *args[1:]), kwargs
        return args, kwargs | {"hidden_states": given}

    def keep(_, args, kwargs, output):
        seen.append((output[0] if isinstance(output, tuple) else output).detach().clone())

    for layer in layers:
        layer.register_forward_pre_hook(replace, with_kwargs=True)
        layer.register_forward_hook(keep, with_kwargs=True)
    with torch.no_grad():
        model(torch.arange(20).reshape(1, 20) % 30 + 1)
    return seen


def check_export(folder, out, ranges):
    slices = [{"sources": [{"model": str(folder), "layer_range": list(part)}]} for part in ranges]
    recipe = parse_recipe(yaml.safe_dump({"merge_method": "passthrough", "slices": slices}))
    export(recipe, *open_recipe(recipe), out)
    before, after = hidden_states(folder), hidden_states(out)
    origins = [layer for part in ranges for layer in range(*part)]
    assert len(after) == len(origins)
    for layer, states in zip(origins, after, strict=True):
        torch.testing.assert_close(states, before[layer], rtol=1e-4, atol=1e-5)


def test_the_layers_of_an_export_compute_what_they_did(tmp_path):
    folder = tmp_path / "gemma2"
    folder.mkdir()
    make_model(folder, "gemma2")
    check_export(folder, tmp_path / "out", [(1, 4), (0, 2)])


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_is_restacked_rightly_or_refused(family, tmp_path):
    folder = tmp_path / family
    folder.mkdir()
    make_model(folder, family)
    for which, ranges in ranges_of(6 if family == "gemma3_text" else 4).items():
        if which in REFUSED.get(family, ()):
            with pytest.raises(MismatchError, match="is of another kind"):
                check_export(folder, tmp_path / which, ranges)
        else:
            check_export(folder, tmp_path / which, ranges)
