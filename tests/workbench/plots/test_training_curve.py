"""The curve of a training: its data, its colours, and names that are markup."""

from training.run.record import CurvePoint
from workbench.plots import theme
from workbench.plots.training_curve import curve_figure


def test_training_is_ink_and_validation_has_its_datasets_colours():
    points = [
        CurvePoint(1, 3.0),
        CurvePoint(2, 2.5),
        CurvePoint(5, 2.0, validation={"b": 1.5}),
        CurvePoint(7, validation={"b": 1.25}),
    ]
    for dark in (False, True):
        trained, measured = curve_figure(points, ["a", "b"], dark).data
        assert (list(trained.x), list(trained.y)) == ([1, 2, 5], [3.0, 2.5, 2.0])
        assert (list(measured.x), list(measured.y)) == ([5, 7], [1.5, 1.25])
        assert measured.name == "validation b" and measured.line.color == theme.dataset_colour(
            1, dark
        )
        assert trained.line.color == theme.FAINT[theme.theme_of(dark)]


def test_a_single_point_is_a_dot_on_a_readable_axis():
    figure = curve_figure([CurvePoint(1, 0.5)], [])
    assert figure.data[0].mode == "lines+markers" and figure.layout.xaxis.range[1] > 9
    assert curve_figure([CurvePoint(n, 0.5) for n in range(1, 4)], []).data[0].mode == "lines"


def test_a_name_is_no_markup():
    figure = curve_figure([CurvePoint(1, validation={"<b>": 1.0})], ["<b>"])
    assert figure.data[-1].name == "validation &lt;b&gt;"
