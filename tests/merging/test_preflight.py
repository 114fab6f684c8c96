"""Preflight finds every problem of folders at once, and says what to do."""

import json

import pytest
import torch

from merging import Checkpoint, DistributionVector, Recipe, check, open_recipe, preflight
from merging.errors import CheckpointError, MismatchError
from merging.preflight import code_keys, relationship

CONFIG = {"model_type": "llama", "hidden_size": 7, "num_hidden_layers": 3, "rope_theta": 10000.0}
QUERY = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def base(tmp_path, llama, write):
    weights = llama()
    write(tmp_path / "base", weights, CONFIG)
    return weights


@pytest.fixture
def folder(tmp_path, base, tuned, write):
    def make(name, weights=None, **config):
        return write(tmp_path / name, tuned(base, 1) if weights is None else weights, CONFIG | config)

    return make


def tokenizer(folder, vocabulary, **more):
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}, **more}))


def problems(tmp_path, *paths):
    return preflight(tmp_path / "base", paths).problems


def test_a_fine_tune_of_this_base_has_no_problems(tmp_path, folder, adapter, base):
    adapter(tmp_path / "lora", base, [QUERY])
    opened = preflight(tmp_path / "base", [folder("cot"), tmp_path / "lora"])
    assert opened.problems == [] and list(opened.vectors) == ["cot", "lora"]


def test_all_problems_come_at_once_and_what_is_sound_is_opened(tmp_path, folder, llama):
    (tmp_path / "empty").mkdir()
    paths = [folder("sound"), tmp_path / "empty", folder("stranger", llama(9)), folder("moved", rope_theta=5e5)]
    opened = preflight(tmp_path / "base", paths)
    assert [(problem.severity, problem.subject) for problem in opened.problems] == [
        ("error", "empty"),
        ("error", "stranger"),
        ("warning", "moved"),
    ]
    assert list(opened.vectors) == ["sound", "stranger", "moved"]


def test_names_are_given_or_made_unique(tmp_path, folder):
    (tmp_path / "run2").mkdir()
    one, two = folder("run1/final"), folder("run2/final")
    assert list(preflight(tmp_path / "base", [one, two]).vectors) == ["final", "final-2"]
    assert list(preflight(tmp_path / "base", [one, two], ["a", "b"]).vectors) == ["a", "b"]


def test_an_unreadable_base_ends_it(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        preflight(tmp_path / "nowhere", [])


@pytest.mark.parametrize(
    ("config", "severity", "message"),
    [
        ({"hidden_size": 8}, "error", "x: config.json says hidden_size = 8, the base says 7. Choose the base"),
        ({"model_type": "qwen2"}, "error", "says model_type = 'qwen2', the base says 'llama'"),
        ({"rope_theta": 5e5}, "warning", "rope_theta = 500000.0, the base says 10000.0. The export follows the base"),
    ],
)
def test_configurations_that_differ(tmp_path, folder, config, severity, message):
    (problem,) = problems(tmp_path, folder("x", **config))
    assert (problem.severity, problem.subject) == (severity, "x") and message in problem.message


def test_a_key_that_only_one_configuration_has_says_nothing(tmp_path, folder):
    assert problems(tmp_path, folder("x", num_attention_heads=4)) == []


class TestTokenizers:
    def test_the_same_vocabulary_is_no_problem(self, tmp_path, folder):
        for place in (tmp_path / "base", folder("x")):
            tokenizer(place, {"a": 0, "b": 1})
        assert problems(tmp_path, tmp_path / "x") == []

    def test_moved_ids_are_an_error(self, tmp_path, folder):
        tokenizer(tmp_path / "base", {"a": 0, "b": 1, "c": 2})
        tokenizer(folder("x"), {"a": 0, "b": 2, "c": 1})
        (problem,) = problems(tmp_path, tmp_path / "x")
        assert problem.severity == "error"
        assert "x: 2 tokens have other ids than in the base: 'b' is 2, in the base 1." in problem.message

    def test_added_and_lacking_tokens_are_a_warning(self, tmp_path, folder):
        tokenizer(tmp_path / "base", {"a": 0, "b": 1})
        tokenizer(folder("x"), {"a": 0}, added_tokens=[{"content": "<|im|>", "id": 5}])
        (problem,) = problems(tmp_path, tmp_path / "x")
        assert problem.severity == "warning" and "adds 1 tokens (<|im|>) and lacks 1" in problem.message

    def test_only_lacking_tokens(self, tmp_path, folder):
        tokenizer(tmp_path / "base", {"a": 0, "b": 1})
        tokenizer(folder("x"), {"a": 0})
        (problem,) = problems(tmp_path, tmp_path / "x")
        assert "adds 0 tokens (none) and lacks 1" in problem.message

    def test_a_unigram_vocabulary_is_numbered_by_position(self, tmp_path, folder):
        tokenizer(tmp_path / "base", [["a", -1.0], ["b", -2.0]])
        tokenizer(folder("x"), [["b", -1.0], ["a", -2.0]])
        (problem,) = problems(tmp_path, tmp_path / "x")
        assert "2 tokens have other ids" in problem.message

    @pytest.mark.parametrize("document", [{}, {"model": {"vocab": [[]]}}, {"model": 1}, {"model": {"vocab": 3}}])
    def test_a_broken_tokenizer_is_named(self, tmp_path, folder, document):
        tokenizer(tmp_path / "base", {"a": 0})
        (folder("x") / "tokenizer.json").write_text(json.dumps(document))
        (problem,) = problems(tmp_path, tmp_path / "x")
        assert problem.severity == "error" and "is not a tokenizer of the tokenizers library" in problem.message


def test_a_checkpoint_of_another_base_is_an_error(tmp_path, folder, llama):
    (problem,) = problems(tmp_path, folder("x", llama(9)))
    assert problem.severity == "error" and "x is a checkpoint of another base" in problem.message.replace(
        f" ({tmp_path / 'x'})", ""
    )
    assert "dem.allow_unrelated: true" in problem.message


def test_the_cosine_of_related_weights_by_hand():
    base = {
        "norm": torch.ones(4),
        "a": torch.tensor([[3.0, 4.0]]),
        "b": torch.tensor([[1.0, 0.0]]),
        "zero": torch.zeros(2, 2),
    }
    tuned = base | {"a": torch.tensor([[4.0, 3.0]]), "norm": -torch.ones(4)}
    assert relationship(base, tuned) == (1.0, "b")  # of 0.96 and 1, the upper median; norms and zeros are left out
    cosine, name = relationship({"a": base["a"]}, tuned)
    assert cosine == pytest.approx(24 / 25) and name == "a"


def test_without_a_matrix_nothing_is_said_of_descent(tmp_path, write):
    write(tmp_path / "base", {"w": torch.ones(3)}, {})
    write(tmp_path / "x", {"w": -torch.ones(3)}, {})
    assert relationship(Checkpoint(tmp_path / "base"), Checkpoint(tmp_path / "x")) == (None, "")
    assert problems(tmp_path, tmp_path / "x") == []


class TestOfTheBase:
    def test_code_is_never_run_and_said(self, tmp_path, base):
        config = CONFIG | {"auto_map": {"AutoModel": "evil.Model"}}
        (tmp_path / "base" / "config.json").write_text(json.dumps(config))
        (problem,) = problems(tmp_path)
        assert problem.severity == "warning" and problem.subject == "base"
        assert "asks for code from the folder (auto_map). It is never run here" in problem.message

    def test_a_quantised_base_is_an_error(self, tmp_path, base):
        (tmp_path / "base" / "config.json").write_text(json.dumps(CONFIG | {"quantization_config": {"bits": 4}}))
        (problem,) = problems(tmp_path)
        assert problem.severity == "error" and "Give the full-precision model as the base" in problem.message

    def test_code_is_found_at_any_depth(self):
        assert code_keys({"text": [{"auto_map": {"a": 1}}], "trust_remote_code": True, "custom_pipelines": {}}) == [
            "trust_remote_code",
            "auto_map",
        ]


class TestCheckOfARecipe:
    def recipe(self, tmp_path, name, text=""):
        return Recipe.from_yaml(
            f"merge_method: task_arithmetic\nbase_model: {tmp_path}/base\n"
            f"models: [{{model: {tmp_path}/{name}, parameters: {{weight: 1}}}}]\n{text}"
        )

    def test_all_errors_come_in_one_message(self, tmp_path, folder):
        tokenizer(tmp_path / "base", {"a": 0, "b": 1})
        tokenizer(folder("x", hidden_size=8, model_type="gpt2"), {"a": 1, "b": 0})
        recipe = self.recipe(tmp_path, "x")
        with pytest.raises(MismatchError) as caught:
            check(recipe, *open_recipe(recipe))
        assert [line.split(":")[0] for line in str(caught.value).splitlines()] == ["x", "x", "x"]

    def test_warnings_are_returned(self, tmp_path, folder):
        folder("x", rope_theta=5e5)
        recipe = self.recipe(tmp_path, "x")
        (problem,) = check(recipe, *open_recipe(recipe))
        assert problem.severity == "warning"

    def test_a_stranger_is_refused_unless_allowed(self, tmp_path, folder, llama):
        folder("x", llama(9))
        recipe = self.recipe(tmp_path, "x")
        with pytest.raises(MismatchError, match="checkpoint of another base"):
            check(recipe, *open_recipe(recipe))
        allowed = self.recipe(tmp_path, "x", "dem: {allow_unrelated: true}")
        assert check(allowed, *open_recipe(allowed)) == []

    def test_an_average_may_be_of_strangers(self, tmp_path, folder, llama):
        folder("x", llama(9))
        recipe = Recipe.from_yaml(self.recipe(tmp_path, "x").to_yaml().replace("task_arithmetic", "linear"))
        assert check(recipe, *open_recipe(recipe)) == []

    def test_vectors_in_memory_have_no_folder_to_compare(self, tmp_path, base, tuned):
        recipe = self.recipe(tmp_path, "x")
        vector = DistributionVector("x", base, tuned(base, 1))
        assert check(recipe, Checkpoint(tmp_path / "base"), {"x": vector}) == []
