"""Colours that stand in one picture are told apart, also by readers with a dichromacy."""

import itertools

import numpy as np
import pytest

from segmamba.data.label_sets import LABEL_SETS
from segmamba.pictures.palette import (
    CLASS_COLOURS,
    COLOURS_ON_WHITE,
    DARK,
    ERROR_COLOURS,
    LIGHT,
    REGION_COLOURS,
)

# Full severity, on linear RGB: Machado, Oliveira & Fernandes 2009, table 1.
VISION = {
    "trichromacy": np.eye(3),
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
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour):
    """Linear RGB in [0, 1] of "#rrggbb"."""
    srgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """CIELAB of linear RGB."""
    scaled = TO_XYZ @ np.clip(rgb, 0, 1) / np.array([0.9505, 1, 1.089])
    x, y, z = np.where(scaled > 0.008856, np.cbrt(scaled), 7.787 * scaled + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def least_difference(one, other):
    """The smallest CIELAB distance of two colours over all kinds of vision."""
    return min(
        np.linalg.norm(lab(seen @ linear(one)) - lab(seen @ linear(other)))
        for seen in VISION.values()
    )


@pytest.mark.parametrize("labels", LABEL_SETS.values(), ids=LABEL_SETS)
def test_every_class_and_region_has_a_colour_that_differs_from_its_neighbours(labels):
    for colours in (REGION_COLOURS, COLOURS_ON_WHITE):
        for one, other in itertools.combinations(labels.regions, 2):
            # 15 is six just noticeable differences; red and green of equal lightness come to 6.
            assert least_difference(colours[one], colours[other]) > 15, (one, other)
    assert set(labels.classes[1:]) <= CLASS_COLOURS.keys() & COLOURS_ON_WHITE.keys()


def test_missed_false_other_and_agreed_are_told_apart_by_everyone():
    for one, other in itertools.combinations(ERROR_COLOURS.values(), 2):
        assert least_difference(one, other) > 15, (one, other)
    assert least_difference(ERROR_COLOURS["missed"], ERROR_COLOURS["false"]) > 50
    assert not set(ERROR_COLOURS.values()) & set(REGION_COLOURS.values())


def test_colours_are_seen_on_what_they_lie_on():
    for colour in (*REGION_COLOURS.values(), *ERROR_COLOURS.values()):
        assert least_difference(colour, DARK.page) > 35, colour
    for colour in COLOURS_ON_WHITE.values():
        assert least_difference(colour, LIGHT.page) > 30, colour
    for theme in (DARK, LIGHT):
        assert least_difference(theme.page, theme.ink) > 80
