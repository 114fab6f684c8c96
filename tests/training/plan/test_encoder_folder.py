"""A sentence-transformers folder from a stranger: no code of its own, no pickles, nothing outside."""

import json

import pytest

from corpus import Example
from training.errors import TrainingError
from training.plan.encoder_folder import check_encoder
from training.plan.grouping import Grouping
from training.plan.material import Lengths

MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Dense", "type": "sentence_transformers.models.Dense"},
]


@pytest.fixture
def folder(tmp_path):
    """The files of a model as the library writes them; the weights are empty."""
    (tmp_path / "1_Dense").mkdir()
    (tmp_path / "modules.json").write_text(json.dumps(MODULES))
    (tmp_path / "config.json").write_text('{"model_type": "bert", "architectures": ["a.b.C"]}')
    (tmp_path / "tokenizer.json").write_text('{"model": {"vocab": {"auto_map": 3, "type": 4}}}')
    (tmp_path / "model.safetensors").touch()
    dense = {"in_features": 3, "activation_function": "torch.nn.modules.activation.Tanh"}
    (tmp_path / "1_Dense" / "config.json").write_text(json.dumps(dense))
    (tmp_path / "1_Dense" / "model.safetensors").touch()
    return tmp_path


def test_what_the_library_writes_is_accepted(folder):
    check_encoder(folder)
    # Left by older versions beside the safetensors, which are read first.
    (folder / "pytorch_model.bin").touch()
    check_encoder(folder)


@pytest.mark.parametrize(
    ("file", "document", "words"),
    [
        ("modules.json", [{"path": "", "type": "own_code.Model"}], "type is 'own_code.Model'"),
        ("modules.json", [{"path": "", "type": "os.path.join"}], "a class of another package"),
        ("modules.json", [{"path": "../x", "type": "sentence_transformers.models.Dense"}], "outside the folder"),
        ("1_Dense/config.json", {"activation_function": "os.system"}, "activation_function is 'os.system'"),
        ("router_config.json", {"types": {"q_0": "evil.Model"}}, "types is 'evil.Model'"),
        ("config.json", {"auto_map": {"AutoModel": "m.X"}}, "'auto_map'"),
        ("config.json", {"attn_implementation": "org/x"}, "attn_implementation is 'org/x'"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": "m.X"}}, "'auto_map'"),
    ],
)  # fmt: skip
def test_code_kernels_and_paths_are_refused(folder, file, document, words):
    (folder / file).write_text(json.dumps(document))
    with pytest.raises(TrainingError) as caught:
        check_encoder(folder)
    assert words in str(caught.value)


@pytest.mark.parametrize("where", ["", "1_Dense"])
def test_pickles_are_refused(folder, where):
    (folder / where / "model.safetensors").rename(folder / where / "pytorch_model.bin")
    with pytest.raises(TrainingError, match=r"its weights are in .*pytorch_model\.bin"):
        check_encoder(folder)


def test_grouping_checks_a_folder_before_the_library_opens_it(folder, tmp_path):
    (folder / "modules.json").unlink()
    settings = {"metric": "kmeans", "count": 2, "encoder": "sentence_transformers"}
    grouping = Grouping(settings | {"model": str(folder)}, tmp_path)
    with pytest.raises(TrainingError, match=r"has no modules\.json"):
        grouping([Example("a", " b")], Lengths([2], [1], [0], [0], [1]))


def test_a_folder_of_too_many_files_is_refused(folder, monkeypatch):
    monkeypatch.setattr("training.plan.encoder_folder.MOST", 3)
    with pytest.raises(TrainingError, match="at most 3 are read"):
        check_encoder(folder)
