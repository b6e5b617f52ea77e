"""Names of masks, and finding an image by its name."""

from collections.abc import Iterator

import numpy as np
import pytest

from luss.data import names
from luss.data.names import MaskNames, NameIndex, folded, mask_name, name_hash, name_hashes, repeated


class Listed:
    """Images that are only names."""

    def __init__(self, *listed: str) -> None:
        self.listed = listed

    def __len__(self) -> int:
        return len(self.listed)

    def name(self, index: int) -> str:
        return self.listed[index]

    def names(self) -> Iterator[str]:
        return iter(self.listed)


def test_the_hash_of_a_name_never_changes() -> None:
    assert name_hash("dog/a.jpg") == 11034798214898497023
    assert name_hash("\udcff.png") != name_hash("ÿ.png")


def test_a_name_is_found_where_it_stands_and_every_repetition_with_it() -> None:
    listed = ["b", "ü", "a", "b", "\udcff"]
    index = NameIndex(listed, len(listed))
    assert [index.places(name) for name in ("b", "ü", "a", "\udcff", "c")] == [[0, 3], [1], [2], [4], []]
    assert NameIndex([]).places("a") == []


def test_repeated_hashes_are_those_of_repeated_names() -> None:
    assert repeated(name_hashes(["a", "b", "a", "c", "c"])).tolist() == sorted([name_hash("a"), name_hash("c")])
    assert repeated(np.empty(0, np.uint64)).tolist() == []


def test_only_images_that_would_share_a_mask_keep_their_ending() -> None:
    masks = MaskNames(Listed("dog/x.jpg", "dog/x.png", "dog/y.JPEG", "x.jpg"))
    assert [masks[index] for index in range(4)] == ["dog/x.jpg.png", "dog/x.png.png", "dog/y.png", "x.png"]
    assert mask_name("a.b/c.d.webp") == "a.b/c.d.png"


def masks_of(*listed: str) -> list[str]:
    found = MaskNames(Listed(*listed))
    return [found[index] for index in range(len(listed))]


@pytest.mark.parametrize(
    "listed",
    [
        ("x.jpg", "x.png", "x.jpg.jpg"),
        ("x.jpg", "x.jpg.jpg", "x.jpg.jpg.jpg", "x.png"),
        ("a/X.jpg", "a/x.jpg", "a/x.JPG", "a/x.png"),
        ("Dog/x.jpg", "dog/x.jpg"),
        ("caf\u00e9.jpg", "cafe\u0301.jpg"),
        ("straße.jpg", "STRASSE.jpg"),
        ("x.jpg", "x.png/a.jpg", "x.png/b.jpg"),
        ("x.jpg", "x.npz/deep/a.jpg"),
        (f"{'y' * 250}.jpg", f"{'y' * 250}.png"),
        ("x.jpg", f"x.jpg.{name_hash('x.jpg'):016x}.jpg", "x.png", "x.jpg.jpg"),
        ("\udcff.jpg", "\udcff.png", "\udcff.jpg.jpg"),
    ],
)
def test_no_two_images_have_one_mask_whatever_a_file_system_takes_for_the_same(listed: tuple[str, ...]) -> None:
    folders = {folded(part) for name in listed for part in [name.rpartition("/")[0]] if part}
    for ending in (".png", ".npz", ".jpg"):
        masks = [folded(mask.removesuffix(".png") + ending) for mask in masks_of(*listed)]
        assert len(set(masks)) == len(listed)
        assert not folders & set(masks)
    assert all(len(mask.rpartition("/")[2].encode("utf-8", "surrogateescape")) <= 255 for mask in masks_of(*listed))


def test_the_names_of_masks_do_not_depend_on_the_order_of_the_images() -> None:
    listed = ["x.jpg", "x.png", "x.jpg.jpg", "X.jpg", "y.jpg"]
    expected = dict(zip(listed, masks_of(*listed), strict=True))
    assert dict(zip(listed[::-1], masks_of(*listed[::-1]), strict=True)) == expected
    assert expected["y.jpg"] == "y.png"


def test_names_that_were_kept_apart_are_said_and_others_are_not() -> None:
    assert MaskNames(Listed("x.jpg", "y.jpg")).sentence() == ""
    found = MaskNames(Listed("z.jpg", "x.jpg", "x.png"))
    assert found.num_unusual == 2
    assert "2 images would share the name of a mask" in found.sentence()
    assert "x.jpg.png of x.jpg" in found.sentence()


def test_names_of_one_hash_are_left_to_the_caller_to_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "name_hash", lambda name: 7)
    assert NameIndex(["a", "b"]).places("b") == [0, 1]
