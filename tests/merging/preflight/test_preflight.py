"""Preflight finds every problem of folders at once, and says what to do."""

import json

import pytest
import torch

from merging import Checkpoint, DistributionVector, Recipe, check, open_recipe, preflight, prepare
from merging.errors import CheckpointError, MismatchError, RecipeError
from merging.inputs.vocabulary.aligned import Fitted
from merging.preflight.differences import relationship
from merging.preflight.problem import code_keys
from merging.recipe import parse_recipe, recipe_yaml

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
        return write(
            tmp_path / name, tuned(base, 1) if weights is None else weights, CONFIG | config
        )

    return make


def tokenizer(folder, vocabulary, **more):
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}, **more}))


def problems(tmp_path, *paths):
    return preflight(tmp_path / "base", paths).problems


def test_a_fine_tune_of_this_base_has_no_problems(tmp_path, folder, adapter, base):
    adapter(tmp_path / "lora", base, [QUERY])
    opened = preflight(tmp_path / "base", [folder("cot"), tmp_path / "lora"])
    assert opened.problems == [] and list(opened.vectors) == ["cot", "lora"]


def test_all_problems_come_at_once_and_what_is_sound_is_opened(
    tmp_path, folder, llama, base, tuned
):
    (tmp_path / "empty").mkdir()
    paths = [folder("sound"), tmp_path / "empty", folder("stranger", llama(9))]
    paths.append(folder("moved", tuned(base, 2), rope_theta=5e5))
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
        (
            {"hidden_size": 8},
            "error",
            "x: config.json says hidden_size = 8, the base says 7. Choose the base",
        ),
        ({"model_type": "qwen2"}, "error", "says model_type = 'qwen2', the base says 'llama'"),
        (
            {"rope_theta": 5e5},
            "warning",
            "rope_theta = 500000.0, the base says 10000.0. The export has the base's value",
        ),
    ],
)
def test_configurations_that_differ(tmp_path, folder, config, severity, message):
    (problem,) = problems(tmp_path, folder("x", **config))
    assert (problem.severity, problem.subject) == (severity, "x") and message in problem.text


def test_a_key_that_only_one_configuration_has_is_told(tmp_path, folder):
    (problem,) = problems(tmp_path, folder("x", num_attention_heads=4))
    assert problem.severity == "warning" and "the base does not have it." in problem.message


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
        assert (
            "vocabulary: 2 tokens have other ids than in the base: 'b' is 2, in the base 1."
            in problem.message
        )
        assert (
            problem.fix.startswith("Set dem.vocabulary: base in the recipe")
            and "Or set dem.vocabulary: union" in problem.fix
        )

    def test_added_tokens_are_an_error_for_the_export_would_lose_them(self, tmp_path, folder):
        tokenizer(tmp_path / "base", {"a": 0, "b": 1})
        tokenizer(folder("x"), {"a": 0}, added_tokens=[{"content": "<|im|>", "id": 5}])
        (problem,) = problems(tmp_path, tmp_path / "x")
        assert (
            problem.severity == "error"
            and "adds 1 tokens (<|im|>); it lacks 1 (b)." in problem.message
        )

    def test_only_lacking_tokens(self, tmp_path, folder):
        tokenizer(tmp_path / "base", {"a": 0, "b": 1})
        tokenizer(folder("x"), {"a": 0})
        (problem,) = problems(tmp_path, tmp_path / "x")
        assert problem.severity == "warning"
        assert problem.text == (
            "x: its tokenizer lacks 1 tokens of the base; their rows are merged all the same. The export has the base's "
            "tokenizer."
        )

    def test_a_unigram_vocabulary_is_numbered_by_position(self, tmp_path, folder):
        tokenizer(tmp_path / "base", [["a", -1.0], ["b", -2.0]])
        tokenizer(folder("x"), [["b", -1.0], ["a", -2.0]])
        (problem,) = problems(tmp_path, tmp_path / "x")
        assert "2 tokens have other ids" in problem.message

    def test_one_without_a_tokenizer_cannot_be_compared(self, tmp_path, folder):
        tokenizer(tmp_path / "base", {"a": 0})
        (problem,) = problems(tmp_path, folder("x"))
        assert problem.severity == "warning" and problem.message.startswith(
            f"x: {tmp_path}/x has no tokenizer.json"
        )
        tokenizer(tmp_path / "x", {"a": 0})
        (tmp_path / "base" / "tokenizer.json").unlink()
        (problem,) = problems(tmp_path, tmp_path / "x")
        assert problem.message.startswith(f"x: {tmp_path}/base has no tokenizer.json")

    def test_other_merges_over_one_vocabulary_are_a_warning(self, tmp_path, folder):
        def pairs(folder, merges):
            tokens = {token: number for number, token in enumerate(("a", "b", "ab", "c"))}
            (folder / "tokenizer.json").write_text(
                json.dumps({"model": {"vocab": tokens, "merges": merges}})
            )

        pairs(tmp_path / "base", ["a b", "ab c"])
        pairs(folder("x"), [["a", "b"], ["ab", "c"]])  # the same, as newer files write it
        assert problems(tmp_path, tmp_path / "x") == []
        pairs(tmp_path / "x", ["ab c", "a b"])
        (problem,) = problems(tmp_path, tmp_path / "x")
        assert problem.severity == "warning" and "its tokenizer has other merges" in problem.message

    @pytest.mark.parametrize(
        "document",
        [
            *({}, {"model": {"vocab": [[]]}}, {"model": 1}, {"model": {"vocab": 3}}),
            *(
                {"model": {"vocab": {"a": -1}}},
                {"model": {"vocab": {"a": "0"}}},
                {"model": {"vocab": {"a": True}}},
            ),
        ],
    )
    def test_a_broken_tokenizer_is_named(self, tmp_path, folder, document):
        tokenizer(tmp_path / "base", {"a": 0})
        (folder("x") / "tokenizer.json").write_text(json.dumps(document))
        (problem,) = problems(tmp_path, tmp_path / "x")
        assert (
            problem.severity == "error"
            and "is not a tokenizer of the tokenizers library" in problem.message
        )


def test_a_checkpoint_of_another_base_is_an_error(tmp_path, folder, llama):
    (problem,) = problems(tmp_path, folder("x", llama(9)))
    assert (
        problem.severity == "error"
        and "x is a checkpoint of another base"
        in problem.message.replace(f" ({tmp_path / 'x'})", "")
    )
    assert "dem.allow_unrelated: true" in problem.fix


def test_the_cosine_of_related_weights_by_hand():
    base = {
        "norm": torch.ones(4),
        "a": torch.tensor([[3.0, 4.0]]),
        "b": torch.tensor([[1.0, 0.0]]),
        "zero": torch.zeros(2, 2),
    }
    tuned = base | {"a": torch.tensor([[4.0, 3.0]]), "norm": -torch.ones(4)}
    assert relationship(base, tuned) == (
        1.0,
        "b",
    )  # of 0.96 and 1, the upper median; norms and zeros are left out
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
        assert (
            "asks for code from the folder (auto_map). Such code is never run here"
            in problem.message
        )

    def test_a_quantised_base_is_an_error(self, tmp_path, base):
        (tmp_path / "base" / "config.json").write_text(
            json.dumps(CONFIG | {"quantization_config": {"bits": 4}})
        )
        (problem,) = problems(tmp_path)
        assert (
            problem.severity == "error"
            and "Give the full-precision model as the base" in problem.fix
        )

    def test_code_is_found_at_any_depth(self):
        assert code_keys(
            {"text": [{"auto_map": {"a": 1}}], "trust_remote_code": True, "custom_pipelines": {}}
        ) == [
            "trust_remote_code",
            "auto_map",
        ]


class TestCheckOfARecipe:
    def recipe(self, tmp_path, name, text=""):
        return parse_recipe(
            f"merge_method: task_arithmetic\nbase_model: {tmp_path}/base\n"
            f"models: [{{model: {tmp_path}/{name}, parameters: {{weight: 1}}}}]\n{text}"
        )

    def test_all_errors_come_in_one_message(self, tmp_path, folder):
        tokenizer(tmp_path / "base", {"a": 0, "b": 1})
        tokenizer(folder("x", hidden_size=8, model_type="gpt2"), {"a": 1, "b": 0})
        recipe = self.recipe(tmp_path, "x")
        with pytest.raises(MismatchError) as caught:
            check(recipe, *open_recipe(recipe))
        wanted = ("says model_type", "says hidden_size", "has another vocabulary")
        assert all(
            word in line for word, line in zip(wanted, str(caught.value).splitlines(), strict=True)
        )

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
        recipe = parse_recipe(
            recipe_yaml(self.recipe(tmp_path, "x")).replace("task_arithmetic", "linear")
        )
        assert check(recipe, *open_recipe(recipe)) == []

    def test_vectors_in_memory_have_no_folder_to_compare(self, tmp_path, base, tuned):
        recipe = self.recipe(tmp_path, "x")
        vector = DistributionVector("x", base, tuned(base, 1))
        assert check(recipe, Checkpoint(tmp_path / "base"), {"x": vector}) == []


def added(folder, *tokens):
    """A tokenizer of a, b, c with tokens added, ids 3 and on."""
    entries = [{"id": 3 + number, "content": token} for number, token in enumerate(tokens)]
    tokenizer(folder, {"a": 0, "b": 1, "c": 2}, added_tokens=entries)


def grown(weights, rows):
    """The same weights with more rows of embeddings and head."""
    tall = {
        name: torch.cat([value, value[:rows]])
        for name, value in weights.items()
        if len(value) == 31
    }
    return {**weights, **tall}


class TestVocabulariesOfFolders:
    @pytest.fixture
    def three(self, tmp_path, base, folder, tuned):
        added(tmp_path / "base")
        added(folder("same", tuned(base, 1)))
        added(folder("tall", grown(tuned(base, 2), 2), vocab_size=33), "<y>")
        added(folder("padded", tuned(base, 3)), "<z>")
        return [tmp_path / name for name in ("same", "tall", "padded")]

    def test_by_default_both_are_refused_and_the_rest_is_opened(self, tmp_path, three):
        found = preflight(tmp_path / "base", three)
        assert [(one.severity, one.subject) for one in found.problems] == [
            ("error", "tall"),
            ("error", "padded"),
        ]
        assert (
            "33 rows, the base's 31; its tokenizer adds 1 tokens (<y>)."
            in found.problems[0].message
        )
        assert list(found.vectors) == ["same", "padded"]

    def test_what_else_is_wrong_with_a_refused_one_is_told_too(
        self, tmp_path, three, base, tuned, folder
    ):
        added(folder("odd", grown(tuned(base, 4), 1), hidden_size=8), "<y>")
        added(
            folder("lame", {**grown(tuned(base, 5), 1), "model.norm.weight": torch.ones(5)}), "<y>"
        )
        found = preflight(tmp_path / "base", [tmp_path / "odd", tmp_path / "lame"])
        lines = [(one.subject, one.message) for one in found.problems]
        assert [subject for subject, _ in lines] == ["odd", "odd", "lame", "lame"]
        assert (
            "says hidden_size = 8" in lines[1][1]
            and "tensor 'model.norm.weight' has shape 5" in lines[3][1]
        )

    def test_base_leaves_their_rows_and_says_so(self, tmp_path, three):
        found = preflight(tmp_path / "base", three, vocabularies="base")
        assert [(one.severity, one.subject) for one in found.problems] == [
            ("warning", "tall"),
            ("warning", "padded"),
        ]
        assert all(
            "so it does not change lm_head.weight, model.embed_tokens.weight" in one.message
            for one in found.problems
        )
        assert (
            list(found.vectors) == ["same", "tall", "padded"]
            and not found.vectors["tall"]["lm_head.weight"].any()
        )

    def test_union_says_what_is_added_and_where(self, tmp_path, three):
        found = preflight(tmp_path / "base", three, vocabularies="union")
        assert [(one.severity, one.subject) for one in found.problems] == [
            ("warning", "base"),
            ("warning", "tall"),
            ("warning", "padded"),
        ]
        assert (
            "2 tokens are added to its tokenizer (<y>, <z>), ids 3 to 4"
            in found.problems[0].message
        )
        assert (
            "rows of the 3 tokens that it shares with the base are merged"
            in found.problems[1].message
        )

    def test_a_union_that_cannot_be_is_an_error_beside_the_others(
        self, tmp_path, three, folder, base, tuned
    ):
        tokenizer(folder("other", tuned(base, 6), rope_theta=5e5), {"a": 0, "b": 1, "c": 2, "d": 3})
        found = preflight(tmp_path / "base", [*three, tmp_path / "other"], vocabularies="union")
        errors = [one for one in found.problems if one.severity == "error"]
        assert len(errors) == 1 and errors[0].subject == "other"
        assert "1 tokens of its own vocabulary (d) are neither in the base's" in errors[0].message
        assert any("rope_theta" in one.message for one in found.problems)

    def test_another_word_is_refused(self, tmp_path, base):
        with pytest.raises(
            RecipeError, match="vocabulary is 'all', expected one of refuse, base, union"
        ):
            preflight(tmp_path / "base", [], vocabularies="all")

    def test_a_recipe_with_union_is_checked_on_the_grown_base(self, tmp_path, three):
        models = {path.name: path for path in three}
        recipe = Recipe.compose(
            tmp_path / "base", models, dict.fromkeys(models, 0.5), vocabulary="union"
        )
        opened = prepare(recipe, out=tmp_path / "out")
        assert [one.subject for one in opened.problems] == ["base", "tall", "padded"]
        assert opened.base.info("lm_head.weight").shape == (31, 7)

    def test_an_adapter_and_a_saved_vector_have_none_of_their_own(
        self, tmp_path, three, base, adapter
    ):
        adapter(tmp_path / "lora", base, ["lm_head"])
        found = preflight(tmp_path / "base", [*three, tmp_path / "lora"], vocabularies="union")
        assert isinstance(found.vectors["lora"], Fitted) and "lora" not in [
            one.subject for one in found.problems
        ]


class TestHeads:
    def test_ties_that_differ_are_explained(self, tmp_path, folder, llama, write, tuned):
        (tmp_path / "base" / "config.json").write_text(
            json.dumps(CONFIG | {"tie_word_embeddings": False})
        )
        (problem,) = problems(tmp_path, folder("x", tie_word_embeddings=True))
        assert problem.severity == "warning" and problem.text == (
            "x ties its output head to its embeddings (tie_word_embeddings = True), and the base keeps it apart. The "
            "export follows the base, in config.json and in its tensors."
        )
        (tmp_path / "base" / "config.json").write_text(
            json.dumps(CONFIG | {"tie_word_embeddings": True})
        )
        (problem,) = problems(tmp_path, folder("y", tie_word_embeddings=False))
        assert (
            "y does not tie its output head" in problem.message
            and "and the base does." in problem.message
        )

    def test_a_tied_head_that_only_one_stores_is_told(self, tmp_path, llama, tuned, write):
        tied = llama(tied=True)
        stored = tied | {"lm_head.weight": tied["model.embed_tokens.weight"].clone()}
        write(tmp_path / "base", tied, CONFIG)
        moved = tuned(tied, 1)
        write(
            tmp_path / "x",
            moved | {"lm_head.weight": moved["model.embed_tokens.weight"].clone()},
            CONFIG,
        )
        (problem,) = problems(tmp_path, tmp_path / "x")
        assert problem.severity == "info" and problem.message == (
            "x stores its tied head (lm_head.weight), the base does not; it equals the embeddings and is "
            "merged once with them."
        )
        write(tmp_path / "base2", stored, CONFIG)
        write(tmp_path / "y", moved, CONFIG)
        (problem,) = preflight(tmp_path / "base2", [tmp_path / "y"]).problems
        assert problem.message.startswith(
            "y does not store its tied head (lm_head.weight), the base does;"
        )

    def test_heads_with_other_values_are_refused_with_the_reason(self, tmp_path, folder, base):
        lost = {name: value for name, value in base.items() if name != "lm_head.weight"}
        (problem,) = problems(tmp_path, folder("x", lost))
        assert (
            problem.severity == "error"
            and "ties its output head to its embeddings and the other does not" in problem.text
        )


def test_dtypes_that_differ_are_told(tmp_path, folder, base, write):
    (problem,) = problems(
        tmp_path, folder("x", {name: value.bfloat16() for name, value in base.items()})
    )
    assert problem.severity == "info" and problem.text == (
        "x is stored as bfloat16, the base as float32: merged in float32 and stored as the base is, unless the recipe's "
        "dtype says otherwise."
    )
    write(tmp_path / "wide", {name: value.double() for name, value in base.items()}, CONFIG)
    (problem,) = preflight(tmp_path / "wide", [tmp_path / "x"]).problems
    assert "the base as float64: merged in float64" in problem.message


def test_a_quantised_checkpoint_is_an_error(tmp_path, folder):
    (problem,) = problems(tmp_path, folder("x", quantization_config={"bits": 4}))
    assert problem.severity == "error" and problem.text.endswith(
        "is quantised. Give the full-precision checkpoint."
    )


class TestTemplates:
    def write(self, folder, text=None, **config):
        if text is not None:
            (folder / "chat_template.jinja").write_text(text)
        if config:
            (folder / "tokenizer_config.json").write_text(json.dumps(config))

    def test_the_same_one_in_either_place_says_nothing(self, tmp_path, folder):
        self.write(tmp_path / "base", chat_template="{{ messages }}")
        self.write(folder("x"), "{{ messages }}\n")
        assert problems(tmp_path, tmp_path / "x") == []

    def test_one_of_its_own_is_a_warning_that_says_which_is_exported(self, tmp_path, folder):
        self.write(folder("x"), chat_template=[{"name": "default", "template": "{{ a }}"}])
        (problem,) = problems(tmp_path, tmp_path / "x")
        assert problem.severity == "warning" and problem.text == (
            "x was trained with a chat template of its own, and the base has none: the export has the base's. To talk to "
            "the export as to x, copy its chat_template into the export."
        )
        self.write(tmp_path / "base", "{{ b }}")
        (problem,) = problems(tmp_path, tmp_path / "x")
        assert "and the base another" in problem.message

    def test_one_that_only_the_base_has_is_no_news(self, tmp_path, folder):
        self.write(tmp_path / "base", "{{ b }}")
        self.write(folder("x"), bos_token="a")
        assert problems(tmp_path, tmp_path / "x") == []

    def test_too_long_a_one_is_named(self, tmp_path, folder):
        self.write(folder("x"), "x" * 10_000_001)
        (problem,) = problems(tmp_path, tmp_path / "x")
        assert (
            problem.severity == "error"
            and "chat_template.jinja has 10,000,001 bytes" in problem.message
        )

    def test_a_configuration_that_is_no_object_has_none(self, tmp_path, folder):
        (folder("x") / "tokenizer_config.json").write_text("[]")
        assert problems(tmp_path, tmp_path / "x") == []


class TestAlike:
    def test_one_given_twice_is_a_warning(self, tmp_path, folder):
        (problem,) = problems(tmp_path, folder("x"), folder("y"))
        assert (problem.severity, problem.subject) == ("warning", "y")
        assert (
            f"y ({tmp_path}/y) has the same weights as x: its ω is added to the other's."
            in problem.message
        )

    def test_the_base_itself_is_a_warning(self, tmp_path, folder, base):
        (problem,) = problems(tmp_path, folder("x", base))
        assert (
            problem.message
            == f"x ({tmp_path}/x) has the base's weights: its distribution vector is 0."
        )
        assert problem.severity == "warning" and "after fine-tuning" in problem.fix

    def test_an_average_may_have_the_base_in_it(self, tmp_path, folder, base):
        recipe = parse_recipe(
            f"merge_method: linear\nmodels: [{{model: {tmp_path}/base, parameters: {{weight: 1}}}}, "
            f"{{model: {folder('x')}, parameters: {{weight: 1}}}}]"
        )
        assert prepare(recipe).problems == []


class TestPrepare:
    def recipe(self, tmp_path, *names, **more):
        return Recipe.compose(
            tmp_path / "base",
            {name: tmp_path / name for name in names},
            dict.fromkeys(names, 0.5),
            **more,
        )

    def test_what_is_sound_is_opened(self, tmp_path, folder):
        folder("x", rope_theta=5e5)
        opened = prepare(self.recipe(tmp_path, "x"), out=tmp_path / "out")
        assert list(opened.vectors) == ["x"] and [one.severity for one in opened.problems] == [
            "warning"
        ]
        assert not (tmp_path / "out").exists()

    def test_every_error_of_every_folder_comes_in_one_message(
        self, tmp_path, folder, base, tuned, llama
    ):
        added(tmp_path / "base")
        added(folder("tall", grown(tuned(base, 2), 2), hidden_size=8), "<y>")
        (tmp_path / "empty").mkdir()
        folder("stranger", llama(9))
        with pytest.raises(MismatchError) as caught:
            prepare(self.recipe(tmp_path, "tall", "empty", "stranger"))
        lines = str(caught.value).splitlines()
        wanted = ["empty", "another vocabulary", "hidden_size", "checkpoint of another base"]
        assert len(lines) == 4 and all(sum(word in line for line in lines) == 1 for word in wanted)

    def test_a_single_error_stays_what_it_is(self, tmp_path, folder):
        (tmp_path / "empty").mkdir()
        with pytest.raises(CheckpointError, match="empty holds no safetensors"):
            prepare(self.recipe(tmp_path, "empty"))

    def test_a_base_that_is_not_there_too(self, tmp_path):
        with pytest.raises(MismatchError) as caught:
            prepare(self.recipe(tmp_path, "x"))
        assert [
            line.partition(" does not exist")[0] for line in str(caught.value).splitlines()
        ] == [str(tmp_path / name) for name in ("base", "x")]

    def test_an_unrelated_one_that_is_allowed_is_not_in_the_list(self, tmp_path, folder, llama):
        (tmp_path / "empty").mkdir()
        folder("stranger", llama(9))
        with pytest.raises(CheckpointError, match="^[^\n]*empty[^\n]*$"):
            prepare(self.recipe(tmp_path, "empty", "stranger", allow_unrelated=True))

    def test_settings_that_match_nothing_are_refused_before_anything_is_merged(
        self, tmp_path, folder
    ):
        folder("x")
        with pytest.raises(
            MismatchError, match="dem.exclude: 'nothing' matches no tensor of the base"
        ):
            prepare(self.recipe(tmp_path, "x", exclude=("nothing",)))

    def test_no_place_for_the_folder_is_refused(self, tmp_path, folder):
        folder("x")
        with pytest.raises(MismatchError, match="out exists. Give a new folder"):
            (tmp_path / "out").mkdir()
            prepare(self.recipe(tmp_path, "x"), out=tmp_path / "out")

    @pytest.mark.parametrize("method", ["metagpt"])
    def test_weights_are_not_read_for_a_closed_form(self, tmp_path, folder, monkeypatch, method):
        folder("x")
        recipe = self.recipe(tmp_path, "x").with_method(method)
        monkeypatch.setattr(
            DistributionVector,
            "squared_lengths",
            property(lambda self: pytest.fail("all was read")),
        )
        assert prepare(recipe, out=tmp_path / "out").problems == []

    def test_keys_without_effect_are_told_with_a_fix(self, tmp_path, folder):
        folder("x")
        text = recipe_yaml(self.recipe(tmp_path, "x")) + "parameters: {density: 0.5}\n"
        (problem,) = prepare(parse_recipe(text)).problems
        assert problem.severity == "warning" and problem.text == (
            "parameters.density has no effect on task_arithmetic, here as in mergekit. Leave it out, or choose a method "
            "that has it."
        )

    def test_ids_that_moved_are_refused_though_all_shapes_fit(self, tmp_path, folder):
        tokenizer(tmp_path / "base", {"a": 0, "b": 1})
        tokenizer(folder("x"), {"a": 1, "b": 0})
        with pytest.raises(
            MismatchError, match="x.* has another vocabulary: 2 tokens have other ids"
        ):
            prepare(self.recipe(tmp_path, "x"), out=tmp_path / "out")

    def slices(self, tmp_path, end, more=""):
        source = f"{{model: {tmp_path}/x, layer_range: [0, {end}], parameters: {{weight: 1}}}}"
        return parse_recipe(
            f"merge_method: task_arithmetic\nbase_model: {tmp_path}/base\nslices: [{{sources: [{source}, "
            f"{{model: {tmp_path}/base, layer_range: [0, {end}]}}]}}]\n{more}"
        )

    def test_recipes_with_slices_are_checked_too(self, tmp_path, folder, base):
        folder("x")
        assert [
            one.severity
            for one in prepare(self.slices(tmp_path, 2)).problems
            if one.severity == "error"
        ] == []
        with pytest.raises(MismatchError, match="layer"):
            prepare(self.slices(tmp_path, 9))
        with pytest.raises(RecipeError, match="dem.vocabulary is 'base', and slices"):
            prepare(self.slices(tmp_path, 2, "dem: {vocabulary: base}"))
