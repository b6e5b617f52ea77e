"""Reading the annotations of ImageNet-S from folders and archives, hostile ones included."""

import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_imagenet import build, names, packed, tree

from luss.data import imagenet_s_build_archive
from luss.data.imagenet_s_build_archive import find_sets, open_annotations, unpack
from luss.errors import LussError


@pytest.mark.parametrize("prefix", ["", "release/"])
def test_an_archive_gives_the_same_set_as_its_folder(
    annotations: Path, imagenet: Path, tmp_path: Path, prefix: str
) -> None:
    archive = packed(annotations, tmp_path / "ImageNetS919-5f7f.zip", prefix)
    found = open_annotations(archive, tmp_path / "out" / "annotations")
    assert list(found) == [919]
    build(annotations, imagenet, tmp_path / "whole")
    build(found[919], imagenet, tmp_path / "out")
    assert tree(tmp_path / "out" / "ImageNetS919") == tree(tmp_path / "whole" / "ImageNetS919")


def test_masks_unpacked_below_the_output_are_linked_so_that_it_can_be_moved(
    annotations: Path, imagenet: Path, tmp_path: Path
) -> None:
    archive = packed(annotations, tmp_path / "ImageNetS919-5f7f.zip")
    found = open_annotations(archive, tmp_path / "out" / "annotations")
    build(found[919], imagenet, tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    assert len(names(tmp_path / "elsewhere" / "ImageNetS919" / "validation-segmentation")) == 4


def test_a_folder_of_archives_and_folders_gives_each_set_once(annotations: Path, tmp_path: Path) -> None:
    packed(annotations, annotations.parent / "ImageNetS919-5f7f.zip")
    small = annotations.parent / "away" / "ImageNetS50"
    small.parent.mkdir()
    (annotations.parent / "notes.zip").write_bytes(b"")
    annotations.rename(small)
    packed(small, annotations.parent / "ImageNetS50-a0fe.zip")
    small.rename(annotations)
    found = open_annotations(annotations.parent, tmp_path / "unpacked")
    assert list(found) == [50, 919]
    assert found[919] == annotations
    assert found[50] == tmp_path / "unpacked" / "ImageNetS50-a0fe" / "ImageNetS50"


def test_a_set_that_is_there_twice_is_refused(annotations: Path) -> None:
    other = annotations.parent / "copy"
    other.mkdir()
    (other / "ImageNetS919" / "validation-segmentation").mkdir(parents=True)
    with pytest.raises(LussError, match=r"both .* hold ImageNetS919"):
        find_sets(annotations.parent)


def test_unpacking_again_keeps_what_is_whole_and_replaces_what_is_cut(annotations: Path, tmp_path: Path) -> None:
    archive = packed(annotations, tmp_path / "ImageNetS919-5f7f.zip")
    unpack(archive, tmp_path / "masks")
    paths = sorted((tmp_path / "masks").rglob("*.png"))
    times = {path: path.stat().st_mtime_ns for path in paths}
    paths[0].write_bytes(paths[0].read_bytes()[:10])
    paths[1].unlink()
    unpack(archive, tmp_path / "masks")
    assert tree(tmp_path / "masks" / "ImageNetS919") == tree(annotations)
    assert all(path.stat().st_mtime_ns == times[path] for path in paths[2:])


def one_member(name: str, **fields: Any) -> Callable[[Path], None]:
    def write(archive: Path) -> None:
        member = zipfile.ZipInfo("x.png")
        member.filename = member.orig_filename = name
        for field, value in fields.items():
            setattr(member, field, value)
        with zipfile.ZipFile(archive, "w") as opened:
            opened.writestr("ImageNetS50/validation-segmentation/a/good.png", b"x")
            opened.writestr(member, b"target")

    return write


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (one_member("../evil.png"), r"\.\."),
        (one_member("ImageNetS50/../../evil.png"), r"\.\."),
        (one_member("/etc/evil.png"), "absolute"),
        (one_member("C:/evil.png"), "absolute"),
        (one_member("C:evil.png"), "absolute"),
        (one_member("\\\\host\\evil.png"), "absolute"),
        (one_member("a\\..\\..\\evil.png"), "backslash"),
        (one_member("link.png", external_attr=(stat.S_IFLNK | 0o777) << 16, create_system=3), "link"),
        (one_member("pipe.png", external_attr=(stat.S_IFIFO | 0o644) << 16, create_system=3), "link or a device"),
    ],
    ids=["parent", "parent inside", "absolute", "drive", "drive without slash", "share", "backslash", "link", "pipe"],
)
def test_an_archive_with_a_member_that_leads_elsewhere_is_refused_before_anything_is_written(
    tmp_path: Path, write: Callable[[Path], None], message: str
) -> None:
    write(tmp_path / "a.zip")
    with pytest.raises(LussError, match=message):
        unpack(tmp_path / "a.zip", tmp_path / "deep" / "masks")
    assert not (tmp_path / "deep").exists()
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize(
    ("limit", "value"), [("MAX_MEMBERS", 3), ("MAX_TOTAL_BYTES", 4000), ("MAX_MEMBER_BYTES", 1000)]
)
def test_an_archive_beyond_a_limit_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as opened:
        for number in range(5):
            opened.writestr(f"ImageNetS50/{number}.png", bytes(1001))
    monkeypatch.setattr(imagenet_s_build_archive, limit, value)
    with pytest.raises(LussError, match="would unpack to 5 files"):
        unpack(tmp_path / "bomb.zip", tmp_path / "masks")
    assert not (tmp_path / "masks").exists()


def test_a_member_that_unpacks_to_more_than_it_says_writes_no_file(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "liar.zip", "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("ImageNetS50/a.png", bytes(100_000))
    content = (tmp_path / "liar.zip").read_bytes()
    (tmp_path / "liar.zip").write_bytes(content.replace((100_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(LussError, match=r"liar\.zip is not a sound zip file"):
        unpack(tmp_path / "liar.zip", tmp_path / "masks")
    assert not list((tmp_path / "masks").rglob("*.png"))


def test_damaged_and_absent_archives_are_named(annotations: Path, tmp_path: Path) -> None:
    archive = packed(annotations, tmp_path / "half.zip")
    archive.write_bytes(archive.read_bytes()[:300])
    with pytest.raises(LussError, match=r"half\.zip is not a sound zip file"):
        open_annotations(archive, tmp_path / "masks")
    with pytest.raises(LussError, match=r"gone\.zip does not exist"):
        open_annotations(tmp_path / "gone.zip", tmp_path / "masks")


def test_what_file_managers_add_is_left_out(annotations: Path, tmp_path: Path) -> None:
    archive = packed(annotations, tmp_path / "ImageNetS919.zip")
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr("__MACOSX/ImageNetS919/._a.png", b"x")
        opened.writestr("ImageNetS919/.DS_Store", b"x")
    unpack(archive, tmp_path / "masks")
    assert tree(tmp_path / "masks" / "ImageNetS919") == tree(annotations)
    assert not (tmp_path / "masks" / "__MACOSX").exists()
