"""Numbers to pictures: the one colour policy, the bullet chart's data, and thin plotly figures of tables.

Everything here is a pure function of plain arrays. Colours are decided in `dataset_colour` and `scale` and nowhere
else; the stylesheet is given the same values by `palette_css`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import plotly.graph_objects as go

# Eight hues that stay apart under deuteranopia and protanopia (tests/workbench/test_plots.py simulates both), each in
# a darker shade for white paper and a lighter one for dark: contrast against the background is 3:1 or better.
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

# Diverging: orange below zero, blue above, the paper's own colour at zero. Sequential: cividis' idea (one hue path
# from the paper to a strong blue-green), monotone in lightness in both themes.
_DIVERGING = {
    "light": ("#8c3d04", "#d9843b", "#f4cfa6", "#ffffff", "#b5d3ea", "#4d94c8", "#0b4f87"),
    "dark": ("#ffb86b", "#c9752f", "#5f3a1c", "#14171c", "#1d4460", "#3f8fc6", "#9fd6ff"),
}
_SEQUENTIAL = {
    "light": ("#f6f8f9", "#c8e0e0", "#86bfc4", "#3f95a5", "#156a82", "#0b3f5c"),
    "dark": ("#181d24", "#1b3c4c", "#1f6273", "#318f98", "#67bfb5", "#c3f0d8"),
}

CROWDED = 160
"""Numbers in more cells than this only make noise; the hover has them."""

Theme = Literal["light", "dark"]


def theme_of(dark: bool) -> Theme:
    """The name of a theme."""
    return "dark" if dark else "light"


def dataset_colour(index: int, dark: bool = False) -> str:
    """The colour of the index-th dataset, the same in slider, chart, table and plot."""
    colours = DATASET_COLOURS[theme_of(dark)]
    return colours[index % len(colours)]


def scale(kind: Literal["cosine", "distance", "change"], dark: bool = False) -> dict[str, Any]:
    """Plotly's colour arguments for a kind of quantity.

    cosine and change are diverging with a fixed range (-1..1), so that two pictures can be compared and zero is
    always the colour of the paper; distance is sequential from zero.
    """
    shades = (_SEQUENTIAL if kind == "distance" else _DIVERGING)[theme_of(dark)]
    steps = [[place / (len(shades) - 1), shade] for place, shade in enumerate(shades)]
    if kind == "change":  # a loss that fell is good: blue, as a positive cosine is
        steps = [[place / (len(shades) - 1), shade] for place, shade in enumerate(reversed(shades))]
    limits = {"zmin": 0.0} if kind == "distance" else {"zmin": -1.0, "zmax": 1.0}
    return {"colorscale": steps, **limits}


def shade(value: float, colours: dict[str, Any]) -> str:
    """The colour that a map gives to a value, as plotly mixes it: linear in sRGB between the steps of its scale."""
    low, high = colours["zmin"], colours["zmax"]
    place = min(max((value - low) / (high - low), 0.0), 1.0) if high > low else 0.0
    steps = colours["colorscale"]
    for (start, first), (end, second) in itertools.pairwise(steps):
        if place <= end:
            mix = (place - start) / (end - start)
            parts = zip(_channels(first), _channels(second), strict=True)
            return "#" + "".join(f"{round(a + (b - a) * mix):02x}" for a, b in parts)
    return str(steps[-1][1])


def ink_on(colour: str) -> str:
    """Black or white ink, whichever reads better on a colour; one of them always has a contrast of 4.5:1."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (v / 255 for v in _channels(colour))
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if luminance > 0.179 else "#ffffff"


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def palette_css() -> str:
    """The dataset colours as CSS variables, --dataset-0 and on, for both themes."""

    def block(selector: str, theme: Theme) -> str:
        rules = "".join(
            f"--dataset-{place}:{colour};" for place, colour in enumerate(DATASET_COLOURS[theme])
        )
        return f"{selector}{{{rules}}}"

    return block(":root", "light") + block(".dark", "dark")


class Measured(Protocol):
    """A loss with its error: what the evaluation package's Loss offers."""

    @property
    def value(self) -> float: ...  # noqa: D102
    @property
    def stderr(self) -> float: ...  # noqa: D102
    @property
    def n(self) -> int: ...  # noqa: D102


@dataclass(frozen=True)
class Gain:
    """One row of the bullet chart: where a composition stands between the base (0) and a dataset's own expert (1)."""

    dataset: str
    loss: float
    stderr: float
    n: int
    base: float
    expert: float | None
    share: float | None  # None where no expert is known, or it is no better than the base
    share_stderr: float | None


def gain(dataset: str, here: Measured, base: Measured, expert: Measured | None) -> Gain:
    """The share of an expert's gain that a composition recovers, on the same examples.

    base 1.0, expert 0.2, composition 0.4 gives (1.0 - 0.4) / (1.0 - 0.2) = 75 %. The error shown is the composition's
    own; the two ends of the axis are taken as fixed.
    """
    width = base.value - expert.value if expert is not None else 0.0
    share = (base.value - here.value) / width if width > 1e-9 else None
    return Gain(
        dataset,
        here.value,
        here.stderr,
        here.n,
        base.value,
        expert.value if expert is not None else None,
        share if share is not None and math.isfinite(share) else None,
        here.stderr / width if width > 1e-9 else None,
    )


def gains(
    here: Mapping[str, Measured], base: Mapping[str, Measured], experts: Mapping[str, Measured]
) -> list[Gain]:
    """The rows of the bullet chart for every dataset measured so far, in the order of `here`."""
    return [
        gain(name, loss, base[name], experts.get(name))
        for name, loss in here.items()
        if name in base
    ]


def cosine_figure(names: Sequence[str], matrix: np.ndarray, dark: bool = False) -> go.Figure:
    """The cosine map: fixed -1..1, its numbers in the cells, undefined cells grey and named."""
    values = np.asarray(matrix, dtype=float)
    text = [["undefined" if np.isnan(value) else f"{value:.3f}" for value in row] for row in values]
    figure = _heatmap(
        np.clip(values, -1, 1), names, names, text, scale("cosine", dark), dark, names
    )
    hover = "%{y} · %{x}<br>cosine %{customdata:.5f}<extra></extra>"
    figure.update_traces(customdata=values, hovertemplate=hover)
    return figure


def distance_figure(
    rows: Sequence[str], columns: Sequence[str], values: np.ndarray, unit: str, dark: bool = False
) -> go.Figure:
    """The distance map, layers down and vectors across: sequential from zero."""
    table = np.asarray(values, dtype=float)
    rows = [f"layer {row}" if row.isdecimal() else row for row in rows]
    top = float(np.nanmax(table)) if np.isfinite(table).any() else 0.0
    digits = 3 if top < 1 else 2 if top < 100 else 0
    text = [
        ["undefined" if np.isnan(value) else f"{value:.{digits}f}" for value in row]
        for row in table
    ]
    figure = _heatmap(
        table, rows, columns, text, scale("distance", dark) | {"zmax": top or 1.0}, dark, columns
    )
    figure.update_traces(hovertemplate="%{y} · %{x}<br>" + unit + " %{z:.4g}<extra></extra>")
    return figure


def interference_figure(
    vectors: Sequence[str],
    datasets: Sequence[str],
    losses: np.ndarray,
    base: Sequence[float],
    dark: bool = False,
) -> go.Figure:
    """Loss of each dataset (across) under each vector alone at ω = 1 (down), coloured by the change from the base.

    The colour stops at minus and plus 100 % of the base's loss; the number is the loss itself.
    """
    table = np.asarray(losses, dtype=float)
    change = (table - np.asarray(base)) / np.asarray(base)
    text = [
        [
            "…" if np.isnan(loss) else f"{loss:.3f}<br>{_percent(share)}"
            for loss, share in zip(*both, strict=True)
        ]
        for both in zip(table, change, strict=True)
    ]
    figure = _heatmap(
        np.clip(change, -1, 1), vectors, datasets, text, scale("change", dark), dark, vectors
    )
    hover = "%{x} under %{y} alone<br>change of loss %{customdata:+.1%}<extra></extra>"
    figure.update_traces(colorbar_tickformat="+.0%", customdata=change, hovertemplate=hover)
    return figure


def _percent(share: float) -> str:
    """A signed share in per cent with a true minus sign: -0.235 gives −24 %."""
    return f"{share * 100:+.0f} %".replace("-", "−")


def _heatmap(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    text: list[list[str]],
    colours: dict[str, Any],
    dark: bool,
    vectors: Sequence[str],
) -> go.Figure:
    """A heatmap with our font, paper and margins. Names go in as categories, never as markup."""
    theme = theme_of(dark)
    bar = {
        "thickness": 8,
        "outlinewidth": 0,
        "len": 1.0,
        "tickfont": {"size": 11},
    }
    across, down = (
        [_label(name, tuple(vectors), theme) for name in names] for names in (columns, rows)
    )
    heat = go.Heatmap(
        z=values, x=across, y=down, xgap=2, ygap=2, colorbar=bar, hoverongaps=False, **colours
    )
    axis = {
        "type": "category",
        "showgrid": False,
        "zeroline": False,
        "ticks": "",
        "fixedrange": True,
    }
    figure = go.Figure(heat)
    height = (
        max(220, min(760, 88 + 44 * len(rows)))
        if len(rows) <= 16
        else min(900, 88 + 14 * len(rows))
    )
    behind = {"plot_bgcolor": UNDEFINED[theme]} if np.isnan(values).any() else {}
    figure.update_layout(
        **sheet(theme, height) | behind,
        xaxis=axis | {"side": "top", "automargin": True},
        yaxis=axis | {"autorange": "reversed", "automargin": True},
        annotations=_numbers(values, across, down, text, colours, theme)
        if values.size <= CROWDED
        else [],
    )
    return figure


def sheet(theme: Theme, height: int) -> dict[str, Any]:
    """The layout that all figures share: the page shows through, and a new figure keeps where one zoomed.

    Args:
        theme: whose ink.
        height: pixels.
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


def _numbers(
    values: np.ndarray,
    across: list[str],
    down: list[str],
    text: list[list[str]],
    colours: dict[str, Any],
    theme: Theme,
) -> list[dict[str, Any]]:
    """The cells' own numbers. Plotly's automatic ink is a grey that falls below 3:1 on middle shades."""
    return [
        {
            "x": across[column],
            "y": down[row],
            "text": text[row][column],
            "showarrow": False,
            "font": {
                "family": "IBM Plex Mono, monospace",
                "size": 11,
                "color": ink_on(UNDEFINED[theme] if np.isnan(value) else shade(value, colours)),
            },
        }
        for (row, column), value in np.ndenumerate(values)
    ]


def _label(name: str, vectors: tuple[str, ...], theme: Theme) -> str:
    """An axis label; a vector's name bears its colour."""
    if name not in vectors:
        return plain(name)
    colour = dataset_colour(vectors.index(name), theme == "dark")
    return f'<span style="color:{colour}">■</span> {plain(name)}'


def plain(name: str) -> str:
    """A name as plotly may show it: plotly reads a small set of tags in labels, so `<` and `&` are written out."""
    short = name if len(name) <= 24 else name[:23] + "…"
    return short.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
