"""The colour policy holds in both themes and for colour-blind eyes; the bullet chart's arithmetic is right."""

import itertools
from typing import NamedTuple

import numpy as np
import pytest

from workbench.plots import charts


class Loss(NamedTuple):
    value: float
    stderr: float
    n: int


def rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def linear(colour: str) -> np.ndarray:
    c = rgb(colour)
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def luminance(colour: str) -> float:
    return float(linear(colour) @ [0.2126, 0.7152, 0.0722])


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


# Machado, Oliveira, Fernandes 2009, severity 1.0, on linear RGB
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
}


def lab(lin: np.ndarray) -> np.ndarray:
    m = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = m @ np.clip(lin, 0, 1) / [0.95047, 1.0, 1.08883]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("blindness", BLINDNESS)
def test_dataset_colours_stay_apart(theme, blindness):
    seen = [lab(BLINDNESS[blindness] @ linear(c)) for c in charts.DATASET_COLOURS[theme]]
    pairs = {
        (i, j): float(np.linalg.norm(a - b))
        for (i, a), (j, b) in itertools.combinations(enumerate(seen), 2)
    }
    assert min(pairs.values()) > 12, min(pairs, key=pairs.get)
    demo = {pair: distance for pair, distance in pairs.items() if max(pair) < 5}
    assert min(demo.values()) > 13, min(demo, key=demo.get)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_dataset_colours_are_visible_on_the_paper(theme):
    assert min(contrast(c, charts.PAPER[theme]) for c in charts.DATASET_COLOURS[theme]) >= 3


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_is_readable_on_the_paper(theme):
    assert contrast(charts.INK[theme], charts.PAPER[theme]) >= 7
    assert contrast(charts.FAINT[theme], charts.PAPER[theme]) >= 4.5
    assert contrast(charts.INK[theme], charts.UNDEFINED[theme]) >= 4.5


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("kind", ["cosine", "change"])
def test_diverging_maps_have_the_paper_at_zero_and_a_fixed_range(dark, kind):
    colours = charts.scale(kind, dark)
    assert (colours["zmin"], colours["zmax"]) == (-1.0, 1.0)
    assert dict(map(tuple, colours["colorscale"]))[0.5] == charts.PAPER[charts.theme_of(dark)]


def test_negative_cosines_are_orange_and_a_fallen_loss_is_blue():
    red, _, blue = rgb(charts.scale("cosine")["colorscale"][0][1])
    assert red > blue
    red, _, blue = rgb(charts.scale("change")["colorscale"][0][1])
    assert blue > red


@pytest.mark.parametrize("dark", [False, True])
def test_the_distance_map_is_monotone_in_lightness_and_starts_near_the_paper(dark):
    colours = charts.scale("distance", dark)
    light = [luminance(shade) for _, shade in colours["colorscale"]]
    assert light == sorted(light, reverse=not dark)
    assert contrast(colours["colorscale"][0][1], charts.PAPER[charts.theme_of(dark)]) < 1.2
    assert colours["zmin"] == 0


def test_colours_repeat_after_the_eighth_and_reach_the_stylesheet():
    assert charts.dataset_colour(9) == charts.dataset_colour(1)
    assert "--dataset-0:#0b6fc2;" in charts.palette_css()


def test_a_worked_example_of_the_recovered_gain():
    row = charts.gain("sni", Loss(0.4, 0.04, 50), Loss(1.0, 0.1, 50), Loss(0.2, 0.1, 50))
    assert row.share == pytest.approx(0.75)
    assert row.share_stderr == pytest.approx(0.05)


def test_below_the_base_is_negative_and_no_expert_gives_no_share():
    assert charts.gain(
        "a", Loss(1.2, 0.0, 5), Loss(1.0, 0, 5), Loss(0.5, 0, 5)
    ).share == pytest.approx(-0.4)
    assert charts.gain("a", Loss(1.2, 0.0, 5), Loss(1.0, 0, 5), None).share is None
    worse = charts.gain(
        "a", Loss(0.9, 0.0, 5), Loss(1.0, 0, 5), Loss(1.1, 0, 5)
    )  # an expert worse than the base
    assert worse.share is None and worse.loss == 0.9


def test_gains_keep_the_order_and_skip_what_has_no_base():
    loss = Loss(1.0, 0.1, 3)
    rows = charts.gains({"b": loss, "c": loss, "a": loss}, {"a": loss, "b": loss}, {})
    assert [row.dataset for row in rows] == ["b", "a"]


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


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("kind", ["cosine", "distance", "change"])
def test_numbers_are_readable_in_every_cell(kind, dark):
    colours = {"zmax": 1.0} | charts.scale(kind, dark)
    shades = [
        charts.shade(value, colours) for value in np.linspace(colours["zmin"], colours["zmax"], 501)
    ]
    assert min(contrast(shade, charts.ink_on(shade)) for shade in shades) >= 4.5
    assert shades[0] == colours["colorscale"][0][1] and shades[-1] == colours["colorscale"][-1][1]


def test_a_crowded_map_has_no_numbers():
    figure = charts.distance_figure(
        [str(i) for i in range(80)], ["a", "b", "c"], np.ones((80, 3)), "L2 norm"
    )
    assert not figure.layout.annotations


def test_names_cannot_be_markup_in_a_figure():
    figure = charts.cosine_figure(["<img src=x onerror=alert(1)>", "b"], np.eye(2))
    assert "<img" not in "".join(figure.data[0].x)
    assert charts.dataset_colour(1) in figure.data[0].x[1]
