"""Texts of examples on the page: short at first, whole on demand, never markup."""

from __future__ import annotations

from markupsafe import Markup

CUT = 240
"""Characters that are shown at first."""
MOST = 4_000
"""Characters that are shown at most: twenty rows with five texts each are to stay light."""


def text_html(text: str) -> Markup:
    """Returns a text; of a long one the beginning, and the rest once it is asked for."""
    if len(text) <= CUT:
        return Markup('<p class="example">{}</p>').format(text)
    shown = text[:MOST]
    more = (
        Markup("<small>The first {:,} of {:,} characters; the file has all.</small>").format(
            MOST, len(text)
        )
        if len(text) > MOST
        else Markup("")
    )
    return Markup(
        '<details class="example"><summary><span>{}…</span></summary><p class="example">{}</p>{}'
        "</details>"
    ).format(text[:CUT].rstrip(), shown, more)
