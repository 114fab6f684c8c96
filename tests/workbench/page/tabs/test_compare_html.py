"""How a comparison looks: stars, what is not known, what a row can do, and the same as CSV."""

import csv
import io
import math
import re

from evaluation.benchmark_scores import Score
from evaluation.records.cost_table import cost_table
from evaluation.records.prices import Prices
from workbench.comparison.added_models import contender_from_folder
from workbench.comparison.collect import compare
from workbench.page.tabs import compare_html
from workbench.session.runs import keep_scores


def text(html):
    return " ".join(re.sub(r"<[^>]+>", " ", str(html)).split())


def rows_of(html):
    return [text(row) for row in re.findall(r"<tr>.*?</tr>", str(html), re.S)]


def test_the_best_of_each_column_bears_a_star_and_what_is_unknown_a_dash(session):
    base, ada = session.recipe({}), session.recipe({"ada": 1.0})
    for recipe in (base, ada):
        session.losses(recipe)
    for recipe, value in ((base, 0.25), (ada, 0.5)):
        keep_scores(
            session.workdir,
            recipe,
            [Score("<arc>", "acc", value, 0.07, 50, 1.0)],
            suite="",
            limit=50,
        )
    found = compare(session)
    html = compare_html.table_html(found, session.models, [])
    head, first, second, third, *_ = rows_of(html)
    assert head == "model action ada bob lora mean train, s eval, s &lt;arc&gt; acc, first 50"
    assert "<arc>" not in str(html)
    assert first.startswith("base use ") and first.endswith("0.250 ±0.070 (50)")
    assert second.endswith("0.500 ±0.070 (50) ★ best")
    assert third == "bob use – – – – – 0.0 –"
    assert (
        sum(row.count("★") for row in (first, second)) == 5
    )  # three datasets, their mean, one score
    assert "n = 23 examples of each dataset" in text(
        html
    ) and "no training cost is recorded of ada" in text(html)


def test_only_what_a_row_can_do_is_offered(session, world):
    rows = [*compare(session, current=session.recipe((0.1, 0.2, 0.3))).lines]
    export = contender_from_folder(world / "ada", "<b>", "model")
    lines = compare(session, [*(line.contender for line in rows), export])
    html = str(compare_html.table_html(lines, session.models, ["<b>"]))
    assert (
        html.count(' data-go="') == 4
    )  # base and three vectors; the sliders stand at the current one
    assert 'data-press="compare-remove" data-value="&lt;b&gt;"' in html and "<b></b>" not in html
    assert 'data-press="compare-remove"' not in str(
        compare_html.table_html(lines, session.models, [])
    )


def test_the_csv_has_a_number_in_each_cell(session):
    base = session.recipe({})
    found = session.losses(base)
    keep_scores(
        session.workdir, base, [Score("arc", "acc", 0.25, math.nan, 1, 1.0)], suite="", limit=None
    )
    rows = list(csv.DictReader(io.StringIO(compare_html.csv(compare(session)))))
    assert float(rows[0]["ada loss"]) == found["ada"].value and rows[0]["ada loss n"] == "23"
    assert (rows[0]["arc acc"], rows[0]["arc acc stderr"], rows[0]["arc acc n"]) == (
        "0.25",
        "",
        "1",
    )
    assert (
        rows[0]["training device s"] == "0.0"
        and rows[1]["training device s"] == rows[1]["bob loss"] == ""
    )
    assert rows[1]["formula"].startswith("Θ + 1.00·Δada") and len(rows) == 5


def test_projected_costs_are_marked_by_more_than_a_colour():
    known = cost_table(Prices({"a": 10.0, "b": 20.0}, [30.0], [1.0], [1.0]), [1, 2])
    html = compare_html.costs_html(known)
    _, one, two = rows_of(html)
    assert one == "1 31.0 31.0 1.00× 31.0 1.00×"
    assert two == "2 ~32.0 ~62.0 ~1.94× 31.0 ~0.97×"
    assert '<i class="projected">~32.0</i>' in str(html)
    assert "DEM costs less than mixing tuned over as many, from 2 settings on (projected)" in text(
        html
    )
    lines = compare_html.costs_csv(known).splitlines()
    assert lines[1].startswith("1,31.0,measured,31.0,measured,1.0,measured")


def test_costs_that_nobody_knows_are_one_message(session):
    notes = [
        "the training of a is not in the ledger",
        "the training of b is not in the ledger",
        "x",
    ]
    html = compare_html.costs_html(cost_table(Prices({"a": None, "b": None}, notes=notes)))
    assert "<table" not in html and "the trainings of a, b are not in the ledger" in text(html)
    alone = compare_html.costs_html(cost_table(Prices({"a": None}, notes=notes[:1])))
    assert "the training of a is not in the ledger" in text(alone)


def test_what_is_missing(session):
    assert "Every loss and every score in this table is measured" in compare_html.missing_html([])
    assert "<b>" not in compare_html.missing_html(["losses: <b>"])
