"""Merges fine-tuned models: opens a base and its vectors, applies a recipe, returns weights."""

from merging import torch_import as torch_import  # must come first; its docstring says why
from merging.analysis.geometry import Geometry, Table, measure
from merging.engine.identities import with_identities
from merging.engine.loop import merge
from merging.errors import CheckpointError, ExportError, MergingError, MismatchError, RecipeError
from merging.inputs.checkpoint import Checkpoint, Weights, in_memory
from merging.inputs.lora_vector import LoraVector
from merging.inputs.manifest import Manifest, verify
from merging.inputs.vector import DistributionVector, Vector
from merging.live.live_model import LiveModel, View
from merging.opening.open import open_recipe, open_vector
from merging.outputs.export import export
from merging.preflight import Problem, check, preflight, prepare
from merging.recipe import ModelEntry, Recipe, formula, parse_recipe, read_recipe, recipe_yaml
from merging.version import __version__

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "DistributionVector",
    "ExportError",
    "Geometry",
    "LiveModel",
    "LoraVector",
    "Manifest",
    "MergingError",
    "MismatchError",
    "ModelEntry",
    "Problem",
    "Recipe",
    "RecipeError",
    "Table",
    "Vector",
    "View",
    "Weights",
    "__version__",
    "check",
    "export",
    "formula",
    "in_memory",
    "measure",
    "merge",
    "open_recipe",
    "open_vector",
    "parse_recipe",
    "preflight",
    "prepare",
    "read_recipe",
    "recipe_yaml",
    "verify",
    "with_identities",
]
