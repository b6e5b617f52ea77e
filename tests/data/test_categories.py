"""Categories of images by their folders, and their numbers."""

import numpy as np
import pytest

from luss.data.categories import categories_of, numbered_categories


def test_the_category_is_the_first_folder() -> None:
    assert list(categories_of(["dog/a.jpg", "dog/deep/b.jpg", "c.jpg", ".x/d.jpg"])) == ["dog", "dog", None, ".x"]


def test_categories_are_numbered_by_first_appearance_in_four_bytes_an_image() -> None:
    found, names = numbered_categories(iter(["b", None, "a", "b"]), 4)
    assert (found.tolist(), found.dtype, names) == ([0, -1, 1, 0], np.int32, ["b", "a"])


def test_no_categories_have_no_names() -> None:
    found, names = numbered_categories([None, None], 2)
    assert (found.tolist(), names) == ([-1, -1], [])


def test_fewer_categories_than_images_are_an_error() -> None:
    with pytest.raises(ValueError, match="too short"):
        numbered_categories(["a"], 2)
