"""Rules that no tensor is left for are told, with key and filter; mergekit's recipes run on."""

import pytest

from merging import Checkpoint, merge, open_recipe, prepare
from merging.errors import MismatchError
from merging.preflight.idle_settings import shadowed_rules
from merging.recipe import parse_recipe

CONFIG = {"model_type": "llama", "num_hidden_layers": 3}


@pytest.fixture
def world(tmp_path, llama, tuned, write):
    base = llama()
    write(tmp_path / "base", base, CONFIG)
    write(tmp_path / "cot", tuned(base, 1), CONFIG)
    return tmp_path


def recipe(world, weight="1", parameters="{}", method="task_arithmetic"):
    return parse_recipe(
        f"merge_method: {method}\nbase_model: {world}/base\nparameters: {parameters}\n"
        f"models: [{{model: {world}/cot, parameters: {{weight: {weight}}}}}]\n"
    )


def told(wanted):
    return [problem.message.partition(" never applies")[0] for problem in prepare(wanted).problems]


@pytest.mark.parametrize(
    ("weight", "wanted"),
    [
        ("[{filter: mlp, value: 1}, {filter: mlp.down, value: 2}, {value: 0}]", ["2 (filter 'mlp.down')"]),
        ("[{filter: mlp.down, value: 1}, {filter: mlp, value: 2}, {value: 0}]", []),
        ("[{value: 0}, {filter: mlp, value: 2}]", ["2 (filter 'mlp')"]),
        ("[{filter: '*', value: 0}, {filter: mlp, value: 2}, {filter: norm, value: 2}]", ["2 (filter 'mlp')", "3 (filter 'norm')"]),
        ("[{filter: model, value: 1}, {filter: lm_head, value: 1}, {value: 0}]", []),  # the default has nothing left
        # one tensor is left for the third: o_proj of the last layer
        ("[{filter: layers.0, value: 1}, {filter: layers.1, value: 1}, {filter: o_proj, value: 2}, {value: 0}]", []),
        ("[{filter: up_proj, value: 1}, {filter: down_proj, value: 1}, {filter: gate_proj, value: 1}, {filter: mlp, value: 2}, {value: 0}]", ["4 (filter 'mlp')"]),
        ("{filter: mlp, value: 2}", []),
        ("[0.0, 1.0]", []),
    ],
)  # fmt: skip
def test_a_rule_that_no_tensor_is_left_for_is_a_warning(world, weight, wanted):
    rule = recipe(world, weight, "{weight: 1}" if weight.startswith("{") else "{}")
    assert told(rule) == [f"cot: weight: rule {text}" for text in wanted]


def test_its_words_and_that_the_recipe_runs(world):
    rule = recipe(world, "[{filter: mlp, value: 1}, {filter: mlp.down, value: 2}, {value: 0}]")
    (problem,) = prepare(rule).problems
    assert (problem.severity, problem.subject) == ("warning", "recipe") and problem.text == (
        "cot: weight: rule 2 (filter 'mlp.down') never applies: rules before it match every tensor that it matches, and the "
        "first match counts. Move it before them, or leave it out."
    )
    merged, tuned = dict(merge(rule, *open_recipe(rule))), Checkpoint(world / "cot")
    assert (
        merged["model.layers.0.mlp.down_proj.weight"] - tuned["model.layers.0.mlp.down_proj.weight"]
    ).abs().max() < 1e-6


def test_the_recipes_own_parameters_are_looked_at_too(world):
    density = "{density: [{filter: mlp, value: 1}, {filter: mlp, value: 0.5}, {value: 1}]}"
    assert told(recipe(world, parameters=density, method="ties")) == [
        "parameters: density: rule 2 (filter 'mlp')"
    ]


def test_one_that_matches_nothing_stays_an_error(world):
    with pytest.raises(
        MismatchError, match="cot: weight: the filter 'nothing' matches no tensor of the base"
    ):
        prepare(recipe(world, "[{filter: mlp, value: 1}, {filter: nothing, value: 2}, {value: 0}]"))


SLICES = """
merge_method: task_arithmetic
base_model: {world}/base
parameters: {shared}
slices:
  - sources:
      - {{model: {world}/cot, layer_range: [1, 3], parameters: {{weight: {first}}}}}
      - {{model: {world}/base, layer_range: [1, 3]}}
  - parameters: {part}
    sources:
      - {{model: {world}/cot, layer_range: [0, 1], parameters: {{weight: {second}}}}}
      - {{model: {world}/base, layer_range: [0, 1]}}
"""


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        # the first slice has layers 1 and 2 of its source, which the output calls 0 and 1
        ({"first": "[{filter: layers, value: 1}, {filter: layers.1, value: 2}, {value: 0}]"}, ["slices[0]: cot: weight: rule 2 (filter 'layers.1')"]),
        ({"first": "[{filter: layers.1, value: 1}, {filter: layers.2, value: 2}, {filter: embed, value: 2}, {value: 0}]"}, []),
        # the head is of the last slice
        ({"second": "[{value: 1}, {filter: head, value: 2}]"}, ["slices[1]: cot: weight: rule 2 (filter 'head')"]),
        ({"part": "{weight: [{value: 1}, {filter: norm, value: 2}]}"}, ["slices[1]: parameters: weight: rule 2 (filter 'norm')"]),
        ({"shared": "{lambda: [{value: 1}, {filter: mlp, value: 2}]}"}, ["parameters: lambda: rule 2 (filter 'mlp')"]),
    ],
)  # fmt: skip
def test_recipes_with_slices(world, settings, wanted):
    text = SLICES.format(
        world=world, **({"shared": "{}", "part": "{}", "first": "1", "second": "1"} | settings)
    )
    assert told(parse_recipe(text)) == wanted


def test_a_slice_is_looked_at_with_its_own_tensors(world):
    """Of a filter that only another slice's tensors match nothing is said: elsewhere it may apply."""
    text = SLICES.format(
        world=world,
        shared="{}",
        part="{}",
        first="[{value: 1}, {filter: lm_head, value: 2}]",
        second="1",
    )
    rule = parse_recipe(text)
    assert shadowed_rules(rule, open_recipe(rule)[0]) == []
