"""Names of dtypes: what is accepted, and what is suggested for the words of other tools."""

import pytest

from merging.dtypes import DTYPES, check_dtype, nearest_dtype
from merging.errors import RecipeError


@pytest.mark.parametrize("name", DTYPES)
def test_names_are_accepted_with_and_without_the_prefix_of_torch(name):
    assert check_dtype(name, "dtype") == check_dtype(f"torch.{name}", "dtype") == name


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("fp16", "float16"),
        ("half", "float16"),
        ("bf16", "bfloat16"),
        ("BF16", "bfloat16"),
        ("fp32", "float32"),
        ("f32", "float32"),
        ("float", "float32"),
        ("double", "float64"),
        ("flaot32", "float32"),
    ],
)
def test_the_words_of_other_tools_are_refused_with_what_is_meant(word, meant):
    known = "float16, bfloat16, float32, float64"
    with pytest.raises(
        RecipeError, match=f"^--dtype is '{word}', expected one of {known}; did you mean '{meant}'"
    ):
        check_dtype(word, "--dtype")


@pytest.mark.parametrize("raw", ["int8", "fp8", "", 16, None])
def test_anything_else_is_refused_with_all_names(raw):
    with pytest.raises(RecipeError, match=r"expected one of float16, .*, float64\.$"):
        check_dtype(raw, "dtype")


def test_only_known_names_are_suggested():
    assert nearest_dtype("fp64", ("float32", "bfloat16")) == "known: bfloat16, float32"
