"""The answer of a selection as HTML: shares of sources, chosen and validation examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from influence.selection.random_scores import EVERY
from plumbing import units
from workbench.commands import display_path
from workbench.page.tabs import markup
from workbench.page.tabs.data.paging import PageOfRows
from workbench.page.tabs.data.texts import text_html

EVERY_QUERY = EVERY[0]
"""The query of scores by chance, which know no validation example."""
NEAR = 3
"""Validation examples, or helpers, that are shown beside a text."""


def summary_html(answer: Mapping[str, Any], selection: Path) -> Markup:
    """Returns how much of each source was chosen, and how to train on the choice."""
    rows = []
    for index, each in enumerate(answer["sources"]):
        bar = Markup(
            '<span class="meter dataset-{}" title="{}"><i style="width:{:.1f}%"></i>'
            '<b style="left:{:.1f}%"></b></span>'
        ).format(
            index % 8,
            f"{each['chosen_share']:.1%} of the choice, {each['pool_share']:.1%} of the pool",
            each["chosen_share"] * 100,
            each["pool_share"] * 100,
        )
        rows.append([
            Markup("{} {}").format(markup.swatch(index), each["source"]),
            f"{each['pool']:,}", f"{each['chosen']:,}",
            f"{each['chosen_share']:.1%}", bar, f"{each['supervised']:,}",
        ])  # fmt: skip
    head = ["source", "pool", "chosen", "of the choice", "mark: of the pool", "supervised tokens"]
    table = markup.table(head, rows, numeric=[1, 2, 3, 5], label="Chosen by source")
    length = answer["length_correlation"]
    about = [f"{answer['in_words']}."]
    if length is not None:
        about.append(f"Scores against lengths of answers: Spearman {units.number(length, 2)}.")
    source = f"sources: {{best: {display_path(selection)}}}"
    line = Markup(
        '<div class="cli"><span>in a plan</span><code tabindex="0">{}</code>'
        '<button type="button" class="copy" data-copy="{}">copy</button></div>'
    ).format(source, source)
    return Markup('<p class="facts-line">{}</p>{}{}').format(" ".join(about), table, line)


def chosen_html(page: PageOfRows, queries: Sequence[Mapping[str, Any]]) -> Markup:
    """Returns a page of chosen examples, each beside the validation examples nearest to it."""
    return _rows(
        Markup('<li><div class="own">{}{}</div><div class="near">{}</div></li>').format(
            _title(
                f"{page.first + at + 1}. {each['source']} {each['number']}",
                f"score {each['score']:.3f}" + _for(each["query"]),
            ),
            text_html(each["text"]),
            _list([_near(near, queries) for near in each["nearest"][:NEAR]], "nearest to"),
        )
        for at, each in enumerate(page.rows)
    )


def queries_html(page: PageOfRows) -> Markup:
    """Returns a page of validation examples, each beside the examples of the pool that help it."""
    return _rows(
        Markup('<li><div class="own">{}{}</div><div class="near">{}</div></li>').format(
            _title(each["name"], f"{each['chosen']:,} chosen for it"),
            text_html(each["text"]),
            _list([_helper(helper) for helper in each["helpers"][:NEAR]], "best helpers"),
        )
        for each in page.rows
    )


def knows_queries(answer: Mapping[str, Any]) -> bool:
    """Returns whether the scores are for validation examples or subtasks, and not by chance."""
    return any(each["name"] != EVERY_QUERY for each in answer["queries"])


def _for(query: str) -> str:
    return f" for {query}" if query not in ("", EVERY_QUERY) else ""


def _rows(rows: Any) -> Markup:
    return Markup('<ol class="examples">{}</ol>').format(markup.join(rows))


def _title(name: str, facts: str) -> Markup:
    return Markup('<div class="what"><b>{}</b> <small>{}</small></div>').format(name, facts)


def _list(entries: Sequence[Markup], head: str) -> Markup:
    # Scores by chance know no validation example, so there is nothing to put beside a text.
    if not any(entries):
        return Markup("")
    return Markup("<h5>{}</h5><ol>{}</ol>").format(head, markup.join(entries))


def _near(near: Mapping[str, Any], queries: Sequence[Mapping[str, Any]]) -> Markup:
    query = queries[near["query"]]
    if query["name"] == EVERY_QUERY:
        return Markup("")
    title = _title(query["name"], f"score {near['score']:.3f}")
    # A whole subtask has no text.
    text = text_html(query["text"]) if query["text"] else Markup("")
    return Markup("<li>{}{}</li>").format(title, text)


def _helper(helper: Mapping[str, Any]) -> Markup:
    rank = helper["rank"]
    place = f"chosen as number {rank:,}" if rank else "not chosen"
    facts = f"score {helper['score']:.3f}, {place}"
    title = _title(f"{helper['source']} {helper['number']}", facts)
    return Markup("<li>{}{}</li>").format(title, text_html(helper["text"]))
