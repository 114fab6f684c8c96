"""The recipe: a merge as a frozen value, its YAML file, its formula and its rules."""

from merging.recipe.formula import formula
from merging.recipe.parts import ModelEntry
from merging.recipe.recipe import Recipe
from merging.recipe.yaml_file import parse_recipe, read_recipe, recipe_yaml

__all__ = ["ModelEntry", "Recipe", "formula", "parse_recipe", "read_recipe", "recipe_yaml"]
