"""Colours of clusters."""

import numpy as np
import pytest
from PIL import Image

from luss.errors import LussError
from luss.labels.palette import colourise, overlay, palette


def test_thousands_of_ids_have_distinct_colours_and_only_background_is_black() -> None:
    colours = palette(4096)
    assert len(np.unique(colours, axis=0)) == 4096
    assert not colours[0].any()
    assert colours[1:].max(axis=1).min() > 100


def test_the_first_ids_are_easy_to_tell_apart() -> None:
    colours = palette(21).astype(int)
    distances = np.abs(colours[:, None] - colours[None]).sum(axis=2) + 1000 * np.eye(21, dtype=int)
    assert distances.min() > 50


def test_a_longer_palette_begins_with_the_shorter_one() -> None:
    np.testing.assert_array_equal(palette(920)[:51], palette(51))


def test_every_pixel_gets_the_colour_of_its_id() -> None:
    painted = colourise(np.array([[0, 3], [919, 3]], np.uint16))
    assert painted.dtype == np.uint8
    np.testing.assert_array_equal(painted, palette(920)[[[0, 3], [919, 3]]])


def test_ignored_pixels_are_white() -> None:
    assert colourise([[1000, 1]], ignore=1000)[0].tolist() == [[255, 255, 255], palette(2)[1].tolist()]


def test_an_overlay_leaves_the_background_as_it_is() -> None:
    image = Image.new("L", (2, 1), 100)
    mixed = np.asarray(overlay(image, [[0, 5]], alpha=0.25))
    assert mixed[0, 0].tolist() == [100, 100, 100]
    np.testing.assert_allclose(mixed[0, 1], 75 + 0.25 * palette(6)[5], atol=0.5)


def test_an_outline_takes_the_full_colour_and_the_inside_does_not() -> None:
    label_map = np.zeros((7, 8), np.uint16)
    label_map[1:6, 1:7] = 4
    mixed = np.asarray(overlay(Image.new("RGB", (8, 7)), label_map, alpha=0.0, outline=True))
    expected = label_map.copy()
    expected[2:5, 2:6] = 0
    np.testing.assert_array_equal(mixed, colourise(expected))


def test_a_map_of_another_size_is_refused() -> None:
    with pytest.raises(LussError, match="3 x 2 does not fit an image of 2 x 3"):
        overlay(Image.new("RGB", (2, 3)), np.zeros((2, 3), np.uint16))
