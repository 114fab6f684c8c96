"""The t-SNE picture of hidden states: one dot per example, in its dataset's colour and shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from workbench.plots.theme import (
    PAPER,
    UNDEFINED,
    dataset_colour,
    safe_label,
    shared_layout,
    theme_of,
)

if TYPE_CHECKING:
    from evaluation.layout import Scatter

SHAPES = ("circle", "square", "diamond", "triangle-up", "cross", "x", "triangle-down", "star")
"""One shape per dataset colour, so that datasets can be told apart without seeing colours."""


def states_figure(scatter: Scatter, datasets: Sequence[str], dark: bool = False) -> go.Figure:
    """Returns the points of a t-SNE as a figure, with one trace per dataset or group.

    The axes have no ticks, because the coordinates of a t-SNE have no unit.

    Args:
        scatter: the points and their labels.
        datasets: all labels, in the order of their colours.
        dark: whether the theme is dark.
    """
    theme = theme_of(dark)
    figure = go.Figure()
    # A trace for each label, because plotly's legend lists traces.
    for name in dict.fromkeys(scatter.labels):
        index = list(datasets).index(name)
        rows = [row for row, label in enumerate(scatter.labels) if label == name]
        figure.add_scatter(
            x=scatter.points[rows, 0],
            y=scatter.points[rows, 1],
            name=safe_label(name),
            mode="markers",
            marker={
                "size": 9,
                "symbol": SHAPES[index % len(SHAPES)],
                "color": dataset_colour(index, dark),
                # An edge in the paper's colour keeps overlapping points apart.
                "line": {"width": 1, "color": PAPER[theme]},
            },
            hovertemplate="%{fullData.name}<extra></extra>",
        )
    bare = {
        "visible": True,
        "showgrid": False,
        "zeroline": False,
        "ticks": "",
        "showticklabels": False,
    }
    frame = bare | {
        "showline": True,
        "linecolor": UNDEFINED[theme],
        "mirror": True,
        "fixedrange": True,
    }
    figure.update_layout(
        **shared_layout(theme, 460),
        xaxis=frame,
        # t-SNE keeps distances in all directions alike, so both axes have the same scale.
        yaxis=frame | {"scaleanchor": "x", "scaleratio": 1},
        legend={"orientation": "h", "y": -0.02, "x": 0, "yanchor": "top"},
        showlegend=True,
    )
    return figure
