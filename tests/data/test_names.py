"""Names of masks, and finding an image by its name."""

from collections.abc import Iterator

import numpy as np
import pytest

from luss.data import names
from luss.data.names import MaskNames, NameIndex, mask_name, name_hash, name_hashes, repeated


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


def test_names_of_one_hash_are_left_to_the_caller_to_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "name_hash", lambda name: 7)
    assert NameIndex(["a", "b"]).places("b") == [0, 1]
