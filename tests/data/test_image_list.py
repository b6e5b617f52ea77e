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


def test_names_that_are_no_utf8_survive_where_files_have_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a\udcff.jpg").touch()
    assert list(ImageList(write(tmp_path / "list.txt", "a\udcff.jpg")).names()) == ["a\udcff.jpg"]


def test_windows_line_ends_are_no_part_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"a.jpg\r\nb.jpg\r\n")
    assert list(ImageList(tmp_path / "list.txt").names()) == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lists_of_other_systems_lose_no_line(tmp_path: Path, encoding: str, end: str) -> None:
    (tmp_path / "list.txt").write_bytes(end.join(["größe.jpg", "b c.jpg", "猫.jpg"]).encode(encoding))
    assert list(ImageList(tmp_path / "list.txt").names()) == ["größe.jpg", "b c.jpg", "猫.jpg"]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16-le"])
def test_lists_in_letters_that_nobody_can_know_are_refused_with_file_and_line(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "list.txt").write_bytes("\na.jpg\nz\u00e4h.jpg\n".encode(encoding))
    line = 3 if encoding == "latin-1" else 2
    with pytest.raises(LussError, match=rf"list\.txt, line {line}, is not UTF-8 text: save the file as UTF-8"):
        ImageList(tmp_path / "list.txt")


def test_images_folders_and_lists_are_one_list_in_which_each_image_counts_once(tmp_path: Path) -> None:
    for name in ("photos/a.jpg", "photos/deep/b.png", "other/c.jpg", "other/notes.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    listed = write(tmp_path / "list.txt", f"{tmp_path}/other/c.jpg")
    found = ImageList(tmp_path / "photos" / "deep" / "b.png", tmp_path / "photos", listed)
    assert found.root == tmp_path
    assert list(found.names()) == ["photos/deep/b.png", "photos/a.jpg", "other/c.jpg"]
    assert ImageList(tmp_path / "photos", tmp_path / "photos" / "a.jpg").root == tmp_path / "photos"


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
