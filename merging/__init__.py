"""Weights in, a recipe, weights out."""

from merging import torch_import as torch_import  # the first one; it says why
from merging.adapter import LoraVector
from merging.checkpoint import Checkpoint, Weights, in_memory
from merging.errors import CheckpointError, ExportError, MergingError, MismatchError, RecipeError
from merging.export import export
from merging.geometry import Geometry, Table, measure
from merging.live import LiveModel, View
from merging.merge import merge
from merging.opening import identified, open_recipe, open_vector
from merging.preflight import Problem, check, preflight, prepare
from merging.recipe import Recipe, Source
from merging.staging import Manifest, verify
from merging.vector import DistributionVector, Vector

__version__ = "0.1.0"

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
    "Problem",
    "Recipe",
    "RecipeError",
    "Source",
    "Table",
    "Vector",
    "View",
    "Weights",
    "check",
    "export",
    "identified",
    "in_memory",
    "measure",
    "merge",
    "open_recipe",
    "open_vector",
    "preflight",
    "prepare",
    "verify",
]
