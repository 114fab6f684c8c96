"""What looking for misfiled examples will cost."""

from corpus import read_datasets
from merging.recipe.yaml_file import read_recipe, relative_to
from workbench.influence_runs.outlooks.misfiled_outlook import misfiled_outlook


def test_each_example_passes_once_for_its_gradient_and_once_for_each_expert(world):
    recipe = relative_to(read_recipe(world / "recipe.yml"), world)
    datasets = read_datasets(world / "data", "validation")
    outlook = misfiled_outlook(recipe, datasets, start=lambda: 2.0)
    start, passes = outlook.parts
    assert passes.examples == (1 + 3) * 3 * 23
    assert start.seconds > 2.0 and passes.seconds > 0 and passes.tokens > passes.examples
