"""Values of fields: what is taken, and what is told of a wrong one."""

import pytest

from workbench.errors import SessionError
from workbench.page.tabs.data import field_values as values


def test_numbers_and_shares_are_read_as_they_are_written():
    assert values.whole(" 20 ", "N") == 20 and values.optional_whole("", "N") is None
    assert values.share("1/20", "Share") == 0.05 and values.optional_share(None, "Share") is None
    assert values.positive("1e-3", "Rate", "1e-3") == 0.001
    assert values.name_of_split("dev_small-2", "Split") == "dev_small-2"
    assert values.folder("/a/b", "Data") == "/a/b"


@pytest.mark.parametrize(
    ("read", "text", "said"),
    [
        (lambda text: values.whole(text, "Seed", 0), "1.5", "Seed: '1.5' was given. Give a whole"),
        (lambda text: values.whole(text, "Seed"), "0", "whole number of 1 or more"),
        (lambda text: values.whole(text, "Seed"), "²", "'²' was given"),
        (lambda text: values.whole(text, "Seed"), "", "the field is empty"),
        (lambda text: values.share(text, "Share"), "1.2", "above 0 and up to 1"),
        (lambda text: values.share(text, "Share"), "0", "above 0 and up to 1"),
        (lambda text: values.share(text, "Share"), "5 %", "'5 %' was given"),
        (lambda text: values.share(text, "Share"), None, "the field is empty"),
        (lambda text: values.positive(text, "Rate", "1e-3"), "nan", "above 0, such as 1e-3"),
        (lambda text: values.positive(text, "Rate", "1e-3"), "1e999", "'1e999' was given"),
        (lambda text: values.name_of_split(text, "Split"), "../train", "Give the name of a split"),
        (lambda text: values.folder(text, "Data"), " ", "Data: no folder is given"),
    ],
)
def test_a_wrong_value_is_told_with_its_field_and_the_next_step(read, text, said):
    with pytest.raises(SessionError) as error:
        read(text)
    assert said in str(error.value)
