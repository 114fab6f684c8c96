"""One renaming that makes names the base's: by leading parts, by spelling, or not at all."""

import pytest

from merging.renaming import TwoRenamings, find_renaming
from merging.spelling import spelled

BLOCK = ("attn.q.weight", "attn.q.bias", "norm.weight", "up.weight")


def stack(path, layers=2):
    return [f"{path}.layers.{layer}.{end}" for layer in range(layers) for end in BLOCK]


def same_shapes(theirs, ours):
    return True


def rename(theirs, ours, fits=same_shapes, config=None, whole=True):
    return find_renaming(theirs, ours, fits, config=config or {}, whole=whole)


def pairs(theirs, ours, **more):
    found = rename(theirs, ours, **more)
    return found if found is None or isinstance(found, TwoRenamings) else found.names


BARE = ["wte.weight", "ln_f.weight", *(f"h.{n}.mlp.c_fc.weight" for n in range(3))]


@pytest.mark.parametrize(
    "prefix", ["transformer.", "model.", "bert.", "base_model.model.", "0.auto_model."]
)
def test_a_prefix_on_either_side_with_the_names_written_out(prefix):
    long = [prefix + name for name in BARE]
    assert rename(long, BARE) == (
        dict(zip(long, BARE, strict=True)),
        f"prefix '{prefix}' removed (tensors: 5)",
    )
    assert rename(BARE, long) == (
        dict(zip(BARE, long, strict=True)),
        f"prefix '{prefix}' added (tensors: 5)",
    )


def test_names_that_agree_need_no_renaming():
    assert rename(BARE, BARE) is None
    assert rename(BARE, [*BARE, "lm_head.weight"]) is None
    assert rename([*BARE, "lm_head.weight"], BARE) is None


def test_each_part_of_a_model_has_a_leading_part_of_its_own():
    """The layouts of llava in transformers 4 and 5; the tower is untouched in one direction only."""
    old = [*stack("language_model.model", 3), "language_model.lm_head.weight", *stack("tower")]
    new = [*stack("model.language_model", 3), "lm_head.weight", *stack("model.tower")]
    found = rename(old, new)
    assert found.names == dict(zip(old, new, strict=True))
    assert found.text == (
        "language_model.model → model.language_model (tensors: 12); "
        "tower → model.tower (tensors: 8); prefix 'language_model.' removed (tensors: 1)"
    )
    assert pairs(new, old) == dict(zip(new, old, strict=True))


def test_one_prefix_for_two_things():
    """Qwen2-VL: `model` becomes model.language_model, and `visual` becomes model.visual."""
    old = [*stack("model", 3), *stack("visual"), "lm_head.weight"]
    new = [*stack("model.language_model", 3), *stack("model.visual"), "lm_head.weight"]
    changed = dict(zip(old[:-1], new[:-1], strict=True))
    assert pairs(old, new) == changed
    assert pairs(new, old) == {b: a for a, b in changed.items()}


def test_two_stacks_alike_keep_their_names_under_a_prefix():
    both = [*stack("encoder"), *stack("decoder")]
    assert pairs(both, [f"model.{name}" for name in both]) == {n: f"model.{n}" for n in both}


def test_two_stacks_alike_under_strange_names_are_no_one_renaming():
    found = rename([*stack("left"), *stack("right")], [*stack("encoder"), *stack("decoder")])
    assert isinstance(found, TwoRenamings)
    assert {found.first.split(" → ")[0], found.second.split(" → ")[0]} <= {"left", "right"}
    assert {found.first.split(" → ")[1], found.second.split(" → ")[1]} == {"encoder", "decoder"}


def test_a_stack_that_may_be_either_of_two():
    found = rename(stack("x")[0:1], [*stack("encoder"), *stack("decoder")], whole=False)
    assert isinstance(found, TwoRenamings)


def test_shapes_decide_between_two_stacks():
    ours = [*stack("encoder"), *stack("decoder")]

    def fits(theirs, name):
        return theirs.startswith("left") == name.startswith("encoder")

    theirs = [*stack("left"), *stack("right")]
    assert pairs(theirs, ours, fits=fits) == dict(zip(theirs, ours, strict=True))


def test_the_longer_stack_decides_too():
    ours, theirs = [*stack("text", 3), *stack("eye")], [*stack("a", 3), *stack("b")]
    assert pairs(theirs, ours) == dict(zip(theirs, ours, strict=True))


def test_a_part_of_a_model_goes_where_its_own_words_are():
    """An adapter on a few layers of the language model, whose layers the vision tower has too."""
    ours = [*stack("language_model.model", 3), *stack("vision_tower.vision_model", 3)]
    theirs = stack("model.language_model", 2)
    assert pairs(theirs, ours, whole=False) == dict(zip(theirs, ours, strict=False))


def test_a_layer_is_never_renumbered():
    """Layers 1 to 3 are not layers 0 to 2 of another model, though all their names would fit."""
    ours = stack("model", 3)
    theirs = [name.replace("layers.0", "layers.3") for name in ours]
    assert rename(theirs, ours) is None
    assert rename(["x.mlp.up.weight"], ["layers.0.mlp.up.weight"]) is None
    assert rename(["layers.0.mlp.up.weight"], ["x.mlp.up.weight"]) is None


def test_layers_are_not_divided_between_two_stacks():
    theirs = stack("x", 2)
    ours = stack("encoder", 1) + stack("decoder", 2)[len(BLOCK) :]
    assert len(pairs(theirs, ours)) == len(BLOCK)  # the layer of one stack; the other stays


def test_a_parameters_own_name_says_nothing():
    assert rename(["score.weight"], ["classifier.weight"]) is None
    assert pairs(["gain"], ["model.gain"]) == {"gain": "model.gain"}
    assert pairs(["model.gain"], ["gain"]) == {"model.gain": "gain"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("e.LayerNorm.gamma", "e.LayerNorm.weight"),
        ("e.LayerNorm.beta", "e.LayerNorm.bias"),
        ("conv.weight_g", "conv.parametrizations.weight.original0"),
        ("conv.weight_v", "conv.parametrizations.weight.original1"),
        ("_orig_mod.layers.0.up.weight", "layers.0.up.weight"),
        ("layers.0._fsdp_wrapped_module.up.weight", "layers.0.up.weight"),
        ("layers.0._checkpoint_wrapped_module.up.weight", "layers.0.up.weight"),
    ],
)
def test_old_spellings_with_and_without_a_prefix(old, new):
    assert spelled(old) == spelled(new) == new
    assert pairs([old], [new]) == {old: new}
    assert pairs([new], [old]) == {new: old}
    found = rename([f"bert.{old}", "bert.pooler.weight"], [new, "pooler.weight"])
    assert found.names == {f"bert.{old}": new, "bert.pooler.weight": "pooler.weight"}
    assert found.text == (
        f"prefix 'bert.' removed (tensors: 2); names respelled: 1, such as bert.{old} → {new}"
    )


def test_two_tensors_never_get_one_name():
    assert rename(["n.gamma", "n.weight"], ["m.n.weight", "m.n.bias"]) is None


def test_transformers_is_asked_for_names_that_differ_inside():
    """ViT's layers, which version 5 renames when it loads a file of version 4."""
    old = [
        f"encoder.layer.{n}.attention.attention.{part}.weight"
        for n in range(2)
        for part in ("query", "key", "value")
    ]
    new = [f"layers.{n}.attention.{part}_proj.weight" for n in range(2) for part in "qkv"]
    assert rename(old, new) is None
    config = {"architectures": ["ViTModel"], "model_type": "vit", "n": {"model_type": 3}}
    found = rename(old, new, config=config)
    assert found.names == dict(zip(old, new, strict=True))
    assert found.text.startswith("names respelled, as transformers does on loading: 6, such as ")
    assert pairs(new, old, config=config) == dict(zip(new, old, strict=True))
    assert rename(["a.b.weight"], ["c.d.weight"], config={"model_type": "no such"}) is None


def test_a_head_beside_a_renamed_model_is_left_for_who_asks():
    found = pairs(["bert.pooler.dense.weight", "classifier.weight"], ["pooler.dense.weight", "x.y"])
    assert found == {"bert.pooler.dense.weight": "pooler.dense.weight"}


def test_a_spelling_that_explains_no_more_changes_nothing():
    theirs, ours = ["vit.pooler.dense.weight", "odd.weight"], ["pooler.dense.weight", "x.y"]
    found = rename(theirs, ours, config={"architectures": ["ViTModel"], "model_type": "vit"})
    assert found == rename(theirs, ours)
    assert "transformers" not in found.text
