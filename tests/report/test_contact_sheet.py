"""Contact sheets."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image

from luss.labels.palette import palette
from luss.report.contact_sheet import cluster_sheet, contact_sheet

RED, GREEN = (255, 0, 0), (0, 255, 0)


def colours_of(sheet: Image.Image) -> set[tuple[int, ...]]:
    return {tuple(colour) for colour in np.asarray(sheet).reshape(-1, 3).tolist()}


def test_rows_stand_below_each_other_and_images_beside_each_other() -> None:
    sheet = contact_sheet([("a", [Image.new("RGB", (50, 50), RED)] * 3), ("b", [Image.new("L", (50, 50), 9)])], tile=20)
    pixels = np.asarray(sheet)
    red = np.argwhere((pixels == RED).all(axis=2))
    grey = np.argwhere((pixels == 9).all(axis=2))
    assert len(red) == 3 * 400
    assert len(grey) == 400
    assert grey[:, 0].min() > red[:, 0].max()
    assert grey[:, 1].min() == red[:, 1].min()


def test_images_keep_their_aspect() -> None:
    pixels = np.asarray(contact_sheet([("", [Image.new("RGB", (400, 100), RED)])], tile=40))
    rows, columns = np.nonzero((pixels == RED).all(axis=2))
    assert (int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1) == (40, 10)


def test_images_beyond_the_columns_are_never_loaded() -> None:
    def images() -> Iterator[Image.Image]:
        yield Image.new("RGB", (9, 9), RED)
        raise AssertionError("loaded")

    sheet = contact_sheet([("a", images())], tile=10, columns=1)
    assert RED in colours_of(sheet)


def test_any_title_can_be_drawn_and_long_ones_are_cut() -> None:
    plain = contact_sheet([("", [Image.new("RGB", (9, 9))])], tile=40)
    for title in ("猫 \udcff\n café", "x" * 1000):
        titled = contact_sheet([(title, [Image.new("RGB", (9, 9))])], tile=40)
        assert titled.size == plain.size
        assert titled.tobytes() != plain.tobytes()
        margin = np.asarray(titled)[:, -3:]
        assert (margin == 255).all()


def test_titles_and_images_do_not_overlap() -> None:
    titled, plain = (
        np.asarray(contact_sheet([(title, [Image.new("RGB", (9, 9), RED)] * 4)], tile=40)) for title in ("gjpqy|Ä", "")
    )
    tiles = (plain == RED).all(axis=2)
    rows = np.argwhere((titled != plain).any(axis=2))[:, 0]
    assert rows.max() < np.argwhere(tiles)[:, 0].min()
    assert rows.min() > 0


def test_no_rows_give_a_blank_sheet() -> None:
    assert colours_of(contact_sheet([])) == {(255, 255, 255)}


def load(index: int) -> tuple[Image.Image, npt.NDArray[np.uint16]]:
    label_map = np.zeros((10, 20), np.uint16)
    label_map[:, 10:] = index % 3 + 1
    return Image.new("RGB", (20, 10), GREEN), label_map


def test_the_largest_cluster_comes_first_with_its_mask_over_the_image() -> None:
    clusters = np.array([1] * 2 + [3] * 5 + [0] * 9)
    loaded: list[int] = []

    def watched(index: int) -> tuple[Image.Image, npt.NDArray[np.uint16]]:
        loaded.append(index)
        return load(2 if clusters[index] == 3 else 0)

    sheet = cluster_sheet(clusters, watched, num_samples=4, tile=20, alpha=1.0)
    pixels = np.asarray(sheet)
    tops = [np.argwhere((pixels == palette(4)[cluster]).all(axis=2))[:, 0].min() for cluster in (3, 1)]
    assert tops[0] < tops[1]
    assert (pixels == GREEN).all(axis=2).sum() == 6 * 100
    assert len(loaded) == len(set(loaded)) == 4 + 2


def test_only_the_largest_clusters_are_shown_and_the_background_never() -> None:
    clusters = np.repeat([0, 1, 2, 3], [50, 4, 5, 6])
    loaded: list[int] = []

    def watched(index: int) -> tuple[Image.Image, npt.NDArray[np.uint16]]:
        loaded.append(index)
        return load(index)

    cluster_sheet(clusters, watched, num_samples=9, max_clusters=2, tile=8)
    assert set(clusters[loaded]) == {2, 3}


def test_a_cluster_always_shows_the_same_images_but_not_just_the_first() -> None:
    clusters = np.ones(100, np.int64)
    shown: list[list[int]] = []
    for _ in range(2):
        shown.append([])

        def watched(index: int, row: list[int] = shown[-1]) -> tuple[Image.Image, npt.NDArray[np.uint16]]:
            row.append(index)
            return load(index)

        cluster_sheet(clusters, watched, num_samples=5, tile=8)
    assert shown[0] == shown[1] != list(range(5))
