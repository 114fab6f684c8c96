"""The colours stay apart and readable in both themes, and for colour-blind eyes."""

import itertools

import numpy as np
import pytest

from workbench.plots.theme import (
    DATASET_COLOURS,
    FAINT,
    INK,
    PAPER,
    UNDEFINED,
    dataset_colour,
    ink_on,
    palette_css,
    scale,
    shade,
    theme_of,
)


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
    seen = [lab(BLINDNESS[blindness] @ linear(c)) for c in DATASET_COLOURS[theme]]
    pairs = {
        (i, j): float(np.linalg.norm(a - b))
        for (i, a), (j, b) in itertools.combinations(enumerate(seen), 2)
    }
    assert min(pairs.values()) > 12, min(pairs, key=pairs.get)
    demo = {pair: distance for pair, distance in pairs.items() if max(pair) < 5}
    assert min(demo.values()) > 13, min(demo, key=demo.get)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_dataset_colours_are_visible_on_the_paper(theme):
    assert min(contrast(c, PAPER[theme]) for c in DATASET_COLOURS[theme]) >= 3


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_is_readable_on_the_paper(theme):
    assert contrast(INK[theme], PAPER[theme]) >= 7
    assert contrast(FAINT[theme], PAPER[theme]) >= 4.5
    assert contrast(INK[theme], UNDEFINED[theme]) >= 4.5


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("kind", ["cosine", "change"])
def test_diverging_maps_have_the_paper_at_zero_and_a_fixed_range(dark, kind):
    colours = scale(kind, dark)
    assert (colours["zmin"], colours["zmax"]) == (-1.0, 1.0)
    assert dict(map(tuple, colours["colorscale"]))[0.5] == PAPER[theme_of(dark)]


def test_negative_cosines_are_orange_and_a_fallen_loss_is_blue():
    red, _, blue = rgb(scale("cosine")["colorscale"][0][1])
    assert red > blue
    red, _, blue = rgb(scale("change")["colorscale"][0][1])
    assert blue > red


@pytest.mark.parametrize("dark", [False, True])
def test_the_distance_map_is_monotone_in_lightness_and_starts_near_the_paper(dark):
    colours = scale("distance", dark)
    light = [luminance(shade) for _, shade in colours["colorscale"]]
    assert light == sorted(light, reverse=not dark)
    assert contrast(colours["colorscale"][0][1], PAPER[theme_of(dark)]) < 1.2
    assert colours["zmin"] == 0


def test_colours_repeat_after_the_eighth_and_reach_the_stylesheet():
    assert dataset_colour(9) == dataset_colour(1)
    assert "--dataset-0:#0b6fc2;" in palette_css()


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("kind", ["cosine", "distance", "change"])
def test_numbers_are_readable_in_every_cell(kind, dark):
    colours = {"zmax": 1.0} | scale(kind, dark)
    shades = [shade(value, colours) for value in np.linspace(colours["zmin"], colours["zmax"], 501)]
    assert min(contrast(shade, ink_on(shade)) for shade in shades) >= 4.5
    assert shades[0] == colours["colorscale"][0][1] and shades[-1] == colours["colorscale"][-1][1]
