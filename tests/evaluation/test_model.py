"""Loading: every file tensor has a proved view, whatever transformers does to names and shapes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from evaluation import parameter_views
from evaluation.errors import LoadError, cause
from evaluation.model import Loaded, load
from merging.inputs.checkpoint import Checkpoint
from merging.live.assemble import assemble, reloader
from merging.live.live_model import View, resolve

Save = Callable[..., Path]
Build = Callable[..., Any]

FAMILIES = [
    "llama",
    "llama-tied",
    "gpt2",
    "gpt_neox",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "phi",
    "mixtral",
    "qwen3_moe",
]


def loaded(folder: Path, **options: Any) -> Loaded:
    return load(folder, checkpoint=Checkpoint(folder), **options)


def reference(folder: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    from transformers import AutoModelForCausalLM

    module: nn.Module = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, trust_remote_code=False
    )
    return module


def assert_same(one: nn.Module, other: nn.Module) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert list(ours) == list(theirs)
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype, name
        assert torch.equal(ours[name], theirs[name]), name


def write_new_values(model: Loaded, folder: Path, out: Path) -> None:
    """Random new values for every file tensor: through the views into the module, and into a folder of files."""
    generator = torch.Generator().manual_seed(7)
    out.mkdir()
    for file in folder.glob("*.json"):
        (out / file.name).write_bytes(file.read_bytes())
    for shard in folder.glob("*.safetensors"):
        tensors = {}
        for name, tensor in load_file(shard).items():
            if tensor.is_floating_point():
                tensor = torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
            tensors[name] = tensor
            if name in model.views:
                resolve(model.module, model.views[name]).copy_(tensor)
        save_file(tensors, out / shard.name, {"format": "pt"})


def rewrite(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
) -> None:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})


@pytest.mark.parametrize("family", FAMILIES)
def test_writing_through_the_views_is_loading_the_new_files(
    family: str, saved: Save, tmp_path: Path
) -> None:
    folder = saved(family)
    model = loaded(folder)
    assert (model.reloads, set(model.views)) == (False, set(Checkpoint(folder)))
    assert_same(model.module, reference(folder))
    write_new_values(model, folder, tmp_path / "new")
    assert_same(model.module, reference(tmp_path / "new"))


def test_experts_are_slices_of_fused_parameters(saved: Save) -> None:
    model = loaded(saved("mixtral"))
    experts = "model.layers.1.block_sparse_moe.experts.2"
    fused = "model.layers.1.mlp.experts"
    # 53 is the intermediate size: w1 and w3 are stacked into one matrix of 106 rows per expert
    assert model.views[f"{experts}.w1.weight"] == View(f"{fused}.gate_up_proj", (2, (0, 53)), False)
    assert model.views[f"{experts}.w3.weight"] == View(
        f"{fused}.gate_up_proj", (2, (53, 106)), False
    )
    assert model.views[f"{experts}.w2.weight"] == View(f"{fused}.down_proj", (2,), False)
    assert (len(model.views), len(list(model.module.parameters()))) == (35, 21)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_many_tensors_are_told_apart_in_half_precision(
    dtype: torch.dtype, build: Build, tmp_path: Path
) -> None:
    # bfloat16 holds integers up to 256 only, so the 303 tensors need two digits
    build("mixtral", num_hidden_layers=3, num_local_experts=31).to(dtype).save_pretrained(
        tmp_path / "a"
    )
    model = loaded(tmp_path / "a")
    assert len(model.views) == 303
    assert model.module.dtype == dtype
    write_new_values(model, tmp_path / "a", tmp_path / "b")
    assert_same(model.module, reference(tmp_path / "b", dtype))


def test_gpt2_without_prefix(saved: Save, tmp_path: Path) -> None:
    folder = saved("gpt2")
    rewrite(
        folder,
        lambda old: {name.removeprefix("transformer."): tensor for name, tensor in old.items()},
    )
    model = loaded(folder)
    assert model.views["h.0.attn.c_attn.weight"] == View(
        "transformer.h.0.attn.c_attn.weight", (), False
    )
    write_new_values(model, folder, tmp_path / "new")
    assert_same(model.module, reference(tmp_path / "new"))


def test_float32_norms_in_a_bfloat16_file(saved: Save, tmp_path: Path) -> None:
    folder = saved("llama", dtype=torch.bfloat16)
    rewrite(
        folder,
        lambda old: {name: t.float() + 1e-4 if "norm" in name else t for name, t in old.items()},
    )
    model = loaded(folder)
    assert (model.reloads, model.module.dtype) == (False, torch.bfloat16)
    write_new_values(model, folder, tmp_path / "new")
    assert_same(model.module, reference(tmp_path / "new", torch.bfloat16))


def test_sharded(saved: Save, tmp_path: Path) -> None:
    folder = saved("qwen3_moe", max_shard_size="60KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    model = loaded(folder)
    write_new_values(model, folder, tmp_path / "new")
    assert_same(model.module, reference(tmp_path / "new"))


def test_tied_head_stored_twice(saved: Save) -> None:
    folder = saved("llama-tied")
    rewrite(folder, lambda old: old | {"lm_head.weight": old["model.embed_tokens.weight"].clone()})
    model = loaded(folder)
    head, embedding = (
        resolve(model.module, model.views[name])
        for name in ("lm_head.weight", "model.embed_tokens.weight")
    )
    assert not model.reloads
    assert head.data_ptr() == embedding.data_ptr()
    assert model.notes[0].startswith(
        "lm_head.weight and model.embed_tokens.weight are one parameter in the live model"
    )


def test_tensors_that_transformers_ignores_are_noted(saved: Save) -> None:
    folder = saved("llama")
    ids, frequencies = torch.arange(11), torch.rand(13)
    rewrite(
        folder,
        lambda old: old | {"model.position_ids": ids, "model.rotary_emb.inv_freq": frequencies},
    )
    model = loaded(folder)
    assert not model.reloads
    assert "model.position_ids" not in model.views
    assert model.notes[0].startswith(
        "transformers does not use model.position_ids, model.rotary_emb.inv_freq;"
    )


def test_dtype_is_the_configurations_unless_given(saved: Save) -> None:
    folder = saved("llama", dtype=torch.float16)
    assert loaded(folder).module.dtype == torch.float16
    assert loaded(folder, dtype=torch.float32).module.dtype == torch.float32
    config = json.loads((folder / "config.json").read_text())
    del config["dtype"]
    (folder / "config.json").write_text(json.dumps(config))
    assert loaded(folder).module.dtype == torch.float16


def test_nan_weights_still_have_views(saved: Save) -> None:
    folder = saved("llama")
    rewrite(folder, lambda old: old | {"model.norm.weight": torch.full((44,), float("nan"))})
    assert not loaded(folder).reloads


class Interleaving(nn.Module):
    """Loads by interleaving rows of `a` and `b`, by turning `c`, and by scaling `d`; takes `e` as it is; drops `f`."""

    def __init__(self, tensors: Any) -> None:
        super().__init__()
        self.ab = nn.Parameter(torch.stack([tensors["a"], tensors["b"]], dim=1).flatten(0, 1))
        self.c = nn.Parameter(tensors["c"].T.contiguous())
        self.d = nn.Parameter(tensors["d"] * 1.5)
        self.e = nn.Parameter(tensors["e"].clone())


def test_what_is_no_plain_copy_is_said(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": (3, 5), "b": (3, 5), "c": (7, 7), "d": (2,), "e": (), "f": (11,)}
    save_file(
        {k: torch.randn(s, generator=generator) for k, s in shapes.items()},
        tmp_path / "model.safetensors",
    )
    checkpoint = Checkpoint(tmp_path)
    found = parameter_views.prove(
        parameter_views.find(Interleaving, checkpoint, torch.float32),
        Interleaving(dict(checkpoint)),
        checkpoint,
    )
    # the square c is found by content; a tensor whose number comes out changed may not be called ignored, nor may f then
    assert found.views == {"c": View("c", (), True), "e": View("e", (), False)}
    assert (sorted(found.unplaced), found.ignored) == (["a", "b", "d", "f"], [])
    assert parameter_views.notes(found) == [
        "loading is not a plain copy: a, b, d, f cannot be written in place, so each composition is loaded anew"
    ]


def test_assemble_loads_a_composition_anew(saved: Save) -> None:
    folder = saved("mixtral")
    doubled = {name: tensor * 2 for name, tensor in Checkpoint(folder).items()}
    module = assemble(folder, doubled, dtype=torch.float32)
    old = reference(folder)
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, old.get_parameter(name) * 2)


def test_reloader_fills_the_module_in_place(saved: Save) -> None:
    folder = saved("qwen3_moe")
    model = loaded(folder)
    places = [parameter.data_ptr() for parameter in model.module.parameters()]
    doubled = {name: tensor * 2 for name, tensor in Checkpoint(folder).items()}
    reloader(folder, model.module)(doubled.items())
    assert places == [parameter.data_ptr() for parameter in model.module.parameters()]
    assert_same(model.module, assemble(folder, doubled, dtype=torch.float32))


def test_missing_tensor_is_named(saved: Save) -> None:
    folder = saved("llama")
    rewrite(
        folder,
        lambda old: {k: v for k, v in old.items() if k != "model.layers.1.mlp.up_proj.weight"},
    )
    with pytest.raises(
        LoadError, match=r"the model needs model\.layers\.1\.mlp\.up_proj\.weight, which"
    ):
        loaded(folder)


def test_wrong_shape_is_named(saved: Save) -> None:
    folder = saved("llama")
    rewrite(folder, lambda old: old | {"model.norm.weight": torch.ones(43)})
    with pytest.raises(
        LoadError,
        match=r"model\.norm\.weight is \(43,\) in the files and \(44,\) in the model",
    ):
        loaded(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"auto_map": {"AutoModelForCausalLM": "modeling_x.X"}},
            "'auto_map', which makes a loader run code",
        ),
        (
            {"text_config": [{"trust_remote_code": True}]},
            "'trust_remote_code', which makes a loader run code",
        ),
        (
            {"quantization_config": {"quant_method": "fp8"}},
            "quantised weights, which cannot be composed",
        ),
        ({"model_type": "no-such-type"}, "no-such-type"),
        ({"num_hidden_layers": 10**9}, "names 1000000000 layers; the files hold 21 tensors"),
        ({"vocab_size": 2**40}, r"describes [0-9,]+ parameters; the files hold [0-9,]+\."),
        ({"hidden_size": -3}, "config.json"),
    ],
)
def test_hostile_configurations_are_refused(
    change: dict[str, Any], message: str, saved: Save
) -> None:
    folder = saved("llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(LoadError, match=message):
        loaded(folder)


def test_wrong_folders(saved: Save, tmp_path: Path) -> None:
    folder = saved("llama")
    with pytest.raises(LoadError, match="was to be loaded with the tensors of"):
        load(tmp_path / "other", checkpoint=Checkpoint(folder))
    (folder / "config.json").unlink()
    with pytest.raises(LoadError, match=r"has no config\.json"):
        loaded(folder)


def test_tokenizer(saved: Save, tokenizer: Any) -> None:
    folder = saved("llama")
    assert loaded(folder).tokenizer is None
    assert "holds no tokenizer" in loaded(folder).notes[-1]
    tokenizer.save_pretrained(folder)
    assert loaded(folder).tokenizer("the sky")["input_ids"] == tokenizer("the sky")["input_ids"]
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(LoadError, match="the tokenizer cannot be read: Expecting property"):
        loaded(folder)


def test_a_missing_tokenizer_file_is_named(saved: Save, tokenizer: Any) -> None:
    folder = saved("llama")
    tokenizer.save_pretrained(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(LoadError) as caught:
        loaded(folder)
    assert str(caught.value) == (
        f"{folder} has no tokenizer.json. Copy the tokenizer files (tokenizer.json, "
        "tokenizer_config.json) from the base model into it."
    )


def test_the_whole_cause_of_a_refused_configuration_is_reported(saved: Save) -> None:
    folder = saved("llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 43}))
    heads = config["num_attention_heads"]
    with pytest.raises(LoadError) as caught:
        loaded(folder)
    assert "\n" not in str(caught.value)
    assert str(caught.value) == (
        f"{folder / 'config.json'}: Class validation error for validator 'validate_architecture': "
        f"ValueError: The hidden size (43) is not a multiple of the number of attention heads "
        f"({heads}). Correct it, or copy it again from the original model."
    )


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("one:\n\n   two,\n   three.\n"), "one: two, three"),
        (KeyError("a\nb"), "a b"),
        (OSError(), "OSError"),
    ],
)
def test_a_cause_keeps_all_its_lines(error: Exception, text: str) -> None:
    assert cause(error) == text


def test_a_tokenizer_of_another_model_is_noted(
    tmp_path: Path, build: Build, tokenizer: Any
) -> None:
    build("llama", vocab_size=97).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    assert (
        f"the tokenizer knows {len(tokenizer)} tokens, the model 97"
        in loaded(tmp_path / "model").notes[-1]
    )


def test_a_broken_generation_config_is_named(saved: Save) -> None:
    folder = saved("llama")
    (folder / "generation_config.json").write_text("[1")
    with pytest.raises(
        LoadError, match=r"generation_config\.json cannot be read: .* Correct or remove it\."
    ):
        loaded(folder)


def test_loading_is_silent(saved: Save, tokenizer: Any, capfd: pytest.CaptureFixture[str]) -> None:
    folder = saved("llama")
    tokenizer.save_pretrained(folder)
    capfd.readouterr()
    loaded(folder)
    assert capfd.readouterr() == ("", "")


def test_a_module_in_a_sub_folder_is_no_part_of_the_live_model(saved: Save) -> None:
    """sentence-transformers applies its dense layers after the network."""
    folder = saved("llama")
    (folder / "2_Dense").mkdir()
    save_file({"linear.weight": torch.ones(5, 3)}, folder / "2_Dense" / "model.safetensors")
    (folder / "modules.json").write_text('[{"path": ""}, {"path": "2_Dense"}]')
    model = loaded(folder)
    assert not model.reloads and "2_Dense/linear.weight" not in model.views
    assert any("does not use 2_Dense/linear.weight" in note for note in model.notes)
    assert_same(model.module, reference(folder))
