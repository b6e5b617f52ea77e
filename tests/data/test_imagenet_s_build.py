"""Building ImageNet-S from a miniature ImageNet: four folders, one of which ImageNet-S-919 merges into another."""

import os
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from luss.data import imagenet_s_build_archive
from luss.data.imagenet_s import write_mask
from luss.data.imagenet_s_build import MERGES, PUBLISHED, SETS, Built, Missing, build_set
from luss.data.imagenet_s_build_archive import find_sets, open_annotations, unpack
from luss.data.imagenet_s_build_sources import ImageNet, Lists
from luss.data.manifest import find_images
from luss.errors import LussError

FISH, DOG, MERGED, TOWEL = "n01443537", "n02099601", "n03887697", "n15075141"
SEMI = {FISH: [f"{FISH}_2"], DOG: [f"{DOG}_0"], TOWEL: [f"{TOWEL}_1", f"{MERGED}_174"]}
# The second fish lies in the dogs' folder of ImageNet: ImageNet-S has relabelled it.
VALIDATION = {
    FISH: ["ILSVRC2012_val_00000001", "ILSVRC2012_val_00000002"],
    DOG: ["ILSVRC2012_val_00000003"],
    TOWEL: ["ILSVRC2012_val_00000004"],
}
VAL_FOLDERS = {FISH: [1], DOG: [2, 3, 5], TOWEL: [4], MERGED: [6]}


def fill(path: Path) -> None:
    """A file of its own content: nothing here decodes images."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(path.name.encode() * 3)


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    root = tmp_path / "imagenet"
    for wnid in (FISH, DOG, TOWEL):
        for number in range(3):
            fill(root / "train" / wnid / f"{wnid}_{number}.JPEG")
    for number in (5, 174):
        fill(root / "train" / MERGED / f"{MERGED}_{number}.JPEG")
    for wnid, numbers in VAL_FOLDERS.items():
        for number in numbers:
            fill(root / "val" / wnid / f"ILSVRC2012_val_{number:08d}.JPEG")
    return root


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    """The unpacked archive of the 919 set."""
    root = tmp_path / "downloads" / "ImageNetS919"
    for split, names in (("train-semi", SEMI), ("validation", VALIDATION)):
        for wnid, stems in names.items():
            for stem in stems:
                write_mask(root / f"{split}-segmentation" / wnid / f"{stem}.png", np.full((3, 4), 2))
    return root


def packed(annotations: Path, archive: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(archive, "w") as opened:
        for path in sorted(annotations.rglob("*.png")):
            opened.write(path, prefix + path.relative_to(annotations.parent).as_posix())
    return archive


def build(
    annotations: Path, imagenet: Path, out: Path, number: int = 919, **settings: Any
) -> tuple[Built, list[Missing]]:
    missing: list[Missing] = []
    built = build_set(number, annotations, ImageNet.open(imagenet), out, on_missing=missing.append, **settings)
    return built, missing


def tree(root: Path) -> dict[str, bytes]:
    """Every file below a folder, through links, with its content."""
    found = {}
    for folder, _, names in os.walk(root, followlinks=True):
        for name in names:
            path = Path(folder) / name
            found[path.relative_to(root).as_posix()] = path.read_bytes()
    return found


def names(root: Path) -> set[str]:
    return set(tree(root)) if root.is_dir() else set()


def test_every_split_holds_what_the_masks_and_categories_say(annotations: Path, imagenet: Path, tmp_path: Path) -> None:
    built, missing = build(annotations, imagenet, tmp_path / "out")
    root = tmp_path / "out" / "ImageNetS919"
    assert missing == []
    assert names(root / "train-semi") == {f"{wnid}/{stem}.JPEG" for wnid, stems in SEMI.items() for stem in stems}
    assert names(root / "validation") == {f"{w}/{stem}.JPEG" for w, stems in VALIDATION.items() for stem in stems}
    assert names(root / "train") == {
        *(f"{wnid}/{wnid}_{number}.JPEG" for wnid in (FISH, DOG, TOWEL) for number in range(3)),
        f"{TOWEL}/{MERGED}_5.JPEG",
        f"{TOWEL}/{MERGED}_174.JPEG",
    }
    for split in ("train-semi", "validation"):
        folder = f"{split}-segmentation"
        assert tree(root / folder) == tree(annotations / folder)
    assert not (root / "test").exists()
    assert built.folder == root


def test_each_image_is_imagenets_own_also_when_relabelled_or_merged(
    annotations: Path, imagenet: Path, tmp_path: Path
) -> None:
    build(annotations, imagenet, tmp_path / "out")
    root = tmp_path / "out" / "ImageNetS919"
    relabelled = root / "validation" / FISH / "ILSVRC2012_val_00000002.JPEG"
    assert relabelled.resolve() == (imagenet / "val" / DOG / relabelled.name).resolve()
    for split in ("train", "train-semi"):
        merged = root / split / TOWEL / f"{MERGED}_174.JPEG"
        assert merged.resolve() == (imagenet / "train" / MERGED / merged.name).resolve()
    assert (root / "train-full").resolve() == (imagenet / "train").resolve()


def test_only_the_919_set_merges(annotations: Path, imagenet: Path, tmp_path: Path) -> None:
    build(annotations, imagenet, tmp_path / "out", number=300)
    root = tmp_path / "out" / "ImageNetS300"
    assert names(root / "train") == {f"{w}/{w}_{number}.JPEG" for w in (FISH, DOG, TOWEL) for number in range(3)}
    assert not (root / "train-full").exists()


def test_the_five_published_merges_and_counts_are_known() -> None:
    assert len(MERGES) == 5
    assert MERGES[MERGED] == TOWEL
    assert not set(MERGES) & set(MERGES.values())
    assert tuple(PUBLISHED) == SETS
    assert all(PUBLISHED[number]["categories"] == number for number in SETS)


def test_the_manifest_finds_every_training_image_through_the_links(
    annotations: Path, imagenet: Path, tmp_path: Path
) -> None:
    build(annotations, imagenet, tmp_path / "out")
    found = list(find_images(tmp_path / "out" / "ImageNetS919" / "train", report=pytest.fail))
    assert len(found) == 11


def test_a_flat_val_folder_and_kaggles_folders_do_as_well(annotations: Path, imagenet: Path, tmp_path: Path) -> None:
    for path in list((imagenet / "val").rglob("*.JPEG")):
        path.rename(imagenet / "val" / path.name)
    kaggle = tmp_path / "kaggle" / "ILSVRC" / "Data" / "CLS-LOC"
    kaggle.parent.mkdir(parents=True)
    imagenet.rename(kaggle)
    _, missing = build(annotations, tmp_path / "kaggle", tmp_path / "out")
    assert missing == []
    assert len(names(tmp_path / "out" / "ImageNetS919" / "validation")) == 4


def test_copies_are_files_and_outlive_imagenet(annotations: Path, imagenet: Path, tmp_path: Path) -> None:
    build(annotations, imagenet, tmp_path / "out", copy=True)
    root = tmp_path / "out" / "ImageNetS919"
    (root / "train-full").unlink()
    before = tree(root)
    assert len(before) == 11 + 4 + 4 + 4 + 4
    assert not [path for path in root.rglob("*") if path.is_symlink()]
    imagenet.rename(tmp_path / "gone")
    assert tree(root) == before


def test_the_counts_show_published_and_found_numbers(annotations: Path, imagenet: Path, tmp_path: Path) -> None:
    built, _ = build(annotations, imagenet, tmp_path / "out")
    assert {(count.what, count.expected, count.found) for count in built.counts} == {
        ("categories", 919, 3),
        ("train", 1183322, 11),
        ("train-semi", 9190, 4),
        ("train-semi masks", 9190, 4),
        ("validation", 12419, 4),
        ("validation masks", 12419, 4),
    }
    assert not built.as_published


def test_a_set_with_the_published_numbers_says_so(
    annotations: Path, imagenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PUBLISHED, 919, {"categories": 3, "train": 11, "train-semi": 4, "validation": 4, "test": 2})
    assert build(annotations, imagenet, tmp_path / "out")[0].as_published
    (imagenet / "val" / TOWEL / "ILSVRC2012_val_00000004.JPEG").unlink()
    assert not build(annotations, imagenet, tmp_path / "out")[0].as_published


@pytest.mark.parametrize("copy", [False, True])
def test_a_second_run_makes_nothing(annotations: Path, imagenet: Path, tmp_path: Path, copy: bool) -> None:
    assert build(annotations, imagenet, tmp_path / "out", copy=copy)[0].num_made > 10
    before = tree(tmp_path / "out")
    assert build(annotations, imagenet, tmp_path / "out", copy=copy)[0].num_made == 0
    assert tree(tmp_path / "out") == before


def test_broken_links_links_elsewhere_and_cut_copies_are_mended(
    annotations: Path, imagenet: Path, tmp_path: Path
) -> None:
    build(annotations, imagenet, tmp_path / "out")
    root = tmp_path / "out" / "ImageNetS919"
    whole = tree(root)
    damaged = [
        root / "train" / FISH,
        root / "train-semi" / DOG / f"{DOG}_0.JPEG",
        root / "train" / TOWEL / f"{MERGED}_5.JPEG",
    ]
    for path, target in zip(damaged, ("nowhere", "nowhere", imagenet / "train" / DOG / f"{DOG}_1.JPEG"), strict=True):
        path.unlink()
        path.symlink_to(target)
    mask = root / "validation-segmentation" / FISH / f"{VALIDATION[FISH][0]}.png"
    mask.unlink()
    mask.write_bytes(b"cut")
    built, _ = build(annotations, imagenet, tmp_path / "out")
    assert built.num_made == 4
    assert tree(root) == whole


def test_an_imagenet_that_has_moved_is_linked_anew(annotations: Path, imagenet: Path, tmp_path: Path) -> None:
    build(annotations, imagenet, tmp_path / "out")
    root = tmp_path / "out" / "ImageNetS919"
    before = tree(root)
    imagenet.rename(tmp_path / "moved")
    build(annotations, tmp_path / "moved", tmp_path / "out")
    assert tree(root) == before


def test_copying_after_linking_replaces_links_and_leaves_imagenet_alone(
    annotations: Path, imagenet: Path, tmp_path: Path
) -> None:
    original = tree(imagenet)
    build(annotations, imagenet, tmp_path / "out")
    root = tmp_path / "out" / "ImageNetS919"
    before = tree(root)
    build(annotations, imagenet, tmp_path / "out", copy=True)
    assert tree(root) == before
    assert [path.name for path in root.rglob("*") if path.is_symlink()] == ["train-full"]
    assert tree(imagenet) == original


def test_linking_after_copying_keeps_the_copies(annotations: Path, imagenet: Path, tmp_path: Path) -> None:
    build(annotations, imagenet, tmp_path / "out", copy=True)
    (tmp_path / "out" / "ImageNetS919" / "train" / FISH / f"{FISH}_1.JPEG").unlink()
    built, _ = build(annotations, imagenet, tmp_path / "out")
    assert built.num_made == 1
    assert (tmp_path / "out" / "ImageNetS919" / "train" / FISH / f"{FISH}_1.JPEG").is_symlink()


def test_a_split_that_is_a_link_is_refused(annotations: Path, imagenet: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "ImageNetS919").mkdir(parents=True)
    (tmp_path / "out" / "ImageNetS919" / "train").symlink_to(imagenet / "train")
    with pytest.raises(LussError, match="train is a link"):
        build(annotations, imagenet, tmp_path / "out")


def test_a_folder_in_a_files_place_is_named(annotations: Path, imagenet: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "ImageNetS919" / "train-semi" / DOG / f"{DOG}_0.JPEG").mkdir(parents=True)
    with pytest.raises(LussError, match=rf"{DOG}_0\.JPEG is a folder"):
        build(annotations, imagenet, tmp_path / "out")


@pytest.mark.parametrize("copy", [False, True])
def test_interrupting_anywhere_leaves_whole_files_and_the_next_run_finishes(
    annotations: Path, imagenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copy: bool
) -> None:
    build(annotations, imagenet, tmp_path / "whole", copy=copy)
    whole = tree(tmp_path / "whole")
    rename, calls = os.replace, 0

    def interrupt(source: Any, target: Any) -> None:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "replace", interrupt)
    for _ in range(20):
        try:
            build(annotations, imagenet, tmp_path / "out", copy=copy)
            break
        except KeyboardInterrupt:
            assert all(whole[name] == content for name, content in tree(tmp_path / "out").items())
    assert tree(tmp_path / "out") == whole


def test_what_a_killed_run_left_is_replaced(annotations: Path, imagenet: Path, tmp_path: Path) -> None:
    leftover = tmp_path / "out" / "ImageNetS919" / "train-semi" / DOG / f".{DOG}_0.JPEG.partial"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"half")
    build(annotations, imagenet, tmp_path / "out")
    assert not leftover.exists()


def test_everything_that_is_missing_is_told_and_the_rest_is_built(
    annotations: Path, imagenet: Path, tmp_path: Path
) -> None:
    (imagenet / "val" / DOG / "ILSVRC2012_val_00000003.JPEG").unlink()
    (imagenet / "train" / MERGED / f"{MERGED}_174.JPEG").unlink()
    for path in (imagenet / "train" / FISH).iterdir():
        path.unlink()
    (imagenet / "train" / FISH).rmdir()
    built, missing = build(annotations, imagenet, tmp_path / "out")
    assert [(found.split, found.name) for found in missing] == [
        ("train-semi", f"{FISH}/{FISH}_2.JPEG"),
        ("train-semi", f"{TOWEL}/{MERGED}_174.JPEG"),
        ("validation", f"{DOG}/ILSVRC2012_val_00000003.JPEG"),
        ("train", f"{FISH}/"),
    ]
    assert built.num_missing == 4
    assert len(names(tmp_path / "out" / "ImageNetS919" / "validation")) == 3


def test_an_imagenet_without_train_still_gives_the_validation_images(
    annotations: Path, imagenet: Path, tmp_path: Path
) -> None:
    (imagenet / "train").rename(tmp_path / "away")
    _, missing = build(annotations, imagenet, tmp_path / "out")
    assert len(names(tmp_path / "out" / "ImageNetS919" / "validation")) == 4
    assert {found.split for found in missing} == {"train", "train-semi"}


def write_lists(folder: Path, lines: str, categories: str = f"{FISH}\n{DOG}\n{TOWEL}") -> Path:
    for name, text in (("mapping/ImageNetS_im919_mapping_test.txt", lines), ("categories/ImageNetS_categories_im919.txt", categories)):  # fmt: skip
        (folder / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "data" / name).write_text(text, encoding="utf-8")
    return folder


TEST_LINES = (
    f"{DOG}/ILSVRC2012_val_00000005.JPEG {DOG}/ILSVRC2012_val_00000005.JPEG\n"
    f"{MERGED}/ILSVRC2012_val_00000006.JPEG {TOWEL}/ILSVRC2012_val_00000006.JPEG"
)


def test_lists_give_the_test_images(annotations: Path, imagenet: Path, tmp_path: Path) -> None:
    lists = Lists.open(write_lists(tmp_path / "toolkit", TEST_LINES))
    built, missing = build(annotations, imagenet, tmp_path / "out", lists=lists)
    assert missing == built.notes == []
    assert names(tmp_path / "out" / "ImageNetS919" / "test") == {
        f"{DOG}/ILSVRC2012_val_00000005.JPEG",
        f"{TOWEL}/ILSVRC2012_val_00000006.JPEG",
    }
    assert ("test", 27423, 2) in {(count.what, count.expected, count.found) for count in built.counts}


def test_without_lists_a_note_says_why_there_is_no_test_split(
    annotations: Path, imagenet: Path, tmp_path: Path
) -> None:
    built, _ = build(annotations, imagenet, tmp_path / "out")
    assert len(built.notes) == 1
    assert "--lists" in built.notes[0]


@pytest.mark.parametrize("line", ["one", "a/b.JPEG ../../b.JPEG", "a/b.JPEG b.JPEG", "a/b.JPEG c/.JPEG", "a b c"])
def test_a_line_of_the_lists_that_is_no_pair_of_images_is_named(
    annotations: Path, imagenet: Path, tmp_path: Path, line: str
) -> None:
    lists = Lists.open(write_lists(tmp_path / "toolkit", TEST_LINES + "\n\n" + line))
    with pytest.raises(LussError, match=r"mapping_test\.txt, line 4"):
        build(annotations, imagenet, tmp_path / "out", lists=lists)


def test_lists_of_other_categories_are_refused(annotations: Path, imagenet: Path, tmp_path: Path) -> None:
    lists = Lists.open(write_lists(tmp_path / "toolkit", TEST_LINES, categories=f"{FISH}\n{TOWEL}"))
    with pytest.raises(LussError, match=rf"1 surplus \({DOG}\)"):
        build(annotations, imagenet, tmp_path / "out", lists=lists)


def test_folders_that_hold_something_else_are_named(tmp_path: Path) -> None:
    (tmp_path / "holiday").mkdir()
    for opener in (ImageNet.open, Lists.open, find_sets):
        with pytest.raises(LussError, match="holiday"):
            opener(tmp_path / "holiday")


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
