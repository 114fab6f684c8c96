"""What differs between the configurations of a fine-tune and its base, and what does not."""

import json

import pytest

from merging import Checkpoint, preflight
from merging.errors import CheckpointError
from merging.preflight import configs
from merging.preflight.configs import configurations


class Folder:
    """A model of which only the configuration is asked."""

    def __init__(self, path, config):
        self.path, self.config = path, config


def told(tmp_path, base, tuned, model_type="llama"):
    """(severity, text up to the advice) of each difference."""
    sides = [Folder(tmp_path, {"model_type": model_type} | config) for config in (base, tuned)]
    return [
        (problem.severity, problem.message) for problem in configurations(sides[0], "cot", sides[1])
    ]


@pytest.mark.parametrize(
    ("model_type", "base", "tuned"),
    [
        ("llama", {"rope_theta": 1e4}, {"rope_parameters": {"rope_theta": 10000}}),
        ("llama", {}, {"rope_theta": 10000.0, "rope_scaling": None}),
        (
            "llama",
            {"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0}},
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
        ),
        ("gemma2", {}, {"tie_word_embeddings": True, "attn_logit_softcapping": 50.0}),
        ("gemma3", {}, {"text_config": {"model_type": "gemma3_text", "rope_theta": 1e6}}),
        ("cohere", {"logit_scale": 0.0625}, {"transformers_version": "5.0.0"}),
        ("llama", {"torch_dtype": "float16"}, {"dtype": "bfloat16", "use_cache": False}),
        ("nobody_knows", {"scale": 2}, {"scale": 2.0, "other": None}),
    ],
)
def test_two_ways_to_say_the_same_are_no_difference(tmp_path, model_type, base, tuned):
    assert told(tmp_path, base, tuned, model_type) == told(tmp_path, tuned, base, model_type) == []


@pytest.mark.parametrize(
    ("model_type", "base", "tuned", "message"),
    [
        (
            "llama",
            {"rope_theta": 1e4},
            {"rope_theta": 5e5},
            "says rope_parameters.rope_theta = 500000.0, the base says 10000.0.",
        ),
        (
            "llama",
            {},
            {"rope_parameters": {"rope_theta": 5e5}},
            "says rope_parameters.rope_theta = 500000.0, the base does not have it (default 10000.0).",
        ),
        (
            "mistral",
            {"sliding_window": 128},
            {},
            "does not have sliding_window (default 4096), the base says 128.",
        ),
        (
            "llama",
            {},
            {"hidden_act": "gelu"},
            "says hidden_act = 'gelu', the base does not have it (default 'silu').",
        ),
        (
            "gemma2",
            {},
            {"final_logit_softcapping": 20.0},
            "says final_logit_softcapping = 20.0, the base does not have it (default 30.0).",
        ),
        (
            "gpt2",
            {},
            {"layer_norm_epsilon": 1e-6},
            "says layer_norm_epsilon = 1e-06, the base does not have it (default 1e-05).",
        ),
        (
            "granite",
            {"logits_scaling": 8.0},
            {"logits_scaling": 4.0},
            "says logits_scaling = 4.0, the base says 8.0.",
        ),
        (
            "gemma3",
            {"text_config": {"model_type": "gemma3_text"}},
            {"text_config": {"model_type": "gemma3_text", "sliding_window": 77}},
            "says text_config.sliding_window = 77, the base does not have it (default 4096).",
        ),
        (
            "llava",
            {},
            {"vision_feature_layer": -1},
            "says vision_feature_layer = -1, the base does not have it (default -2).",
        ),
        (
            "gemma2",
            {"num_hidden_layers": 6},
            {"num_hidden_layers": 6, "layer_types": ["sliding_attention"] * 6},
            "says layer_types[1] = 'sliding_attention', the base says 'full_attention'.",
        ),
        (
            "llama",
            {"eos_token_id": 2},
            {"eos_token_id": [2, 7]},
            "says eos_token_id = [2, 7], the base says 2.",
        ),
        (
            "llama",
            {},
            {"tie_word_embeddings": True},
            "says tie_word_embeddings = True, the base does not have it (default False).",
        ),
        # Without transformers the documents themselves are compared.
        (
            "nobody_knows",
            {"parts": {"scale": 2, "kept": 1}},
            {"parts": {"scale": 3, "kept": 1}},
            "says parts.scale = 3, the base says 2.",
        ),
        ("nobody_knows", {}, {"scale": 3}, "says scale = 3, the base does not have it."),
        ("nobody_knows", {"scale": 3}, {}, "does not have scale, the base says 3."),
        (
            "nobody_knows",
            {},
            {"hidden_size": 8},
            "says hidden_size = 8, the base does not have it.",
        ),
    ],
)
def test_what_changes_the_function_is_a_warning(tmp_path, model_type, base, tuned, message):
    assert told(tmp_path, base, tuned, model_type) == [("warning", f"cot: config.json {message}")]


@pytest.mark.parametrize(
    ("base", "tuned", "severity", "message"),
    [
        (
            {"num_attention_heads": 8},
            {"num_attention_heads": 16, "head_dim": 512},
            "error",
            "says num_attention_heads = 16, the base says 8.",
        ),
        ({}, {"pad_token_id": 0}, "info", "says pad_token_id = 0, the base does not have it"),
        ({}, {"attention_dropout": 0.5}, "info", "says attention_dropout = 0.5, the base does"),
        ({}, {"sliding_windows": [7]}, "info", "says sliding_windows = [7], the base does not"),
    ],
)
def test_other_differences_are_errors_or_notes(tmp_path, base, tuned, severity, message):
    first, *_ = told(tmp_path, base, tuned)
    assert first[0] == severity and message in first[1]


def test_another_architecture_is_one_problem_and_its_sizes(tmp_path):
    sides = [
        Folder(tmp_path, {"model_type": "llama", "hidden_size": 7, "rope_theta": 1e4}),
        Folder(tmp_path, {"model_type": "qwen2", "hidden_size": 8, "use_sliding_window": True}),
    ]
    problems = configurations(sides[0], "x", sides[1])
    assert [problem.severity for problem in problems] == ["error"] * 2
    assert "says model_type = 'qwen2', the base says 'llama'" in problems[0].message


def test_a_class_may_have_no_defaults():
    """transformers' configuration of Nougat cannot be made without its parts."""
    from transformers import NougatConfig

    assert configs._defaults(NougatConfig) == {}


def test_keys_inside_lists_are_found(tmp_path):
    base = {"parts": [{"scale": 2}]}
    assert told(tmp_path, base, {"parts": [{"scale": 3}]}, "nobody_knows")[0][0] == "warning"
    message = "cot: config.json says rope_parameters.rope_theta = 10000.0, the base says 500000.0."
    tuned = {"layers": [{"rope_theta": 1}]}
    assert ("warning", message) in told(tmp_path, {"rope_theta": 5e5}, tuned)


def test_long_values_are_cut(tmp_path):
    ((_, message),) = told(tmp_path, {}, {"words": ["word"] * 99}, "nobody_knows")
    assert len(message) < 220 and "…" in message


def test_equal_configurations_need_no_transformers(tmp_path, monkeypatch):
    monkeypatch.setattr(configs, "loaded_config", lambda document: 1 / 0)
    assert told(tmp_path, {"a": 1, "_name_or_path": "x"}, {"a": 1, "use_cache": False}) == []
    assert (
        configurations(Folder(tmp_path, {}), "x", Folder(tmp_path, {"model_type": "llama"})) == []
    )


class TestEnds:
    """Which tokens end an answer: generation_config.json decides, or else config.json."""

    def folder(self, root, config=None, generation=None):
        root.mkdir()
        if generation is not None:
            (root / "generation_config.json").write_text(json.dumps(generation))
        return Folder(root, config or {})

    @pytest.mark.parametrize(
        ("base", "tuned", "message"),
        [
            (
                (None, {"eos_token_id": 2}),
                (None, {"eos_token_id": [7, 2]}),
                "cot: generation_config.json says eos_token_id = [2, 7], the base says 2.",
            ),
            (
                ({"eos_token_id": 2}, None),
                (None, {"eos_token_id": 7}),
                "cot: generation_config.json says eos_token_id = 7, the base (config.json) says 2.",
            ),
            (
                (None, {"eos_token_id": 2}),
                ({"text_config": {"eos_token_id": 7}}, None),
                "cot: config.json says eos_token_id = 7, the base (generation_config.json) says 2.",
            ),
            (
                (None, {"eos_token_id": 2}),
                (None, []),
                "cot: generation_config.json says eos_token_id = nothing, the base says 2.",
            ),
        ],
    )
    def test_other_ends_are_a_warning(self, tmp_path, base, tuned, message):
        sides = self.folder(tmp_path / "base", *base), self.folder(tmp_path / "cot", *tuned)
        ends = [
            problem
            for problem in configurations(sides[0], "cot", sides[1])
            if "ends its answers" in problem.fix
        ]
        assert [(problem.severity, problem.message) for problem in ends] == [("warning", message)]

    @pytest.mark.parametrize(
        ("base", "tuned"),
        [
            ((None, {"eos_token_id": [2, 7]}), (None, {"eos_token_id": [7, 2]})),
            (({"eos_token_id": 2}, None), ({"eos_token_id": 2}, {"eos_token_id": [2]})),
            ((None, {"temperature": 0.5}), (None, {"temperature": 0.9})),
        ],
    )
    def test_the_same_ends_are_no_difference(self, tmp_path, base, tuned):
        sides = self.folder(tmp_path / "base", *base), self.folder(tmp_path / "cot", *tuned)
        assert configurations(sides[0], "cot", sides[1]) == []

    def test_a_file_that_is_no_json_is_named(self, tmp_path):
        side = self.folder(tmp_path / "base")
        (side.path / "generation_config.json").write_text("{")
        with pytest.raises(CheckpointError, match="generation_config.json"):
            configurations(side, "cot", side)


def test_preflight_tells_of_them(tmp_path, llama, tuned, write):
    config = {"model_type": "nobody_knows", "scale": 2}
    write(tmp_path / "base", llama(), config)
    write(tmp_path / "cot", tuned(llama(), 1), config | {"scale": 3})
    (problem,) = preflight(tmp_path / "base", [tmp_path / "cot"]).problems
    assert problem.text == (
        "cot: config.json says scale = 3, the base says 2. The export has the base's value; a model "
        "that was trained with another value may get worse."
    )
    assert Checkpoint(tmp_path / "cot").config["scale"] == 3
