"""The colours of the page and its figures, for the light and the dark theme.

Colours are decided here and nowhere else; `palette_css` gives the same values to the stylesheet.
"""

from __future__ import annotations

import itertools
from typing import Any, Literal

# Eight hues that stay apart under deuteranopia and protanopia (tests/workbench/plots/test_theme.py
# simulates both). Each has a darker shade for white paper and a lighter one for dark paper: the
# contrast against the background is 3:1 or better.
DATASET_COLOURS = {
    "light": (
        "#0b6fc2",
        "#a83c00",
        "#00957a",
        "#8a2f7a",
        "#a39000",
        "#2f3a45",
        "#6d2728",
        "#4a3a9a",
    ),
    "dark": (
        "#4fb3f5",
        "#f67e3d",
        "#5dd7a8",
        "#e580c9",
        "#efd134",
        "#808a9a",
        "#ed2b45",
        "#8b72f7",
    ),
}
PAPER = {"light": "#ffffff", "dark": "#14171c"}
INK = {"light": "#1f2630", "dark": "#e6e9ee"}
FAINT = {"light": "#5c6675", "dark": "#a3adba"}
UNDEFINED = {"light": "#c9ced6", "dark": "#4a525e"}

# Diverging: orange below zero, blue above, the paper's own colour at zero. Sequential: as in
# cividis, one path of hues from the paper to a strong blue-green, monotone in lightness in both
# themes.
_DIVERGING = {
    "light": ("#8c3d04", "#d9843b", "#f4cfa6", "#ffffff", "#b5d3ea", "#4d94c8", "#0b4f87"),
    "dark": ("#ffb86b", "#c9752f", "#5f3a1c", "#14171c", "#1d4460", "#3f8fc6", "#9fd6ff"),
}
_SEQUENTIAL = {
    "light": ("#f6f8f9", "#c8e0e0", "#86bfc4", "#3f95a5", "#156a82", "#0b3f5c"),
    "dark": ("#181d24", "#1b3c4c", "#1f6273", "#318f98", "#67bfb5", "#c3f0d8"),
}

Theme = Literal["light", "dark"]


def theme_of(dark: bool) -> Theme:
    """Returns "dark" or "light"."""
    return "dark" if dark else "light"


def dataset_colour(index: int, dark: bool = False) -> str:
    """Returns the colour of the dataset at an index: the same in slider, chart, table and plot.

    There are eight colours; from the ninth dataset on they repeat.
    """
    colours = DATASET_COLOURS[theme_of(dark)]
    return colours[index % len(colours)]


def scale(kind: Literal["cosine", "distance", "change"], dark: bool = False) -> dict[str, Any]:
    """Returns plotly's colour arguments for a kind of quantity.

    The scales of cosine and change are diverging and have a fixed range, -1 to 1, so that two
    pictures can be compared and zero always has the colour of the paper. The scale of distance is
    sequential and begins at zero.
    """
    shades = (_SEQUENTIAL if kind == "distance" else _DIVERGING)[theme_of(dark)]
    if kind == "change":
        # A loss that fell is good, so it is blue, as a positive cosine is.
        shades = shades[::-1]
    steps = [[index / (len(shades) - 1), shade] for index, shade in enumerate(shades)]
    limits = {"zmin": 0.0} if kind == "distance" else {"zmin": -1.0, "zmax": 1.0}
    return {"colorscale": steps, **limits}


def shade(value: float, colours: dict[str, Any]) -> str:
    """Returns the colour that a map gives to a value: plotly mixes linearly in sRGB between steps.

    Args:
        value: the number in the cell; values outside the range take the colour at its end.
        colours: as `scale` returns them, with "zmax".
    """
    low, high = colours["zmin"], colours["zmax"]
    position = min(max((value - low) / (high - low), 0.0), 1.0) if high > low else 0.0
    steps = colours["colorscale"]
    for (start, first), (end, second) in itertools.pairwise(steps):
        if position <= end:
            mix = (position - start) / (end - start)
            parts = zip(_channels(first), _channels(second), strict=True)
            return "#" + "".join(f"{round(a + (b - a) * mix):02x}" for a, b in parts)
    return str(steps[-1][1])


def ink_on(colour: str) -> str:
    """Returns black or white, whichever reads better on a colour: one always has 4.5:1 or more.

    The contrast is that of WCAG 2, from relative luminance: at luminance 0.179 both are equal.
    """
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (v / 255 for v in _channels(colour))
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if luminance > 0.179 else "#ffffff"


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def palette_css() -> str:
    """Returns the dataset colours as CSS variables --dataset-0 to --dataset-7, for both themes."""

    def block(selector: str, theme: Theme) -> str:
        rules = "".join(
            f"--dataset-{index}:{colour};" for index, colour in enumerate(DATASET_COLOURS[theme])
        )
        return f"{selector}{{{rules}}}"

    return block(":root", "light") + block(".dark", "dark")


def shared_layout(theme: Theme, height: int) -> dict[str, Any]:
    """Returns the layout arguments that all figures share.

    The page's background shows through, and a figure that is drawn anew keeps the user's zoom.

    Args:
        theme: decides the colour of text.
        height: of the figure, in pixels.
    """
    return {
        "height": height,
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "IBM Plex Sans", "size": 12, "color": INK[theme]},
        "uirevision": "keep",
        "template": "none",
    }


def number_axis(theme: Theme) -> dict[str, Any]:
    """Returns the arguments of an axis of numbers: a dotted grid, no zero line, no ticks."""
    return {
        "gridcolor": UNDEFINED[theme],
        "griddash": "dot",
        "zeroline": False,
        "ticks": "",
        "automargin": True,
    }


def safe_label(name: str) -> str:
    """Returns a name that plotly shows as it is, shortened to 24 characters.

    Plotly reads a small set of HTML tags in labels, so `<`, `>` and `&` are escaped.
    """
    short = name if len(name) <= 24 else name[:23] + "…"
    return short.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
