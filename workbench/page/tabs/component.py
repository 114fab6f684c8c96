"""The components of our own: controls, bars, status, form of a question, answer, search.

The scripts in assets/live draw them. gradio only gives each its place on the page, so no answer
of gradio's queue can overwrite what a hand has just moved.
"""

from __future__ import annotations

from typing import Any, Literal

import gradio as gr

Part = Literal["controls", "bars", "bar", "form", "answer", "search"]
"""Names of functions in assets/live, each of which draws one component."""


def live(part: Part, **options: Any) -> gr.HTML:
    """Returns a component that a script draws.

    Args:
        part: which script.
        options: options of gr.HTML, such as elem_id.
    """
    return gr.HTML(
        html_template='<div class="live"></div>',
        js_on_load=f"window.dem.mount({part!r}, element)",
        apply_default_css=False,
        **options,
    )


def digest(**options: Any) -> gr.HTML:
    """Returns the hidden component whose value is the digest of the composition at rest.

    The live line sets it, and gradio's tabs listen to its changes.
    """
    return gr.HTML(
        "",
        html_template="<span>${value}</span>",
        js_on_load="window.dem.hand(props)",
        visible="hidden",
        **options,
    )
