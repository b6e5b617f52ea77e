"""A text file of image paths: its root, the names below it, and what is no list."""

from pathlib import Path

import pytest

from luss.data.image_list import ImageList
from luss.errors import LussError


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", errors="surrogateescape")
    return path


def test_names_are_relative_to_the_deepest_common_folder_and_keep_their_order(tmp_path: Path) -> None:
    path = write(tmp_path / "list.txt", f"{tmp_path}/photos/dog/b.jpg", "", f"{tmp_path}/photos/cat/a b.jpg  ")
    found = ImageList(path)
    assert found.root == tmp_path / "photos"
    assert list(found.names()) == ["dog/b.jpg", "cat/a b.jpg"]
    assert list(found.names()) == ["dog/b.jpg", "cat/a b.jpg"]


def test_relative_paths_are_relative_to_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    found = ImageList(write(tmp_path / "list.txt", "photos/a.jpg", "../b.jpg"))
    assert found.root == tmp_path
    assert list(found.names()) == ["here/photos/a.jpg", "b.jpg"]


def test_a_path_that_is_listed_again_counts_once(tmp_path: Path) -> None:
    found = ImageList(write(tmp_path / "list.txt", "a.jpg", "b.jpg", "./a.jpg", "c.jpg", "a.jpg"))
    assert list(found.names()) == ["a.jpg", "b.jpg", "c.jpg"]


def test_names_that_are_no_utf8_survive(tmp_path: Path) -> None:
    assert list(ImageList(write(tmp_path / "list.txt", "a\udcff.jpg")).names()) == ["a\udcff.jpg"]


def test_windows_line_ends_are_no_part_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"a.jpg\r\nb.jpg\r\n")
    assert list(ImageList(tmp_path / "list.txt").names()) == ["a.jpg", "b.jpg"]


def test_an_empty_list_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LussError, match=r"list\.txt lists no images"):
        ImageList(write(tmp_path / "list.txt", "", "  "))


def test_a_file_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"\xff\xd8\0\0\n")
    with pytest.raises(LussError, match=r"list\.txt is not a list of paths"):
        ImageList(tmp_path / "list.txt")


def test_a_list_that_is_absent_is_named(tmp_path: Path) -> None:
    with pytest.raises(LussError, match=r"nowhere\.txt cannot be read \(No such file"):
        ImageList(tmp_path / "nowhere.txt")
