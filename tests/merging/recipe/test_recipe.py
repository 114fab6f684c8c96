"""A recipe is a value: it survives its file, equal ones are equal, and what cannot be is refused with the key."""

import json

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from merging import ModelEntry, Recipe, RecipeError
from merging.recipe import parse_recipe, read_recipe, recipe_yaml
from merging.recipe.fields import unique_name
from plumbing.strict_yaml import MAX_CHARACTERS as MAX_BYTES

TEXT = """
merge_method: task_arithmetic
base_model: models/base
models:
  - model: models/cot
    parameters: {weight: 0.7}
  - model: models/base+adapters/p3
    parameters: {weight: [0, 1e-1]}
parameters: {normalize: false, lambda: 0.5}
dtype: torch.bfloat16
out_dtype: float32
tokenizer_source: base
dem:
  format: 1
  version: 0.1.0
  seed: 3
  names: [thought, p3]
  inputs: {base: abc}
"""


def test_a_file_with_everything_is_read():
    recipe = parse_recipe(TEXT)
    assert recipe == Recipe(
        base="models/base",
        models=(
            ModelEntry("models/cot", "thought", {"weight": 0.7}),
            ModelEntry("models/base", "p3", {"weight": [0.0, 0.1]}, "adapters/p3"),
        ),
        method="task_arithmetic",
        parameters={"normalize": False, "lambda": 0.5},
        dtype="bfloat16",
        out_dtype="float32",
        seed=3,
        inputs={"base": "abc"},
    )
    assert [source.location for source in recipe.models] == ["models/cot", "adapters/p3"]
    assert recipe.omegas == {"thought": 0.7, "p3": [0.0, 0.1]}


def test_names_are_those_of_the_folders_unless_given():
    entries = [
        f"{{model: {path}, parameters: {{weight: 1}}}}"
        for path in ("a/cot", "b/cot", "base+x/lora", "c/cot")
    ]
    text = f"{{merge_method: linear, models: [{', '.join(entries)}]}}"
    assert [source.name for source in parse_recipe(text).models] == [
        "cot",
        "cot-2",
        "lora",
        "cot-3",
    ]
    assert unique_name("a", ["a", "a-2"]) == "a-3"


# ---------------------------------------------------------------------------------------------------------------- laws

words = st.text("aé漢/ .-_'\":#{[&*!%@`|>0", min_size=1, max_size=9)
labels = st.text("aé漢/.-_'\":#{[&*!0", min_size=1, max_size=9)


def any_setting(numbers, integers):
    """Scalars, gradients, one rule and lists of rules."""
    scalars = numbers | integers | st.booleans()
    rules = st.fixed_dictionaries(
        {"value": scalars | st.lists(numbers, min_size=1)}, optional={"filter": st.none() | words}
    )
    return scalars | st.lists(numbers, min_size=1) | rules | st.lists(rules, min_size=1)


omegas = any_setting(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**53), 2**53))
lambdas = any_setting(st.floats(-10.0, 10.0), st.integers(-10, 10))
dtypes = st.sampled_from([None, "float16", "bfloat16", "float32", "float64"])
recipes = st.builds(
    lambda base, names, paths, omegas, dtype, out_dtype, seed, inputs, unrelated, lam: Recipe(
        base,
        tuple(
            ModelEntry(path, name, {"weight": omega}, lora)
            for name, (path, lora), omega in zip(names, paths, omegas, strict=False)
        ),
        dtype=dtype,
        out_dtype=out_dtype,
        seed=seed,
        inputs=inputs,
        allow_unrelated=unrelated,
        parameters={} if lam is None else {"lambda": lam},
    ),
    words,
    st.lists(labels, min_size=1, max_size=4, unique=True),
    st.lists(st.tuples(words, st.none() | words), min_size=4, max_size=4),
    st.lists(omegas, min_size=4, max_size=4),
    dtypes,
    dtypes,
    st.integers(0, 2**63 - 1),
    st.dictionaries(words, words, max_size=2),
    st.booleans(),
    st.none() | lambdas,
)


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(recipes)
def test_a_recipe_survives_its_file_and_keeps_its_digest(recipe):
    again = parse_recipe(recipe_yaml(recipe))
    assert again == recipe
    assert again.digest == recipe.digest
    assert recipe_yaml(again) == recipe_yaml(recipe)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(recipes)
def test_mergekit_reads_the_same_models_and_weights(recipe):
    """What mergekit takes from the file: plain YAML, its own keys only, but for `dem`."""
    document = yaml.safe_load(recipe_yaml(recipe))
    assert set(document) <= {
        "merge_method",
        "base_model",
        "models",
        "parameters",
        "dtype",
        "out_dtype",
        "dem",
    }
    assert all(set(entry) == {"model", "parameters"} for entry in document["models"])


@pytest.mark.parametrize(
    "one, other",
    [(1, 1.0), (0, -0.0), ("1e-3", 0.001), ({"value": 1}, {"filter": None, "value": 1.0})],
)
def test_equal_settings_make_equal_recipes_with_equal_digests(one, other):
    pair = [Recipe("b", (ModelEntry("a", "a", {"weight": value}),)) for value in (one, other)]
    assert pair[0] == pair[1]
    assert pair[0].digest == pair[1].digest
    assert recipe_yaml(pair[0]) == recipe_yaml(pair[1])


def test_everything_that_decides_the_result_changes_the_digest():
    start = Recipe("b", (ModelEntry("a", "a", {"weight": 1}), ModelEntry("c", "c", {"weight": 2})))
    from dataclasses import replace

    others = [
        replace(start, base="x"),
        replace(start, method="linear"),
        replace(start, dtype="float32"),
        replace(start, out_dtype="float32"),
        replace(start, seed=1),
        replace(start, parameters={"normalize": True}),
        replace(start, inputs={"base": "1"}),
        replace(start, models=start.models[::-1]),
        replace(start, models=start.models[:1]),
        start.with_omegas({"a": 1.0001}),
        replace(start, models=(replace(start.models[0], lora="l"), start.models[1])),
    ]
    digests = [recipe.digest for recipe in [start, *others]]
    assert len(set(digests)) == len(digests)
    assert all(len(digest) == 12 and int(digest, 16) >= 0 for digest in digests)
    assert replace(start, allow_unrelated=True).digest == start.digest


def test_with_omegas_changes_only_what_it_names():
    start = Recipe.compose("b", {"a": "a", "c": "c"}, {"a": 0.5})
    assert start.omegas == {"a": 0.5, "c": 0.0}
    assert start.with_omegas({"c": 2}).omegas == {"a": 0.5, "c": 2.0}
    assert start.omegas == {"a": 0.5, "c": 0.0}
    with pytest.raises(RecipeError, match="no vector is called 'cc'; did you mean 'c'"):
        start.with_omegas({"cc": 1})
    with pytest.raises(RecipeError, match="models: a: weight is nan, expected a finite number"):
        start.with_omegas({"a": float("nan")})


def test_compose_tells_adapters_from_checkpoints(tmp_path):
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text("{}")
    recipe = Recipe.compose(
        "base", {"full": "full", "lora": tmp_path / "lora"}, {"lora": 1.0}, seed=4
    )
    assert recipe.models == (
        ModelEntry("full", "full", {"weight": 0.0}),
        ModelEntry("base", "lora", {"weight": 1.0}, str(tmp_path / "lora")),
    )
    assert f"model: base+{tmp_path / 'lora'}" in recipe_yaml(recipe)


# --------------------------------------------------------------------------------------------------------------- files


def test_folders_are_relative_to_the_working_directory_else_to_the_recipe(tmp_path, monkeypatch):
    (tmp_path / "recipes" / "cot").mkdir(parents=True)
    (tmp_path / "recipes" / "base").mkdir()
    (tmp_path / "work" / "base").mkdir(parents=True)
    (tmp_path / "recipes" / "r.yml").write_text(
        "{merge_method: task_arithmetic, base_model: base, models: ["
        "{model: cot, parameters: {weight: 1}}, {model: /abs, parameters: {weight: 1}}, "
        "{model: nowhere, parameters: {weight: 1}}, {model: base+cot, parameters: {weight: 1}}]}"
    )
    monkeypatch.chdir(tmp_path / "work")
    recipe = read_recipe("../recipes/r.yml")
    assert recipe.base == "base"
    assert [source.path for source in recipe.models] == [
        "../recipes/cot",
        "/abs",
        "nowhere",
        "base",
    ]
    assert recipe.models[3].lora == "../recipes/cot"


def test_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(
        RecipeError, match=r"is not a file. Give a recipe, a YAML file with merge_method and models"
    ):
        read_recipe(tmp_path / "absent.yml")
    with pytest.raises(RecipeError, match="is not a file"):
        read_recipe("x" * 5000)
    path = tmp_path / "r.yml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"r.yml is not UTF-8 text"):
        read_recipe(path)
    path.write_text("x" * (MAX_BYTES + 1))
    with pytest.raises(RecipeError, match=r"r.yml has 200,001 bytes; a recipe has at most 200,000"):
        read_recipe(path)
    path.write_text(" \n")
    with pytest.raises(RecipeError, match=r"r.yml is empty. Give a recipe, a YAML file with"):
        read_recipe(path)
    path.write_text("merge_metod: x")
    with pytest.raises(
        RecipeError, match=r"r.yml: unknown key 'merge_metod'; did you mean 'merge_method'"
    ):
        read_recipe(path)

    def denied(self, encoding):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "read_text", denied)
    with pytest.raises(RecipeError, match=r"r.yml cannot be read: Permission denied"):
        read_recipe(path)


# ------------------------------------------------------------------------------------------------------------ refusals


def text(**changes):
    document = {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": [{"model": "cot", "parameters": {"weight": 0.5}}],
    }
    return yaml.safe_dump(document | changes)


def models(**parameters):
    return [{"model": "cot", "parameters": parameters}]


@pytest.mark.parametrize(
    ("given_text", "message"),
    [
        ("", "the recipe is empty. Write merge_method, base_model and models"),
        ("# nothing yet", "the recipe is empty"),
        ("[1, 2]", "a recipe is keys and values"),
        ("just text", "found 'just text'"),
        ("a: [", "not valid YAML"),
        ("\x00", "not valid YAML"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        ("a: &x 1\nb: *x", r"YAML aliases \(\*name\) are not read; write the value out"),
        ("seed: 1\nbase_model: a\nseed: 2", "line 1: the key 'seed' occurs twice"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
        ("? [1]\n: 2", "not valid YAML"),
        ("[" * 3_000, "not a recipe: maximum recursion"),
        ("a: 2020-13-45", "not a recipe: month must be in 1..12"),
        ("a: " + "9" * 5000, "not a recipe: Exceeds the limit"),
        ("x" * (MAX_BYTES + 1), "the recipe has 200,001 characters; at most 200,000 are read"),
        (text(slices=[]), "models and slices are both given, and a recipe has one of them"),
        (text(modules={}), "'modules' is not read"),
        (text(tokenizer={}), "'tokenizer' is not read: .*the base's is used"),
        (text(chat_template="chatml"), "'chat_template' is not read"),
        (text(model=[]), "unknown key 'model'; did you mean 'models'"),
        (text(**{"1": 2}), "unknown key '1'; known: base_model"),
        (
            text(tokenizer_source="union"),
            "tokenizer_source is 'union'; only the base's tokenizer is used",
        ),
        (text(dem={"sed": 1}), "dem: unknown key 'sed'; did you mean 'seed'"),
        (text(dem=[1]), r"dem is \[1\], expected keys and values"),
        (text(dem={"format": 2}), "dem.format is 2, this version reads 1: update to open it"),
        (text(dem={"seed": -1}), "dem.seed is -1, expected a whole number from 0"),
        (text(dem={"seed": True}), "dem.seed is True"),
        (text(dem={"seed": 1.5}), "dem.seed is 1.5"),
        (text(dem={"seed": 2**63}), "dem.seed is 9223372036854775808"),
        (
            text(dem={"names": ["a", "b"]}),
            r"dem.names is \['a', 'b'\], expected 1 names, one for each of models",
        ),
        (text(dem={"names": [""]}), "dem.names is"),
        (text(dem={"names": "a"}), "dem.names is 'a'"),
        (
            text(dem={"names": ["a\nb"]}),
            r"a model is called 'a\\nb'; give it a name that can be shown",
        ),
        (text(dem={"names": [" "]}), "a model is called ' '"),
        (text(dem={"inputs": [1]}), r"dem.inputs is \[1\], expected keys and values"),
        (text(merge_method=None), "merge_method '' is unknown; known: arcee_fusion, breadcrumbs"),
        (
            text(merge_method="task_arithmatic"),
            "merge_method 'task_arithmatic' is unknown; did you mean 'task_arithmetic'",
        ),
        (text(merge_method=3), "merge_method is 3, expected text"),
        (
            text(base_model=None),
            "base_model is missing; task_arithmetic adds differences to a base",
        ),
        (text(base_model=["a"]), r"base_model is \['a'\], expected the folder of a model"),
        (text(base_model=""), "base_model is '', expected the folder of a model"),
        (text(base_model="a\0b"), r"base_model is 'a\\x00b', expected the folder of a model"),
        (text(models=None), "models is None, expected a list of"),
        (text(models=[]), r"models is \[\], expected a list of {model: folder"),
        (text(models={"a": 1}), "models is {'a': 1}, expected a list"),
        (text(models=["cot"]), r"models\[0\] is 'cot', expected keys and values"),
        (
            text(models=[{"parameters": {"weight": 1}}]),
            r"models\[0\].model is missing, expected the folder",
        ),
        (
            text(models=[{"model": "+lora", "parameters": {"weight": 1}}]),
            r"models\[0\].model is '\+lora': a \+ stands between a model and an adapter",
        ),
        (
            text(models=[{"model": "a", "weight": 1}]),
            r"models\[0\]: unknown key 'weight'; it belongs under parameters",
        ),
        (
            text(models=[{"model": "a", "parametres": 1}]),
            r"unknown key 'parametres'; did you mean 'parameters'",
        ),
        (
            text(models=[{"model": "a"}]),
            "models: a: parameters.weight is missing; it is the ω of this checkpoint",
        ),
        (
            text(models=[{"model": "a", "parameters": 3}]),
            r"models\[0\].parameters is 3, expected keys and values",
        ),
        (
            text(models=models(wieght=1)),
            "models: cot: unknown parameter 'wieght'; did you mean 'weight'",
        ),
        (text(models=models(weight=1, gamma=0.5)), "unknown parameter 'gamma'"),
        (
            text(models=models(weight=1, normalize=True)),
            "'normalize'; it belongs under parameters of the recipe",
        ),
        (
            text(models=models(weight=float("nan"))),
            "models: cot: weight is nan, expected a finite number",
        ),
        (text(models=models(weight=float("inf"))), "models: cot: weight is inf"),
        (
            text(models=models(weight="1e999")),
            "models: cot: weight is '1e999', expected a finite number",
        ),
        (text(models=models(weight=None)), "models: cot: parameters.weight is missing"),
        (text(models=models(weight=[])), "models: cot: weight is an empty list"),
        (text(parameters={"lamda": 1}), "parameters: unknown key 'lamda'; did you mean 'lambda'"),
        (text(parameters={"lambda": "x"}), "parameters: lambda is 'x', expected a number"),
        (text(parameters=[1]), r"parameters is \[1\], expected keys and values"),
        (
            text(dtype="fp16"),
            "^dtype is 'fp16', expected one of float16, bfloat16, .*; did you mean 'float16'",
        ),
        (
            text(out_dtype="int8"),
            r"out_dtype is 'int8', expected one of float16, bfloat16, float32, float64\.$",
        ),
        (text(dtype=["float16"]), r"dtype is \['float16'\]"),
    ],
)
def test_what_cannot_be_is_refused_with_the_key(given_text, message):
    with pytest.raises(RecipeError, match=message):
        parse_recipe(given_text)


def test_a_billion_laughs_is_refused_at_once():
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60)]
    with pytest.raises(RecipeError, match="aliases"):
        parse_recipe("\n".join(lines))


def test_many_keys_take_no_time():
    import time

    started = time.process_time()
    with pytest.raises(RecipeError, match="unknown key"):
        parse_recipe("\n".join(f"a{i}: 1" for i in range(15_000)))
    assert time.process_time() - started < 20  # comparing each with all took minutes


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Recipe("b", ()), "models is empty, expected at least one checkpoint"),
        (
            lambda: Recipe(
                "b", (ModelEntry("a", "x", {"weight": 1}), ModelEntry("c", "x", {"weight": 1}))
            ),
            "two models are called 'x'",
        ),
        (lambda: Recipe("b", (ModelEntry("a", "a"),)), "parameters.weight is missing"),
        (lambda: Recipe.compose("b", {"a": "a"}, seed=-1), "dem.seed is -1"),
        (lambda: Recipe.compose("b", {"a": "a"}, dtype="int4"), "dtype is 'int4'"),
        (
            lambda: Recipe.compose("b", {"a": "a"}, method="tie"),
            "merge_method 'tie' is unknown; did you mean 'ties'",
        ),
    ],
)
def test_a_recipe_made_in_code_is_checked_too(build, message):
    with pytest.raises(RecipeError, match=message):
        build()


def test_linear_needs_no_base():
    recipe = Recipe(None, (ModelEntry("a", "a", {"weight": 1}),), "linear")
    assert "base_model" not in recipe_yaml(recipe)
    assert parse_recipe(recipe_yaml(recipe)) == recipe


def test_the_digest_of_a_known_recipe_stays():
    """It names results in the run store: a change of its definition would orphan them."""
    recipe = Recipe("base", (ModelEntry("cot", "cot", {"weight": 0.7}),))
    facts = {
        "method": "task_arithmetic",
        "base": "base",
        "models": [["cot", None, "cot", {"weight": 0.7}]],
        "parameters": {},
        "dtype": None,
        "out_dtype": None,
        "seed": 0,
        "inputs": {},
    }
    import hashlib

    assert (
        recipe.digest == hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    )


def test_a_folder_with_control_characters_is_refused():
    with pytest.raises(RecipeError, match="cannot hold; rename the folder"):
        Recipe("b", (ModelEntry("a\x85", "a", {"weight": 1.0}),))
