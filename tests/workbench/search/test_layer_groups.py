"""Groups of layers by name, and the rules that give each tensor its group."""

import pytest

from merging.recipe.settings import resolve
from workbench.search.layer_groups import groups_of, in_order, rules_of

LLAMA = [
    "model.embed_tokens.weight",
    *(
        f"model.layers.{layer}.{part}.weight"
        for layer in range(12)
        for part in ("self_attn.q_proj", "mlp.down_proj", "input_layernorm")
    ),
    "model.norm.weight",
    "lm_head.weight",
]
T5 = [
    "shared.weight",
    *(
        f"{side}.block.{layer}.layer.0.q.weight"
        for side in ("encoder", "decoder")
        for layer in (0, 1)
    ),
    "decoder.final_layer_norm.weight",
]
# One name is a part of another one, and a layer's name is in one outside of it.
AWKWARD = ["h.1.w", "h.0.w", "h.2.w", "x.h.1.w.scale", "w", "h.1.wide", "lm_head.weight"]


def test_by_depth_there_are_thirds_and_what_lies_outside():
    groups = groups_of(LLAMA, "depth")
    assert groups["model.embed_tokens.weight"] == "embeddings"
    assert groups["model.norm.weight"] == groups["lm_head.weight"] == "head"
    thirds = [groups[f"model.layers.{layer}.mlp.down_proj.weight"] for layer in range(12)]
    assert thirds == ["early layers"] * 4 + ["middle layers"] * 4 + ["late layers"] * 4
    assert in_order(set(groups.values()), "depth") == [
        "embeddings", "early layers", "middle layers", "late layers", "head",
    ]  # fmt: skip
    sides = groups_of(T5, "depth")
    assert sides["encoder.block.0.layer.0.q.weight"] == "early layers"
    assert sides["decoder.block.1.layer.0.q.weight"] == "middle layers"


def test_by_part_the_words_of_the_name_decide():
    groups = groups_of(LLAMA, "part")
    assert groups["model.layers.3.self_attn.q_proj.weight"] == "attention"
    assert groups["model.layers.3.input_layernorm.weight"] == "norms"
    assert in_order({"mlp", "attention", "head"}, "part") == ["attention", "mlp", "head"]


@pytest.mark.parametrize("by", ["depth", "part"])
@pytest.mark.parametrize("names", [LLAMA, T5, AWKWARD], ids=["llama", "t5", "awkward"])
def test_the_rules_give_each_tensor_its_group(names, by):
    groups = groups_of(names, by)
    values = {group: float(number) for number, group in enumerate(sorted(set(groups.values())), 1)}
    rules = [{"filter": part, "value": values[group]} for part, group in rules_of(groups, by)]
    for name, group in groups.items():
        assert resolve(rules, name, 0.5) == values[group]


def test_the_rules_are_few_where_names_allow_it():
    assert len(rules_of(groups_of(LLAMA, "depth"), "depth")) == 12 + 3
    assert len(rules_of(groups_of(LLAMA, "part"), "part")) == 3 + 3
