"""The figures show the numbers of their tables, with names that cannot be markup."""

import numpy as np

from workbench.plots import charts
from workbench.plots.theme import dataset_colour


def test_the_cosine_map_clips_the_colour_not_the_number_and_names_the_undefined():
    matrix = np.array([[1.0000001, 0.25, np.nan], [0.25, 1.0, np.nan], [np.nan, np.nan, np.nan]])
    figure = charts.cosine_figure(["a", "b", "zero"], matrix)
    heat = figure.data[0]
    assert np.nanmax(heat.z) == 1.0 and np.nanmax(heat.customdata) > 1.0
    assert (heat.zmin, heat.zmax) == (-1.0, 1.0)
    texts = [note.text for note in figure.layout.annotations]
    assert texts == ["1.000", "0.250", "undefined", "0.250", "1.000", *["undefined"] * 4]


def test_the_distance_map_has_layers_down_and_vectors_across():
    values = np.arange(21.0).reshape(7, 3)
    figure = charts.distance_figure(
        [f"layer {i}" for i in range(7)], ["a", "b", "c"], values, "L2 norm", dark=True
    )
    assert figure.data[0].z.shape == (7, 3) and [x[-1] for x in figure.data[0].x] == ["a", "b", "c"]
    assert figure.data[0].zmax == 20.0


def test_interference_shows_the_loss_and_colours_the_change():
    figure = charts.interference_figure(
        ["a", "b"], ["x", "y", "z"], np.full((2, 3), 0.5), [1.0, 0.5, 0.1]
    )
    assert figure.data[0].z[0].tolist() == [-0.5, 0.0, 1.0]  # +400 % stops at +100 %
    assert figure.layout.annotations[0].text == "0.500<br>−50 %"
    assert figure.layout.annotations[2].text == "0.500<br>+400 %"


def test_a_crowded_map_has_no_numbers():
    figure = charts.distance_figure(
        [str(i) for i in range(80)], ["a", "b", "c"], np.ones((80, 3)), "L2 norm"
    )
    assert not figure.layout.annotations


def test_names_cannot_be_markup_in_a_figure():
    figure = charts.cosine_figure(["<img src=x onerror=alert(1)>", "b"], np.eye(2))
    assert "<img" not in "".join(figure.data[0].x)
    assert dataset_colour(1) in figure.data[0].x[1]
