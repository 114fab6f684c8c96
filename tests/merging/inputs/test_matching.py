"""A checkpoint under other names: renamed if one renaming fits, else refused with what differs."""

import json

import pytest
import torch
from safetensors.torch import save_file

from merging import Checkpoint, DistributionVector, MismatchError, export, merge, open_vector
from merging.inputs.matching import Renamed
from merging.inputs.saved_vector import SavedVector
from merging.outputs.vector_folder import save_vector
from merging.preflight.preflight import preflight


def under(names, tensors):
    return {names(name): value for name, value in tensors.items()}


def prefixed(prefix):
    return lambda name: prefix + name


@pytest.fixture
def pair(tmp_path, llama, tuned, write):
    """Makes a base folder, and a fine-tune's folder with renamed tensors."""

    def make(names, config=None, shards=1):
        base, fine = llama(), tuned(llama(), 1)
        write(tmp_path / "base", base, config or {})
        write(tmp_path / "cot", under(names, fine), config or {}, shards)
        return Checkpoint(tmp_path / "base"), fine

    return make


@pytest.mark.parametrize("shards", [1, 3])
def test_a_renamed_fine_tune_gives_the_same_deltas_live_and_exported(
    shards, tmp_path, pair, recipe, bits
):
    """The oracle is the plain difference, and the merge of the same tensors under their names."""
    base, fine = pair(prefixed("base_model.model."), shards=shards)
    vector = open_vector(tmp_path / "cot", base)
    assert vector.notes == (
        "its tensors were matched to the base's by renaming: prefix 'base_model.model.' removed "
        "(tensors: 30).",
    )
    assert {name: vector[name].tolist() for name in base} == {
        name: (fine[name] - base[name]).tolist() for name in base
    }
    export(recipe({"cot": 1.0}), base, {"cot": vector}, tmp_path / "out")
    written = Checkpoint(tmp_path / "out")
    assert list(written) == list(base)
    plain = merge(recipe({"cot": 1.0}), base, {"cot": DistributionVector("cot", base, fine)})
    assert all(bits(written[name], value) for name, value in plain)


def test_the_view_reads_and_hashes_as_its_checkpoint(tmp_path, pair):
    pair(prefixed("model."))
    own = Checkpoint(tmp_path / "cot")
    view = Renamed(own, {name: name.removeprefix("model.") for name in own}, "as wanted")
    assert (view.digest, view.sampled_digest, view.identity) == (
        own.digest,
        own.sampled_digest,
        own.identity,
    )
    fresh = Checkpoint(tmp_path / "cot")
    gathered = Renamed(fresh, {name: name.removeprefix("model.") for name in own}, "as wanted")
    gathered.gather_digest()
    for name in gathered:
        assert torch.equal(gathered[name], own[f"model.{name}"])
        assert gathered.info(name) == own.info(f"model.{name}")
    assert gathered.digest == own.digest and view.renaming == "as wanted"


def test_inspect_and_merge_tell_it(tmp_path, pair):
    base, _ = pair(prefixed("transformer."))
    opened = preflight(base.path, [tmp_path / "cot"])
    assert list(opened.vectors) == ["cot"]
    assert [(p.severity, p.text) for p in opened.problems if "renaming" in p.text] == [
        (
            "info",
            "cot: its tensors were matched to the base's by renaming: prefix 'transformer.' "
            "removed (tensors: 30).",
        )
    ]


def test_weights_of_another_model_under_other_names_are_still_found_out(tmp_path, llama, write):
    """The check of descent compares the renamed tensors."""
    base = write(tmp_path / "base", llama(), {})
    write(tmp_path / "other", under(prefixed("model."), llama(7)), {})
    (error,) = [p for p in preflight(base, [tmp_path / "other"]).problems if p.severity == "error"]
    assert "is a checkpoint of another base: its weights have cosine" in error.text


def test_two_renamings_are_both_named(tmp_path, llama, write):
    one = {f"layers.{n}.up.weight": torch.randn(5, 3) for n in range(2)}
    both = {
        f"{part}.{name}": value.clone()
        for part in ("encoder", "decoder")
        for name, value in one.items()
    }
    base = write(tmp_path / "base", both, {})
    write(tmp_path / "cot", under(prefixed("x."), one), {})
    with pytest.raises(
        MismatchError, match=r"cot \(.*cot\): .*fit by x → \w+coder as well as by x → \w+coder\."
    ):
        open_vector(tmp_path / "cot", Checkpoint(base))
    (error,) = [p for p in preflight(base, [tmp_path / "cot"]).problems if p.severity == "error"]
    assert error.subject == "cot" and "as well as by" in error.text


def test_added_tokens_under_other_names(tmp_path, llama, tuned, write):
    """The vocabulary is compared after renaming, and so is the shape of any other tensor."""
    base = Checkpoint(write(tmp_path / "base", llama(), {}))
    fine = tuned(llama(), 1)
    grown = fine | {
        name: torch.cat([fine[name], torch.ones(6, 7)])
        for name in ("model.embed_tokens.weight", "lm_head.weight")
    }
    write(tmp_path / "grown", under(prefixed("module."), grown), {})
    problems = preflight(base.path, [tmp_path / "grown"]).problems
    assert any("its embeddings have 37 rows, the base's 31" in p.text for p in problems)
    kept = preflight(base.path, [tmp_path / "grown"], vocabularies="base").vectors["grown"]
    assert not kept["lm_head.weight"].any() and "removed (tensors: 30)" in kept.notes[0]
    assert torch.equal(
        kept["model.norm.weight"], fine["model.norm.weight"] - base["model.norm.weight"]
    )
    other = fine | {"model.norm.weight": torch.ones(9)}
    with pytest.raises(MismatchError, match=r"'model.norm.weight' has shape 9, the base has 7"):
        DistributionVector("a", base, under(prefixed("module."), other))


def test_a_tied_head_beside_renamed_tensors(llama, tuned):
    base = llama(tied=True)
    fine = tuned(base, 1)
    stored = fine | {"lm_head.weight": fine["model.embed_tokens.weight"].clone()}
    vector = DistributionVector("a", base, under(prefixed("m."), stored))
    assert set(vector) == set(base)


# ------------------------------------------------------------------------------------------ refused


def test_what_differs_is_said_and_not_another_architecture(llama):
    base = llama()
    value = base | {"v_head.summary.weight": torch.ones(1, 7)}
    named = {f"odd.{n}": tensor for n, tensor in enumerate(base.values())}
    fused = {name: tensor for name, tensor in base.items() if "k_proj" not in name}
    fused |= {
        name.replace("k_proj", "kk"): tensor for name, tensor in base.items() if "k_proj" in name
    }
    cases = {
        "it has v_head.summary.weight, which the base lacks. These exist only in the fine": value,
        "a does not have the base's tensors .0 are shared.: .* No one renaming makes|equally": named,
        "These are equally many numbers .105. under other names": fused,
        r"after renaming: prefix 'bert.' removed .tensors: 30.\): it has pooler.weight": under(
            prefixed("bert."), base
        )
        | {"pooler.weight": torch.ones(2, 3)},
    }
    for message, tensors in cases.items():
        with pytest.raises(MismatchError, match=message) as caught:
            DistributionVector("a", base, tensors)
        assert "another architecture" not in str(caught.value)
    other = {"h.0.c.weight": torch.ones(3, 2), "wte.weight": torch.ones(3, 5)}
    with pytest.raises(MismatchError, match=r"\(0 are shared\).*No one renaming makes its names"):
        DistributionVector("a", base, other)


# --------------------------------------------------------------------------------- vectors and files


def test_a_saved_vector_is_read_on_a_base_with_other_names(tmp_path, llama, tuned, write):
    base, fine = llama(), tuned(llama(), 1)
    save_vector(DistributionVector("cot", base, fine), tmp_path / "saved")
    other = Checkpoint(write(tmp_path / "other", under(prefixed("transformer."), base), {}))
    vector = SavedVector(tmp_path / "saved", other)
    assert set(vector) == set(other) and "prefix 'transformer.' added" in vector.notes[0]
    name = "model.norm.weight"
    assert torch.equal(vector[f"transformer.{name}"], fine[name] - base[name])


@pytest.mark.slow
def test_transformers_loads_both_names_as_one_model(tmp_path):
    """The oracle: the parameters that transformers fills from the old names and the new ones."""
    from transformers import BertConfig, BertModel, Wav2Vec2Config, Wav2Vec2Model

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    bert = BertModel(BertConfig(vocab_size=31, intermediate_size=23, **sizes))
    speech = Wav2Vec2Model(
        Wav2Vec2Config(
            intermediate_size=23,
            conv_dim=(8,),
            conv_stride=(2,),
            conv_kernel=(3,),
            num_feat_extract_layers=1,
            num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
            **sizes,
        )
    )
    old = {
        "LayerNorm.weight": "LayerNorm.gamma",
        "LayerNorm.bias": "LayerNorm.beta",
        "parametrizations.weight.original0": "weight_g",
        "parametrizations.weight.original1": "weight_v",
    }
    for kind, model in (("bert.", bert), ("wav2vec2.", speech)):
        model.save_pretrained(tmp_path / kind / "new")
        new = Checkpoint(tmp_path / kind / "new")
        names = {name: name for name in new}
        for now, before in old.items():
            names = {name: before_now.replace(now, before) for name, before_now in names.items()}
        (tmp_path / kind / "old").mkdir()
        tensors = {kind + names[name]: new[name] + 1 for name in new}
        save_file(tensors, tmp_path / kind / "old" / "model.safetensors", {"format": "pt"})
        config = json.loads((tmp_path / kind / "new" / "config.json").read_text())
        (tmp_path / kind / "old" / "config.json").write_text(json.dumps(config))
        assert {names[name] for name in new} != set(new)
        loaded = type(model).from_pretrained(tmp_path / kind / "old").state_dict()
        vector = open_vector(tmp_path / kind / "old", new)
        assert "respelled" in vector.notes[0]
        for name in vector:
            torch.testing.assert_close(vector[name], loaded[name] - model.state_dict()[name])
