"""The scores of a pool and of what was chosen from it, as a plotly figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import plotly.graph_objects as go

from workbench.plots.theme import FAINT, dataset_colour, number_axis, shared_layout, theme_of


def score_histogram(histogram: Mapping[str, Sequence[float]], dark: bool = False) -> go.Figure:
    """Returns the histogram of a choice: bars of the pool behind those of the chosen examples.

    Args:
        histogram: edges (bins + 1), pool and chosen (bins), as
            influence.selection.reasons.ScoreHistogram has them.
        dark: whether the theme is dark.
    """
    theme = theme_of(dark)
    edges = list(histogram["edges"])
    bins = list(pairwise(edges))
    figure = go.Figure()
    for key, name, colour in (
        ("pool", "pool", FAINT[theme]),
        ("chosen", "chosen", dataset_colour(0, dark)),
    ):
        figure.add_bar(
            x=[(low + high) / 2 for low, high in bins],
            y=list(histogram[key]),
            width=[high - low for low, high in bins],
            name=name,
            marker={"color": colour, "opacity": 0.45 if key == "pool" else 1.0},
            customdata=[f"{low:.3g} to {high:.3g}" for low, high in bins],
            hovertemplate="score %{customdata}<br>%{fullData.name} %{y:,}<extra></extra>",
        )
    axis = number_axis(theme) | {"fixedrange": True}
    figure.update_layout(
        **shared_layout(theme, 240),
        barmode="overlay",
        bargap=0,
        xaxis=axis | {"title": "score", "showgrid": False},
        yaxis=axis | {"title": "examples"},
        legend={"orientation": "h", "y": -0.32, "x": 0},
        showlegend=True,
    )
    return figure
