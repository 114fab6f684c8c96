"""One tree of errors, and hints that name the nearest word."""

import pytest

from merging import CheckpointError, ExportError, MergingError, MismatchError, RecipeError
from merging.errors import DeviceError
from plumbing.suggest import listed, nearest


@pytest.mark.parametrize(
    "kind", [CheckpointError, MismatchError, RecipeError, ExportError, DeviceError]
)
def test_one_name_catches_everything_a_user_can_cause(kind):
    assert issubclass(kind, MergingError)
    assert str(kind("one message")) == "one message"


def test_nearest_gives_the_nearest_word_or_all():
    assert nearest("wieght", ["weight", "density"]) == "did you mean 'weight'?"
    assert nearest("zzz", ("weight", "density")) == "known: density, weight"


def test_listed_gives_a_few_and_the_count_of_the_rest():
    assert listed([]) == ""
    assert listed(["a", "b"]) == "a, b"
    assert listed(list("abcdefg")) == "a, b, c, d, e and 2 more"
    assert listed(list("abc"), 1) == "a and 2 more"
