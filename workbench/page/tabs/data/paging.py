"""Shows a list in pages of twenty: a page of the browser never holds thousands of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gradio as gr

from workbench.page.tabs.wiring import one_at_a_time

ROWS = 20
"""Rows of a page."""


class Pager(NamedTuple):
    """The components that turn the pages."""

    before: gr.Button
    after: gr.Button
    where: gr.HTML
    number: gr.State
    """Number of the page that is shown, from 0."""


class PageOfRows(NamedTuple):
    """The rows of one page."""

    rows: Sequence[Any]
    number: int
    """Of the page, from 0, within the pages that there are."""
    first: int
    """Number of its first row in the whole list, from 0."""
    pages: int
    text: str
    """Where it is: "21–40 of 300"."""


def build(name: str) -> Pager:
    """Builds the components; `name` begins their ids."""
    with gr.Row(elem_classes="pager"):
        before = gr.Button("Previous", size="sm", elem_id=f"{name}-before", scale=0, min_width=96)
        where = gr.HTML(elem_id=f"{name}-where", elem_classes="where")
        after = gr.Button("Next", size="sm", elem_id=f"{name}-after", scale=0, min_width=96)
    return Pager(before, after, where, gr.State(0))


def page_of(rows: Sequence[Any], number: int) -> PageOfRows:
    """Returns a page of rows; a number outside the pages gives the nearest one.

    >>> page_of(range(45), 9).text
    '41–45 of 45'
    """
    pages = max(1, -(-len(rows) // ROWS))
    number = min(max(0, number), pages - 1)
    first = number * ROWS
    own = rows[first : first + ROWS]
    text = f"{first + 1:,}–{first + len(own):,} of {len(rows):,}" if own else "none"
    return PageOfRows(own, number, first, pages, text)


def updates(pager: Pager, page: PageOfRows) -> dict[Any, Any]:
    """Returns updates of the pager's components for a page."""
    return {
        pager.before: gr.Button(interactive=page.number > 0),
        pager.after: gr.Button(interactive=page.number < page.pages - 1),
        pager.where: page.text,
        pager.number: page.number,
    }


def wire(
    pager: Pager, turn: Callable[..., Any], inputs: list[Any], outputs: list[Any], target: str
) -> None:
    """Connects the buttons.

    Args:
        pager: the components.
        turn: returns updates for the values of `inputs` and the number of a page.
        inputs: components that decide which list is shown.
        outputs: components that `turn` updates.
        target: name of what it writes; see workbench.page.tabs.wiring.one_at_a_time.
    """
    for button, step in ((pager.before, -1), (pager.after, 1)):

        def work(*values: Any, step: int = step) -> Any:
            return turn(*values[:-1], values[-1] + step)

        button.click(work, [*inputs, pager.number], outputs, **one_at_a_time(target))
