"""Walking over folders of images: what is left out, what cannot be looked at, and noticing later that there are others."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from nasty_folder import add_image

from luss.data.walk import Changes, FolderNote, Met, changes, find_images, is_made_by_luss
from luss.errors import LussError


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def refuse(monkeypatch: pytest.MonkeyPatch, *folders: str) -> None:
    """Folders of these names can no longer be listed."""
    scandir = os.scandir

    def refusing(folder: Any) -> Any:
        if Path(folder).name in folders:
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refusing)


@pytest.mark.parametrize(
    "files",
    [
        [
            "run/manifest/config.yaml",
            "run/manifest/STARTED.json",
            "run/predict/masks/train/x.png",
            "run/predict/clusters.png",
        ],
        ["run/predict/config.yaml", "run/predict/DONE.json", "run/predict/masks/train/x.png"],
        ["masks/export.json", "masks/masks/deep/x.png"],
        ["page/report.json", "page/index.html", "page/pictures/x.jpg"],
    ],
)
def test_what_luss_has_written_is_no_photograph_and_is_said(tmp_path: Path, files: list[str]) -> None:
    add_image(tmp_path / "photos" / "a.png")
    for name in files:
        touch(tmp_path / "photos" / "deep" / name)
    met = Met()
    assert list(find_images(tmp_path / "photos", met)) == ["a.png"]
    assert len(met.made_by_luss) == 1
    assert is_made_by_luss(met.made_by_luss[0])


def test_a_folder_that_is_named_itself_is_walked_whoever_made_it(tmp_path: Path) -> None:
    touch(tmp_path / "export.json")
    add_image(tmp_path / "masks" / "x.png")
    assert list(find_images(tmp_path)) == ["masks/x.png"]


def test_photographs_beside_files_of_such_names_are_kept(tmp_path: Path) -> None:
    for name in ("config.yaml", "index.html", "manifest/a.png", "a.png"):
        touch(tmp_path / "deep" / name)
    assert list(find_images(tmp_path)) == ["deep/a.png", "deep/manifest/a.png"]


def test_a_folder_that_cannot_be_listed_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/x.jpg", "locked/x.jpg", "lost+found/x.jpg"):
        touch(tmp_path / name)
    refuse(monkeypatch, "locked", "lost+found")
    met = Met()
    assert list(find_images(tmp_path, met)) == ["a/x.jpg"]
    with pytest.raises(LussError, match=r"1 folders of images cannot be listed(.|\n)*locked: Permission denied\nallow"):
        met.check_listed()


def test_an_entry_that_cannot_be_looked_at_is_taken_for_a_folder(tmp_path: Path) -> None:
    class Entry:
        name = "x"

        def is_dir(self) -> bool:
            raise OSError(5, "Input/output error")

    class Entries:
        def __enter__(self) -> list[Entry]:
            return [Entry()]

        def __exit__(self, *error: object) -> None:
            pass

    met = Met()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "scandir", lambda folder: Entries())
        assert list(find_images(tmp_path, met)) == []
    assert [path.name for path, _ in met.unlisted] == ["x"]


@pytest.fixture
def listed(tmp_path: Path) -> tuple[Path, list[str]]:
    """A folder of images in folders, and the notes of a walk."""
    root = tmp_path / "photos"
    for name in ("a.jpg", "b/c.jpg", "b/d.jpg", os.fsdecode(b"caf\xe9/e.jpg"), "tab\there/f.heic", "empty/notes.txt"):
        touch(root / name)
    notes: list[FolderNote] = []
    assert len(list(find_images(root, Met(on_folder=notes.append)))) == 5
    return root, [note.line() for note in notes]


def test_a_folder_that_nobody_has_touched_has_not_changed_and_is_not_listed_again(
    listed: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "scandir", None)
    assert changes(*listed) == Changes()


def test_images_that_came_and_went_are_counted(listed: tuple[Path, list[str]]) -> None:
    root, notes = listed
    touch(root / "b" / "new.jpg")
    touch(root / "b" / "new.png")
    assert changes(root, notes) == Changes(added=2)
    (root / "a.jpg").unlink()
    assert changes(root, notes) == Changes(added=2, removed=1)
    shutil.rmtree(root / os.fsdecode(b"caf\xe9"))
    assert changes(root, notes).removed >= 2


def test_files_that_are_no_pictures_and_results_of_luss_change_nothing(listed: tuple[Path, list[str]]) -> None:
    root, notes = listed
    touch(root / "b" / "notes.txt")
    for name in ("manifest/config.yaml", "manifest/DONE.json", "predict/masks/a.png"):
        touch(root / "b" / "run" / name)
    assert changes(root, notes) == Changes()


def test_a_copy_with_other_times_has_not_changed(listed: tuple[Path, list[str]], tmp_path: Path) -> None:
    root, notes = listed
    shutil.copytree(root, tmp_path / "copy")
    for folder in (tmp_path / "copy").rglob("*"):
        os.utime(folder, (1, 1))
    assert changes(tmp_path / "copy", notes) == Changes()
    (tmp_path / "copy" / "a.jpg").rename(tmp_path / "copy" / "z.jpg")
    assert changes(tmp_path / "copy", notes) == Changes(added=1, removed=1)


def test_looking_ends_after_its_time(listed: tuple[Path, list[str]]) -> None:
    root, notes = listed
    touch(root / "b" / "new.jpg")
    assert changes(root, notes, seconds=-1) == Changes()
