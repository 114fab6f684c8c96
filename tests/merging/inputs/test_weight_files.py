"""Weights in the sub-folders of a model's modules are a part of the model."""

import json

import pytest
import torch
from safetensors.torch import save_file

from merging import Checkpoint, CheckpointError, Recipe, open_recipe
from merging.inputs.vector import DistributionVector
from merging.inputs.weight_files import folder_of, module_folders, module_notes


@pytest.fixture
def embedder(llama, write):
    """A function that writes a model of sentence-transformers: a network, pooling, a dense layer."""

    def make(folder, *, dense=(5, 7), seed=0, named="2_Dense"):
        write(folder, llama(seed), {"model_type": "llama"})
        modules = [{"path": ""}, {"path": "1_Pooling"}]
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text("{}")
        if dense:
            modules.append({"path": named, "type": "sentence_transformers.models.Dense"})
            (folder / named).mkdir(parents=True)
            (folder / named / "config.json").write_text("{}")
            random = torch.Generator().manual_seed(seed)
            weights = {
                "linear.weight": torch.randn(dense, generator=random),
                "linear.bias": torch.randn(dense[0], generator=random),
            }
            save_file(weights, folder / named / "model.safetensors")
        (folder / "modules.json").write_text(json.dumps(modules))
        return folder

    return make


def test_the_tensors_of_a_module_have_its_folder_in_their_name(tmp_path, embedder, bits):
    opened = Checkpoint(embedder(tmp_path / "m"))
    assert opened.folders == ("2_Dense",)
    assert [name for name in opened if "/" in name] == [
        "2_Dense/linear.bias",
        "2_Dense/linear.weight",
    ]
    random = torch.Generator().manual_seed(0)
    assert bits(opened["2_Dense/linear.weight"], torch.randn((5, 7), generator=random))
    assert folder_of("2_Dense/linear.weight", opened.folders) == "2_Dense"
    assert folder_of("encoder/kernel", opened.folders) == ""


def test_the_digest_covers_the_modules(tmp_path, embedder):
    one, other = (Checkpoint(embedder(tmp_path / name)) for name in "ab")
    assert one.digest == other.digest
    weights = {"linear.weight": torch.zeros(5, 7), "linear.bias": torch.zeros(5)}
    save_file(weights, tmp_path / "b" / "2_Dense" / "model.safetensors")
    changed = Checkpoint(tmp_path / "b")
    assert changed.digest != one.digest
    assert changed.sampled_digest == one.sampled_digest  # earlier versions did not see it


def test_nested_modules_and_indexes_are_read(tmp_path, embedder):
    folder = embedder(tmp_path / "m", named="1_Router/query_0_Dense")
    (folder / "modules.json").write_text(json.dumps([{"path": ""}, {"path": "./1_Router/"}]))
    inner = folder / "1_Router" / "document_0_Dense"
    inner.mkdir()
    save_file({"a": torch.ones(2)}, inner / "model-1.safetensors")
    save_file({"b": torch.ones(3)}, inner / "model-2.safetensors")
    weight_map = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (inner / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    opened = Checkpoint(folder)
    assert opened.folders == ("1_Router/document_0_Dense", "1_Router/query_0_Dense")
    assert opened["1_Router/document_0_Dense/b"].shape == (3,)
    save_file({"b": torch.ones(3), "c": torch.ones(1)}, inner / "model-2.safetensors")
    with pytest.raises(
        CheckpointError, match="document_0_Dense/model.safetensors.index.json does not list"
    ):
        Checkpoint(folder)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ["pytorch_model.bin"],
            "2_Dense is a part of the model and holds pytorch_model.bin, no",
        ),
        (["flax_model.msgpack"], "holds flax_model.msgpack, no safetensors"),
        (["a.safetensors", "b.safetensors"], "but no model.safetensors.index.json that says"),
    ],
)
def test_other_weights_of_a_module_are_refused_by_its_name(tmp_path, embedder, files, message):
    folder = embedder(tmp_path / "m")
    (folder / "2_Dense" / "model.safetensors").unlink()
    for name in files:
        save_file({"w": torch.ones(1)}, folder / "2_Dense" / name)
    with pytest.raises(CheckpointError, match=message):
        Checkpoint(folder)


def test_other_formats_beside_a_modules_safetensors_are_left_alone(tmp_path, embedder):
    folder = embedder(tmp_path / "m")
    for name in (
        "onnx/model.onnx",
        "openvino/model.bin",
        "openvino/model.xml",
        "pytorch_model.bin",
    ):
        file = folder / "2_Dense" / name
        file.parent.mkdir(exist_ok=True)
        file.touch()
    save_file({"w": torch.ones(1)}, folder / "2_Dense" / "model_fp16.safetensors")
    assert [name for name in Checkpoint(folder) if "/" in name] == [
        "2_Dense/linear.bias", "2_Dense/linear.weight",
    ]  # fmt: skip


@pytest.mark.parametrize("path", ["../other", "/etc", "a/../../b"])
def test_a_module_outside_the_folder_is_refused(tmp_path, embedder, path):
    folder = embedder(tmp_path / "m")
    (folder / "modules.json").write_text(json.dumps([{"path": path}]))
    with pytest.raises(CheckpointError, match="not the name of a sub-folder. It is not followed"):
        Checkpoint(folder)


@pytest.mark.parametrize("document", [{"a": 1}, [1, {"path": 2}, {}], "x"])
def test_a_modules_json_of_another_form_names_nothing(tmp_path, document):
    (tmp_path / "modules.json").write_text(json.dumps(document))
    assert module_folders(tmp_path) == []


def test_a_pipeline_without_weights_on_top_is_refused_with_its_parts(tmp_path):
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "safety_checker": [None, None],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "sizes": [1, 2],
    }
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    (tmp_path / "feature_extractor").mkdir()
    for part in ("unet", "vae"):
        (tmp_path / part).mkdir()
        file = tmp_path / part / "diffusion_pytorch_model.safetensors"
        save_file({"w": torch.ones(1)}, file)
    assert module_folders(tmp_path) == ["unet", "vae", "feature_extractor"]
    with pytest.raises(CheckpointError, match="only in its parts: unet, vae. Merge the parts one"):
        Checkpoint(tmp_path)
    assert list(Checkpoint(tmp_path / "unet")) == ["w"]
    (tmp_path / "model_index.json").write_text("[]")
    assert module_folders(tmp_path) == []


def test_a_module_that_one_side_lacks_is_kept_or_left_out_and_told(tmp_path, embedder, bits):
    base = Checkpoint(embedder(tmp_path / "base"))
    plain = Checkpoint(embedder(tmp_path / "plain", dense=None, seed=1))
    vector = DistributionVector("plain", base, plain)
    name = "2_Dense/linear.weight"
    assert name not in vector and "lm_head.weight" in vector
    assert bits(vector.weights_block(name, 0, 35), base[name].flatten())
    out, scratch = torch.empty(35), torch.empty(1000, dtype=torch.uint8)
    vector.read_weights(name, 0, out, scratch)
    assert bits(out, base[name].flatten())
    assert vector.notes == (
        "it has no weights in 2_Dense, a part of the base, which is kept as it is.",
    )
    turned = DistributionVector("dense", plain, base)
    assert list(turned) == list(plain) and "are left out" in turned.notes[0]
    assert module_notes(base, base) == module_notes({}, {}) == ()


def test_a_module_of_another_shape_is_refused(tmp_path, embedder):
    embedder(tmp_path / "base")
    embedder(tmp_path / "other", dense=(3, 7))
    recipe = Recipe.compose(tmp_path / "base", {"o": tmp_path / "other"}, {"o": 1.0})
    with pytest.raises(Exception, match=r"'2_Dense/linear.(bias|weight)' has shape"):
        open_recipe(recipe)
