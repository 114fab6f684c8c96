"""The HTML building blocks: names stay text, and every column of a table has a name."""

import pytest

from workbench.page.tabs import markup


def test_a_name_that_is_markup_stays_text_in_a_table():
    made = markup.table(["<b>", "ω"], [["<img src=x>", 1]], numeric=[1], label='a "quoted" one')
    assert "<img" not in made and "<b>" not in made
    assert "&lt;img src=x&gt;" in made and 'aria-label="a &#34;quoted&#34; one"' in made


def test_a_column_without_a_name_is_refused_because_its_heading_is_a_button():
    with pytest.raises(ValueError, match=r"each column needs a heading.*\['', 'loss'\]"):
        markup.table(["", "loss"], [["cot", 1.0]], label="Losses")


def test_a_cell_that_a_spreadsheet_would_run_is_prefixed():
    made = markup.csv(["name", "ω"], [["=1+1", -0.5], ['a "b", c', "+x"], ["-", "@x"]])
    assert made == 'name,ω\n\'=1+1,-0.5\n"a ""b"", c",\'+x\n\'-,\'@x\n'
