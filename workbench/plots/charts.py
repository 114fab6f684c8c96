"""The heatmaps of the page as plotly figures: cosine, distance and interference.

Each function is pure: the same arrays give the same figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.plots.theme import (
    UNDEFINED,
    Theme,
    dataset_colour,
    ink_on,
    safe_label,
    scale,
    shade,
    shared_layout,
    theme_of,
)

CROWDED = 160
"""A map with more cells than this has no numbers in them: they would not be legible.

The numbers are then shown only while the pointer hovers over a cell.
"""


def cosine_figure(names: Sequence[str], matrix: np.ndarray, dark: bool = False) -> go.Figure:
    """Returns the map of cosines, with a fixed range of -1 to 1 and the numbers in its cells.

    Args:
        names: of the n vectors.
        matrix: (n, n) cosines; NaN is shown as a grey cell with the word "undefined".
        dark: whether the theme is dark.
    """
    values = np.asarray(matrix, dtype=float)
    text = [["undefined" if np.isnan(value) else f"{value:.3f}" for value in row] for row in values]
    # Rounding may give a cosine just above 1. Its colour is clipped, the number on hover is not.
    figure = _heatmap(
        np.clip(values, -1, 1), names, names, text, scale("cosine", dark), dark=dark, vectors=names
    )
    hover = "%{y} · %{x}<br>cosine %{customdata:.5f}<extra></extra>"
    figure.update_traces(customdata=values, hovertemplate=hover)
    return figure


def distance_figure(
    rows: Sequence[str], columns: Sequence[str], values: np.ndarray, unit: str, dark: bool = False
) -> go.Figure:
    """Returns the map of distances from the base, with layers down and vectors across.

    Args:
        rows: names of the layers; a bare number n becomes "layer n".
        columns: names of the vectors.
        values: (rows, columns) distances from 0; NaN is shown as "undefined".
        unit: what the numbers are, for the text shown on hover.
        dark: whether the theme is dark.
    """
    table = np.asarray(values, dtype=float)
    rows = [f"layer {row}" if row.isdecimal() else row for row in rows]
    # np.nanmax of nothing but NaN warns and gives NaN.
    top = float(np.nanmax(table)) if np.isfinite(table).any() else 0.0
    digits = 3 if top < 1 else 2 if top < 100 else 0
    text = [
        ["undefined" if np.isnan(value) else f"{value:.{digits}f}" for value in row]
        for row in table
    ]
    figure = _heatmap(
        table,
        rows,
        columns,
        text,
        scale("distance", dark) | {"zmax": top or 1.0},
        dark=dark,
        vectors=columns,
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
    """Returns the map of losses under each vector alone at ω = 1: vectors down, datasets across.

    The number in a cell is the loss; its colour is the change from the base's loss, which stops at
    minus and plus 100 %.

    Args:
        vectors: names of the vectors.
        datasets: names of the datasets.
        losses: (vectors, datasets) in nats per token; NaN, shown as "…", if not yet measured.
        base: the base's loss on each dataset, above 0.
        dark: whether the theme is dark.
    """
    table = np.asarray(losses, dtype=float)
    change = (table - np.asarray(base)) / np.asarray(base)
    text = [
        [
            "…" if np.isnan(loss) else f"{loss:.3f}<br>{_percent(share)}"
            for loss, share in zip(*row, strict=True)
        ]
        for row in zip(table, change, strict=True)
    ]
    figure = _heatmap(
        # One loss that explodes would leave all other cells in one shade.
        np.clip(change, -1, 1),
        vectors,
        datasets,
        text,
        scale("change", dark),
        dark=dark,
        vectors=vectors,
    )
    hover = "%{x} under %{y} alone<br>change of loss %{customdata:+.1%}<extra></extra>"
    figure.update_traces(colorbar_tickformat="+.0%", customdata=change, hovertemplate=hover)
    return figure


def _percent(share: float) -> str:
    """Returns a signed share in per cent with a true minus sign: -0.235 gives "−24 %"."""
    return f"{share * 100:+.0f} %".replace("-", "−")


def _heatmap(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    text: list[list[str]],
    colours: dict[str, Any],
    *,
    dark: bool,
    vectors: Sequence[str],
) -> go.Figure:
    """Returns a heatmap in the font, colours and margins of the page.

    Args:
        values: (rows, columns) numbers that decide the colours.
        rows: names on the left.
        columns: names at the top.
        text: (rows, columns) what the cells show.
        colours: as `scale` returns them.
        dark: whether the theme is dark.
        vectors: the names that have a dataset colour, in the order of their colours.
    """
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
    # Without an explicit type plotly would take names such as "1e5" for numbers.
    axis = {
        "type": "category",
        "showgrid": False,
        "zeroline": False,
        "ticks": "",
        "fixedrange": True,
    }
    figure = go.Figure(heat)
    # A row of 44 pixels has room for two lines of text; a map of many layers shows no numbers.
    height = (
        max(220, min(760, 88 + 44 * len(rows)))
        if len(rows) <= 16
        else min(900, 88 + 14 * len(rows))
    )
    # Plotly leaves a NaN cell empty, so the grey of undefined cells is the plot's background.
    background = {"plot_bgcolor": UNDEFINED[theme]} if np.isnan(values).any() else {}
    figure.update_layout(
        **shared_layout(theme, height) | background,
        xaxis=axis | {"side": "top", "automargin": True},
        # Plotly draws the first row of a heatmap at the bottom.
        yaxis=axis | {"autorange": "reversed", "automargin": True},
        annotations=_numbers(values, across, down, text, colours, theme)
        if values.size <= CROWDED
        else [],
    )
    return figure


def _numbers(
    values: np.ndarray,
    across: list[str],
    down: list[str],
    text: list[list[str]],
    colours: dict[str, Any],
    theme: Theme,
) -> list[dict[str, Any]]:
    """Returns the numbers in the cells as annotations, each in the ink that reads best.

    Plotly's own text is a grey whose contrast falls below 3:1 on middle shades.
    """
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
    """Returns an axis label; the name of a vector has a square in its colour before it."""
    if name not in vectors:
        return safe_label(name)
    colour = dataset_colour(vectors.index(name), theme == "dark")
    return f'<span style="color:{colour}">■</span> {safe_label(name)}'
