"""Tables fit a terminal and lose no number."""

import re

from hypothesis import given
from hypothesis import strategies as st

from workbench.reports.text_table import WIDTH, on_its_side, table


def test_a_worked_example_on_its_side():
    rows = [
        ["", "cot loss ± s.e.", "training s"],
        ["base", "1.2500 ± 0.0500", "–"],
        ["Θ + 0.50·Δada + 0.25·Δbob", "0.7500 ± 0.0300", "1,234.5"],
    ]
    assert on_its_side(rows).splitlines() == [
        "                                  Θ + 0.50·Δada +",
        "                            base        0.25·Δbob",
        "cot loss ± s.e.  1.2500 ± 0.0500  0.7500 ± 0.0300",
        "training s                     –          1,234.5",
    ]


def test_models_that_do_not_fit_side_by_side_follow_below():
    rows = [["", "loss"], *([f"model {number}", f"{number}.0000 ± 0.0123"] for number in range(7))]
    lines = on_its_side(rows).splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert lines.count("") == 1 and len(lines) == 5
    assert re.findall(r"model \d", " ".join(lines)) == [f"model {number}" for number in range(7)]


def test_a_long_name_of_a_quantity_takes_two_lines():
    rows = [["", "demo_mathqa acc_norm, first 50 ± s.e. (n)"], ["base", "0.500 ± 0.050 (50)"]]
    assert on_its_side(rows).splitlines()[1:] == [
        "demo_mathqa acc_norm, first  0.500 ± 0.050 (50)",
        "  50 ± s.e. (n)",
    ]


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=9),
    st.lists(st.integers(1, 20), min_size=1, max_size=9),
)
def test_all_numbers_are_there_in_eighty_columns(names, cells):
    heading = ["", *("q" * length for length in range(len(cells)))]
    rows = [
        [("n" * length), *(f"{row}.{column}".rjust(size, "0") for column, size in enumerate(cells))]
        for row, length in enumerate(names)
    ]
    text = on_its_side([[heading[0], *(name or "q" for name in heading[1:])], *rows])
    assert max(map(len, text.splitlines())) <= WIDTH
    shown = text.split()
    assert all(cell in shown for row in rows for cell in row[1:])


def test_the_first_column_is_left_and_the_others_are_right():
    assert table([["", "b"], ["name", "12.5"], ["x", ""]]) == "         b\nname  12.5\nx"


def test_a_table_wider_than_a_terminal_goes_on_below_with_its_first_column():
    names = [f"model-{number}" for number in range(9)]
    rows = [["", *names], *([f"layer {layer}", *["0.1234"] * 9] for layer in range(3))]
    text = table(rows)
    assert max(map(len, text.splitlines())) <= 80
    blocks = [block.splitlines() for block in text.split("\n\n")]
    assert [len(block) for block in blocks] == [4, 4]
    assert [name for block in blocks for name in block[0].split()] == names
    assert all(
        [line.split("  ")[0] for line in block[1:]] == ["layer 0", "layer 1", "layer 2"]
        for block in blocks
    )
    assert text.count("0.1234") == 27


def test_a_table_that_fits_is_one_block():
    assert table([["", "a"], ["x", "1.5"]]) == "     a\nx  1.5"
