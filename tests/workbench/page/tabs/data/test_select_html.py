"""What was chosen and why, as HTML: names and texts are escaped, shares are those of the answer."""

from pathlib import Path

from workbench.page.tabs.data.paging import page_of
from workbench.page.tabs.data.select_html import (
    chosen_html,
    knows_queries,
    queries_html,
    summary_html,
)

QUERIES = [
    {
        "name": "qa, line 3", "text": "why <b>?", "chosen": 2,
        "helpers": [
            {"source": "math", "number": 4, "score": 0.5, "rank": 1, "text": "4 & 4"},
            {"source": "web", "number": 9, "score": 0.25, "rank": None, "text": "nine"},
        ],
    }
]  # fmt: skip
CHOSEN = [
    {
        "source": "<i>web", "number": number, "score": 0.5, "query": "qa, line 3",
        "nearest": [{"query": 0, "score": 0.125}], "text": f"text {number}",
    }
    for number in range(23)
]  # fmt: skip
ANSWER = {
    "in_words": "LESS: 23 of 100",
    "length_correlation": -0.5,
    "sources": [
        {
            "source": "<i>web", "pool": 60, "chosen": 23, "pool_share": 0.6, "chosen_share": 0.25,
            "supervised": 1234,
        }
    ],
    "queries": QUERIES,
}  # fmt: skip


def test_the_summary_has_shares_and_the_line_of_a_plan():
    html = summary_html(ANSWER, Path("/w/one.selection.json"))
    assert "LESS: 23 of 100. Scores against lengths of answers: Spearman −0.50." in html
    assert "&lt;i&gt;web" in html and "<i>web" not in html
    assert "width:25.0%" in html and "left:60.0%" in html and ">25.0%<" in html
    assert 'data-copy="sources: {best: /w/one.selection.json}"' in html


def test_chosen_examples_stand_beside_what_they_are_near_to():
    html = chosen_html(page_of(CHOSEN, 1), QUERIES)
    assert html.count('class="own"') == 3 and "21. &lt;i&gt;web 20" in html
    assert "score 0.500 for qa, line 3" in html and "why &lt;b&gt;?" in html
    assert "score 0.125" in html


def test_validation_examples_stand_beside_their_helpers():
    html = queries_html(page_of(QUERIES, 0))
    assert "2 chosen for it" in html and "score 0.500, chosen as number 1" in html
    assert "score 0.250, not chosen" in html and "4 &amp; 4" in html


def test_scores_by_chance_know_no_validation_example():
    queries = [QUERIES[0] | {"name": "every query", "text": ""}]
    chosen = [CHOSEN[0] | {"query": "every query"}]
    html = chosen_html(page_of(chosen, 0), queries)
    assert "every query" not in html and '<div class="near"></div>' in html
    assert knows_queries(ANSWER) and not knows_queries({"queries": queries})
