"""The picture of hidden states: a dot per example, by dataset in its colour and a shape of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from workbench.plots.charts import PAPER, UNDEFINED, dataset_colour, plain, sheet, theme_of

if TYPE_CHECKING:
    from evaluation.layout import Scatter

SHAPES = ("circle", "square", "diamond", "triangle-up", "cross", "x", "triangle-down", "star")
"""As many as there are colours: the colour is not all that tells datasets apart."""


def states_figure(found: Scatter, datasets: Sequence[str], dark: bool = False) -> go.Figure:
    """The points of a t-SNE, without axes, for they have no unit; one trace per dataset, or per group.

    Args:
        found: the points.
        datasets: all names in the order of their colours.
        dark: which theme.
    """
    theme = theme_of(dark)
    figure = go.Figure()
    for name in dict.fromkeys(found.labels):
        place = list(datasets).index(name)
        mine = [number for number, label in enumerate(found.labels) if label == name]
        figure.add_scatter(
            x=found.points[mine, 0],
            y=found.points[mine, 1],
            name=plain(name),
            mode="markers",
            marker={
                "size": 9,
                "symbol": SHAPES[place % len(SHAPES)],
                "color": dataset_colour(place, dark),
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
        **sheet(theme, 460),
        xaxis=frame,
        yaxis=frame | {"scaleanchor": "x", "scaleratio": 1},
        legend={"orientation": "h", "y": -0.02, "x": 0, "yanchor": "top"},
        showlegend=True,
    )
    return figure
