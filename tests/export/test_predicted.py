"""Folders of predictions: the same bytes after any stop, images that come later, and what is no longer as it was."""

import functools
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from luss.data.imagenet_s import read_mask
from luss.data.manifest import Manifest, build_manifest
from luss.data.skipped import SkippedFiles
from luss.data.walk import find_images
from luss.export import PREDICTED
from luss.export.job import ExportFolder, Tally, export_images
from luss.export.predicted import SegmentedImages, earlier_first, make_writer, relist, summary
from luss.labels.palette import overlay
from luss.predict import Predicted

NAMES = {0: "background", 1: "dog", 2: "cluster 2", 3: "cluster 3"}
BROKEN = "c.png"


class Stopped(Exception):
    """Stands for a kill."""


class Photos:
    """Photographs of two shapes, a model that says about each what its name stands for, and a pass that may be stopped at a file."""

    def __init__(self, folder: Path) -> None:
        self.root, self.asked = folder, list[str]()
        self.stop_at: str | None = None
        for number, name in enumerate(["a.png", "b.png", BROKEN, "d/e.png", "f.png", "g.png", "h.png"]):
            self.add(name, wide=bool(number % 2))

    def add(self, name: str, *, wide: bool = False) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9 if wide else 6, 5), (len(name), 80, 90)).save(path)

    def labels(self, name: str) -> Any:
        with Image.open(self.root / name) as image:
            return np.full((image.height, image.width), 1 + sum(name.encode()) % 3, np.uint16)

    def segment(self, manifest: Manifest, indices: Sequence[int]) -> Iterator[Predicted]:
        for index in sorted(indices, key=lambda index: (manifest.size(index), index)):
            name = manifest.name(index)
            if name == self.stop_at:
                raise Stopped
            self.asked.append(name)
            if name == BROKEN:
                yield Predicted(index, None, (str(manifest.path(index)), "truncated"))
            else:
                labels = self.labels(name)
                yield Predicted(index, labels, confidence=np.full(labels.shape, 0.5, np.float32))

    def images(self, out: Path, unreadable: SkippedFiles, earlier: bool) -> SegmentedImages:
        names = find_images(self.root)
        if earlier:
            names = earlier_first(Manifest.open(out / "manifest", "images"), names)
        build_manifest(self.root, out / "manifest", "images", skipped=unreadable, names=names)
        manifest = Manifest.open(out / "manifest", "images")
        return SegmentedImages(manifest, NAMES, functools.partial(self.segment, manifest))

    def predict(self, out: Path, format: str = "png", *, stop_at: str | None = None) -> Tally:
        """One call of the command; what it asked the model for is in `asked`."""
        self.stop_at, self.asked = stop_at, []
        folder = ExportFolder(out, {"format": format}, 3, grows=True)
        folder.save(folder.start, folder.position, listed=folder.listed, complete=folder.complete)
        unreadable = SkippedFiles(out / "manifest" / "skipped.csv")
        images = relist(folder, unreadable, lambda earlier: self.images(out, unreadable, earlier))
        return export_images(
            folder, images, functools.partial(make_writer, out, images, format=format, with_overlay=True)
        )


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Photos:
    monkeypatch.setattr(SegmentedImages, "block", 3)
    monkeypatch.setattr("luss.export.job.SAVE_EVERY", 3)
    return Photos(tmp_path / "photos")


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("format", PREDICTED)
def test_a_pass_that_was_stopped_anywhere_ends_with_the_same_bytes_and_repeats_no_finished_block(
    photos: Photos, tmp_path: Path, format: str
) -> None:
    (photos.root / "empty.png").write_bytes(b"")
    whole = photos.predict(tmp_path / "whole", format)
    order = list(photos.asked)
    assert order == ["a.png", BROKEN, "b.png", "f.png", "d/e.png", "g.png", "h.png"]
    for place, name in enumerate(order):
        with pytest.raises(Stopped):
            photos.predict(tmp_path / "parts", format, stop_at=name)
        assert photos.asked == order[3 * (max(0, place - 1) // 3) : place]
    parts = photos.predict(tmp_path / "parts", format)
    assert photos.asked == order[6:]
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    assert (parts.num_images, parts.pixels.tolist()) == (whole.num_images, whole.pixels.tolist())


def test_the_overlay_of_a_large_photograph_shows_the_ids_below_the_centres_of_its_pixels(
    photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def labels(name: str) -> Any:
        ids = np.ones((30, 30), np.uint16)
        ids[1::3, 1::3] = 2
        return ids

    monkeypatch.setattr("luss.export.predicted.OVERLAY_PIXELS", 100)
    monkeypatch.setattr(photos, "labels", labels)
    shutil.rmtree(photos.root)
    photos.root.mkdir()
    Image.new("RGB", (30, 30), (90, 90, 90)).save(photos.root / "a.png")
    photos.predict(tmp_path / "out")
    with Image.open(tmp_path / "out" / "overlays" / "a.jpg") as picture:
        assert picture.size == (10, 10)
        expected = overlay(Image.new("RGB", (10, 10), (90, 90, 90)), np.full((10, 10), 2), outline=True)
        assert np.abs(np.asarray(picture).astype(int) - np.asarray(expected)).max() < 12


@pytest.mark.parametrize("format", PREDICTED)
def test_images_that_came_since_are_added_and_the_others_left_alone(
    photos: Photos, tmp_path: Path, format: str
) -> None:
    out = tmp_path / "out"
    photos.predict(out, format)
    before = {path: path.stat().st_mtime_ns for path in (out / "masks").rglob("*.*")}
    photos.add("aa.png")
    photos.add("d/z.png", wide=True)
    tally = photos.predict(out, format)
    assert photos.asked == ["aa.png", "d/z.png"]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (tally.num_images, int(tally.pixels.sum())) == (8, 5 * (4 * 6 + 4 * 9))
    assert (out / "overlays" / "d" / "z.jpg").is_file()
    if format == "coco":
        images = json.loads((out / "coco.json").read_text())["images"]
        assert [image["file_name"] for image in images][-2:] == ["aa.png", "d/z.png"]
        assert len(images) == 8


def vanish(photos: Photos) -> None:
    (photos.root / "b.png").unlink()


def change_size(photos: Photos) -> None:
    photos.add("b.png")


def share_a_mask(photos: Photos) -> None:
    shutil.copy(photos.root / "b.png", photos.root / "b.jpg")


@pytest.mark.parametrize("change", [vanish, change_size, share_a_mask])
def test_where_images_that_are_done_have_changed_all_are_done_again(
    photos: Photos, tmp_path: Path, change: Callable[[Photos], None]
) -> None:
    photos.predict(tmp_path / "out")
    change(photos)
    found = photos.predict(tmp_path / "out")
    asked = photos.asked
    expected = photos.predict(tmp_path / "anew")
    assert asked == photos.asked
    assert found.pixels.tolist() == expected.pixels.tolist()
    new = content(tmp_path / "anew")
    assert {name: content(tmp_path / "out")[name] for name in new} == new


def test_what_could_not_be_read_stays_listed_until_it_can(photos: Photos, tmp_path: Path) -> None:
    empty, listed = photos.root / "empty.png", tmp_path / "out" / "skipped.csv"
    empty.write_bytes(b"")
    for _ in range(2):
        photos.predict(tmp_path / "out")
        assert listed.read_text() == f"path,reason\n{empty},empty file\n{photos.root / BROKEN},truncated\n"
    photos.add("empty.png")
    photos.predict(tmp_path / "out")
    assert photos.asked == ["empty.png"]
    assert listed.read_text() == f"path,reason\n{photos.root / BROKEN},truncated\n"


def test_masks_hold_what_the_model_said_and_the_summary_adds_it_up(photos: Photos, tmp_path: Path) -> None:
    tally = photos.predict(tmp_path / "out")
    names = [name for name in photos.asked if name != BROKEN]
    for name in names:
        np.testing.assert_array_equal(read_mask(tmp_path / "out" / "masks" / name), photos.labels(name))
    found = summary(tally, NAMES)
    pixels = sum(np.bincount(photos.labels(name).ravel(), minlength=4) for name in names)
    assert [entry["pixels"] for entry in found["classes"]] == list(pixels)
    assert [entry["name"] for entry in found["classes"]] == list(NAMES.values())
    assert found["images"] == 6
