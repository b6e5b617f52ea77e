"""Building ImageNet-S from a miniature ImageNet."""

import os
from pathlib import Path
from typing import Any

import pytest
from small_imagenet import DOG, FISH, MERGED, SEMI, TOWEL, VALIDATION, build, fill, names, tree

from luss.data.imagenet_s_build import MERGES, PUBLISHED
from luss.data.imagenet_s_build_archive import find_sets
from luss.data.imagenet_s_build_sources import ImageNet, Lists
from luss.data.manifest import find_images
from luss.errors import LussError


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


@pytest.mark.parametrize("copy", [False, True])
def test_training_images_without_a_category_lie_beside_the_919_and_the_two_are_all_of_imagenet(
    annotations: Path, imagenet: Path, tmp_path: Path, copy: bool
) -> None:
    for number in range(2):
        fill(imagenet / "train" / "n09999999" / f"n09999999_{number}.JPEG")
    for _ in range(2):
        build(annotations, imagenet, tmp_path / "out", copy=copy)
        root = tmp_path / "out" / "ImageNetS919"
        assert names(root / "train-extra") == {f"n09999999/n09999999_{number}.JPEG" for number in range(2)}
        both = [Path(name).name for split in ("train", "train-extra") for name in names(root / split)]
        assert sorted(both) == sorted(Path(name).name for name in names(imagenet / "train"))
        assert (root / "train-extra" / "n09999999").is_symlink() != copy
    build(annotations, imagenet, tmp_path / "out", number=300)
    assert not (tmp_path / "out" / "ImageNetS300" / "train-extra").exists()


def test_the_five_published_merges_and_counts_are_known() -> None:
    assert len(MERGES) == 5
    assert MERGES[MERGED] == TOWEL
    assert not set(MERGES) & set(MERGES.values())
    assert tuple(PUBLISHED) == (50, 300, 919)
    assert all(published["categories"] == number for number, published in PUBLISHED.items())


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
