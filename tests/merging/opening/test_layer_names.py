"""Without transformers, a layer's tensors tell whether it fits its new number."""

import pytest
import torch

from merging import Checkpoint
from merging.errors import MismatchError
from merging.opening.layer_fit import fitted_config
from merging.opening.layer_names import Move, StackedModel, stacked_model
from merging.opening.stacked_config import LayerOrigin, restack_config

DENSE = frozenset({("mlp.up.weight", (11, 7)), ("norm.weight", (7,))})
SPARSE = frozenset({("experts.0.up.weight", (5, 7)), ("norm.weight", (7,))})
WIDE = frozenset({("mlp.up.weight", (13, 7)), ("norm.weight", (7,))})


def restacked(tensors, numbers, config=None, donor=None):
    """The configuration of a model that transformers does not know, restacked with itself."""
    config = {"model_type": "nobody_knows", "n_layers": len(tensors)} | (config or {})
    model = StackedModel("self", config, "blocks", tensors)
    made = restack_config(
        config, len(tensors), [LayerOrigin(config, number) for number in numbers], "self"
    )
    moves = [Move(model, number, to, True) for to, number in enumerate(numbers)]
    return fitted_config(made, donor or model, moves)


def test_layers_that_are_all_alike_go_anywhere():
    made = restacked([DENSE] * 3, [2, 0, 1, 1, 2])
    assert made == {"model_type": "nobody_knows", "n_layers": 5}


def test_a_layer_needs_the_tensors_of_its_number():
    """As DeepSeek-V3 does it: the first k layers are dense."""
    layers = [DENSE, SPARSE, SPARSE]
    assert restacked(layers, [0, 2, 1])["n_layers"] == 3
    with pytest.raises(
        MismatchError,
        match=r"slices: layer 1 of self would become layer 0 of the output, and it has "
        r"experts.0.up.weight of shape \[5, 7\], where config.json describes a layer with no "
        r"experts.0.up.weight\. Choose ranges",
    ):
        restacked(layers, [1, 2])
    with pytest.raises(
        MismatchError,
        match="layer 2 of self would become layer 3 .* is beyond the layers that config.json",
    ):
        restacked(layers, [0, 1, 2, 2])


def test_shapes_count_as_names_do():
    with pytest.raises(
        MismatchError,
        match=r"mlp.up.weight of shape \[13, 7\], where .* mlp.up.weight of shape \[11, 7\]",
    ):
        restacked([DENSE, WIDE, DENSE], [1, 0, 2])


def test_lists_that_tell_the_layers_apart_go_with_them():
    layers = [DENSE, SPARSE, SPARSE]
    made = restacked(layers, [2, 0, 1, 1], {"layer_types": ["dense", "sparse", "sparse"]})
    assert made["layer_types"] == ["sparse", "dense", "sparse", "sparse"]
    assert restacked(layers, [2, 0], {"moe_layers": [1, 2]})["moe_layers"] == [0]
    # A list that says the same of two layers with other tensors tells nothing.
    with pytest.raises(MismatchError, match="layer 1 of self would become layer 0"):
        restacked(layers, [1, 2], {"layer_types": ["full", "full", "slide"]})


def test_a_layer_keeps_its_number_and_has_other_tensors_than_the_donors():
    config = {"model_type": "llama", "num_hidden_layers": 2}
    donor = StackedModel("donor", config, "blocks", [DENSE, DENSE])
    model = StackedModel("self", config | {"use_cache": False}, "blocks", [DENSE, WIDE])
    moves = [Move(model, number, number, True) for number in range(2)]
    with pytest.raises(MismatchError, match="layer 1 of self would become layer 1"):
        fitted_config(config, donor, moves)


def test_the_tensors_of_each_layer_are_read_from_the_files(tmp_path, write, llama):
    buffers = {"model.layers.1.self_attn.rotary_emb.inv_freq": torch.ones(3)}
    write(tmp_path / "base", llama(layers=2) | buffers)
    model = stacked_model("base", Checkpoint(tmp_path / "base"), {}, 2)
    assert model.stack == "model.layers" and model.tensors[0] == model.tensors[1]
    assert ("mlp.down_proj.weight", (7, 11)) in model.tensors[0] and len(model.tensors[0]) == 9
