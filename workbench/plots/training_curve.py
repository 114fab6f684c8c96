"""The curve of a training as a plotly figure, in the colours of workbench.plots.charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import plotly.graph_objects as go

from workbench.plots.charts import FAINT, UNDEFINED, dataset_colour, plain, sheet, theme_of


class OnCurve(Protocol):
    """A point of a training's curve: what training.run.record.Point offers."""

    @property
    def step(self) -> int: ...  # noqa: D102
    @property
    def loss(self) -> float | None: ...  # noqa: D102
    @property
    def validation(self) -> Mapping[str, float]: ...  # noqa: D102


def curve_figure(
    points: Sequence[OnCurve], datasets: Sequence[str], dark: bool = False
) -> go.Figure:
    """The losses of one training over its updates: training as a line in ink, validation in the colours of `datasets`."""
    theme = theme_of(dark)
    figure = go.Figure()
    trained = [(point.step, point.loss) for point in points if point.loss is not None]
    hover = "update %{x}<br>%{fullData.name} %{y:.4f}<extra></extra>"
    style: dict[str, Any] = {
        "mode": "lines+markers" if len(trained) < 3 else "lines",
        "hovertemplate": hover,
    }
    x, y = ([row[place] for row in trained] for place in (0, 1))
    figure.add_scatter(
        x=x, y=y, name="training", line={"color": FAINT[theme], "width": 1.5}, **style
    )
    for place, name in enumerate(datasets):
        measured = [
            (point.step, point.validation[name]) for point in points if name in point.validation
        ]
        if measured:
            x, y = ([row[place] for row in measured] for place in (0, 1))
            colour = dataset_colour(place, dark)
            dots = {
                "mode": "lines+markers",
                "marker": {"size": 7, "color": colour},
                "hovertemplate": hover,
            }
            figure.add_scatter(
                x=x,
                y=y,
                name=plain(f"validation {name}"),
                line={"color": colour, "width": 2},
                **dots,
            )
    last = max(
        [10, *(point.step for point in points)]
    )  # a single update has no ticks between 0 and 1
    axis = {
        "gridcolor": UNDEFINED[theme],
        "griddash": "dot",
        "zeroline": False,
        "ticks": "",
        "automargin": True,
    }
    figure.update_layout(
        **sheet(theme, 300),
        xaxis=axis
        | {"title": "update", "showgrid": False, "fixedrange": True, "range": [0, last * 1.02]},
        yaxis=axis | {"title": "loss, nats per token", "fixedrange": True},
        legend={"orientation": "h", "y": -0.28, "x": 0},
        showlegend=True,
    )
    return figure
