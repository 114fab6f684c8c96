"""What the page calls the mixtures of balancing, their cost, and the weights of proxies."""

from typing import get_args

from workbench.influence_runs.balance_rounds import Rule
from workbench.page.tabs.data.proposal_html import NAMES, cost_text, label, weights_html

START = {"number": 0, "method": "start", "tokens": 900}
DOREMI = {
    "number": 1, "method": "doremi", "tokens": 800,
    "weights": {"start": {"<a>": 0.5, "b": 0.5}, "end": {"<a>": 0.25, "b": 0.75},
                "mean": {"<a>": 0.4, "b": 0.6}},
    "proxy": {"steps": 1, "file": "f", "tokens": 700, "reference_tokens": 650},
}  # fmt: skip


def test_each_method_has_a_name():
    assert NAMES.keys() == set(get_args(Rule))
    assert [label(each) for each in (START, DOREMI)] == ["start", "DoReMi"]
    assert label({"number": 2, "method": "ideal"}) == "round 2"


def test_the_cost_counts_proxies_and_names_what_the_reference_read():
    assert cost_text([START]) == "1 training of 900 tokens (start 900)."
    assert cost_text([START, DOREMI]) == (
        "3 trainings of 2,400 tokens (start 900, proxy 700, DoReMi 800). The start, its "
        "reference, read 650 more without training."
    )
    rounds = [{"number": n, "method": "ideal", "tokens": 100 * n} for n in (1, 2)]
    assert cost_text([START, *rounds]) == (
        "3 trainings of 1,200 tokens (start 900, round 1 100, round 2 200)."
    )


def test_weights_are_a_table_and_no_name_is_markup():
    html = weights_html(DOREMI)
    assert "&lt;a&gt;" in html and "<a>" not in html
    assert "after 1 step<" in html and html.index("0.250") < html.index("0.400")
    assert weights_html(START) == ""
