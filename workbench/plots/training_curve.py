"""The loss curve of a training as a plotly figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import plotly.graph_objects as go

from workbench.plots.theme import (
    FAINT,
    dataset_colour,
    number_axis,
    safe_label,
    shared_layout,
    theme_of,
)


class OnCurve(Protocol):
    """A point of a training's curve; training.run.record.CurvePoint is one."""

    @property
    def step(self) -> int: ...  # noqa: D102
    @property
    def loss(self) -> float | None: ...  # noqa: D102
    @property
    def validation(self) -> Mapping[str, float]: ...  # noqa: D102


def curve_figure(
    points: Sequence[OnCurve], datasets: Sequence[str], dark: bool = False
) -> go.Figure:
    """Returns the losses of one training over its updates, in nats per token.

    Args:
        points: of the curve, in order.
        datasets: names of the validation sets, in the order of their colours.
        dark: whether the theme is dark.
    """
    theme = theme_of(dark)
    figure = go.Figure()
    trained = [(point.step, point.loss) for point in points if point.loss is not None]
    hover = "update %{x}<br>%{fullData.name} %{y:.4f}<extra></extra>"
    # A line of one or two points would hardly be seen without markers.
    style: dict[str, Any] = {
        "mode": "lines+markers" if len(trained) < 3 else "lines",
        "hovertemplate": hover,
    }
    figure.add_scatter(
        x=[step for step, _ in trained],
        y=[loss for _, loss in trained],
        name="training",
        line={"color": FAINT[theme], "width": 1.5},
        **style,
    )
    for index, name in enumerate(datasets):
        measured = [
            (point.step, point.validation[name]) for point in points if name in point.validation
        ]
        if measured:
            colour = dataset_colour(index, dark)
            dots = {
                "mode": "lines+markers",
                "marker": {"size": 7, "color": colour},
                "hovertemplate": hover,
            }
            figure.add_scatter(
                x=[step for step, _ in measured],
                y=[loss for _, loss in measured],
                name=safe_label(f"validation {name}"),
                line={"color": colour, "width": 2},
                **dots,
            )
    # At least 10, because an axis that ends at a single update has no whole number to mark.
    last = max([10, *(point.step for point in points)])
    axis = number_axis(theme)
    figure.update_layout(
        **shared_layout(theme, 300),
        xaxis=axis
        | {"title": "update", "showgrid": False, "fixedrange": True, "range": [0, last * 1.02]},
        yaxis=axis | {"title": "loss, nats per token", "fixedrange": True},
        legend={"orientation": "h", "y": -0.28, "x": 0},
        showlegend=True,
    )
    return figure
