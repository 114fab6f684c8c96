"""The weights of domains over the steps of a proxy as a plotly figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from workbench.plots.theme import (
    dataset_colour,
    number_axis,
    safe_label,
    shared_layout,
    theme_of,
)

POINTS = 400
"""The most points of a line: more are not seen, and make the page heavy."""


def domain_weights(domains: Sequence[str], weights: np.ndarray, dark: bool = False) -> go.Figure:
    """Returns the weight of each domain over the steps; of many steps, evenly spaced ones.

    Args:
        domains: names of the n domains, in the order of their colours.
        weights: [steps + 1, n], row 0 the start; see influence.balance.weight_trace.
        dark: whether the theme is dark.
    """
    theme = theme_of(dark)
    last = len(weights) - 1
    steps = np.unique(np.linspace(0, last, min(POINTS, last + 1)).round().astype(int))
    figure = go.Figure()
    for index, name in enumerate(domains):
        figure.add_scatter(
            x=steps.tolist(),
            y=weights[steps, index].tolist(),
            name=safe_label(name),
            mode="lines",
            line={"color": dataset_colour(index, dark), "width": 2},
            hovertemplate="step %{x}<br>%{fullData.name} %{y:.4f}<extra></extra>",
        )
    axis = number_axis(theme) | {"fixedrange": True}
    figure.update_layout(
        **shared_layout(theme, 260),
        xaxis=axis | {"title": "step of the proxy", "showgrid": False},
        yaxis=axis | {"title": "weight"},
        legend={"orientation": "h", "y": -0.28, "x": 0},
        showlegend=True,
    )
    return figure
