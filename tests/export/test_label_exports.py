"""The formats of labels: read back by the programs they are for, the same bytes after any stop, and a data card."""

import gc
import hashlib
import json
import os
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
import yaml
from PIL import Image
from pycocotools.coco import COCO
from small_labels import NAMES, NUM_CLUSTERS, small_labels
from test_label_contours import filled

from luss.data.imagenet_s import decode_mask, read_mask
from luss.errors import LussError
from luss.export import FORMATS, load_format
from luss.export.card import CardFacts, card, clusters_csv, write_card
from luss.export.coco import CocoWriter
from luss.export.formats import LabelFormat
from luss.export.job import ExportFolder, FileWriter, Tally, export_images
from luss.export.labelled import LabelledImages, MissingImage, StoredLabels
from luss.export.palette import write_palette_mask
from luss.export.standalone_dataset import PseudoLabelDataset
from luss.export.torch_folder import write_torch_folder
from luss.export.yolo import label_text, polygons, write_data_yaml, yolo_export
from luss.files import TEMPORARY_SUFFIX
from luss.labels.layers import Edits
from luss.labels.palette import palette
from luss.labels.store import LabelStore
from luss.labels.writer import Labels

pytestmark = pytest.mark.slow

LABEL_FORMATS = {name: found for name in FORMATS if isinstance(found := load_format(name), LabelFormat)}


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of two or three images, and a save every second image."""
    monkeypatch.setattr("luss.export.webdataset.SHARD_BYTES", 6000)
    monkeypatch.setattr("luss.export.job.SAVE_EVERY", 2)


@pytest.fixture
def images(tmp_path: Path) -> StoredLabels:
    return small_labels(tmp_path / "data")


def export(name: str, images: StoredLabels, out: Path, **options: Any) -> Tally:
    folder = ExportFolder(out, {"format": name}, images.num_clusters)
    format = LABEL_FORMATS[name]

    def finish() -> None:
        format.finish(out, images)
        options.get("stop", lambda: None)()

    return export_images(folder, images, lambda position: format.writer(out, images, position), finish=finish)


def content(folder: Path) -> dict[str, str]:
    """Every file but the record of the work, which says when it was saved last."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "export.json"
    }


class Stopped(Exception):
    """Stands for a kill."""


class StoppingAt(StoredLabels):
    """Labels that cannot be read from one image on."""

    at = 0

    def label_map(self, index: int) -> Labels:
        if index == self.at:
            raise Stopped
        return super().label_map(index)


@pytest.mark.parametrize("name", LABEL_FORMATS)
def test_an_export_that_was_stopped_anywhere_ends_with_the_same_bytes(
    name: str, images: StoredLabels, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = export(name, images, whole)
    for at in range(len(images)):
        stopping = StoppingAt(images.store, images.image_root)
        stopping.at = at
        with pytest.raises(Stopped):
            export(name, stopping, parts)
    assert not ExportFolder(parts, {"format": name}, NUM_CLUSTERS).complete
    found = export(name, images, parts)
    assert content(parts) == content(whole)
    assert (found.num_images, found.pixels.tolist()) == (expected.num_images, expected.pixels.tolist())


@pytest.mark.parametrize("name", LABEL_FORMATS)
def test_a_complete_export_is_not_made_again(name: str, images: StoredLabels, tmp_path: Path) -> None:
    first = export(name, images, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    stopping = StoppingAt(images.store, images.image_root)
    again = export(name, stopping, tmp_path / "out")
    assert again.pixels.tolist() == first.pixels.tolist()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


@pytest.mark.parametrize("name", LABEL_FORMATS)
def test_a_stop_between_the_last_file_and_the_record_does_no_harm(
    name: str, images: StoredLabels, tmp_path: Path
) -> None:
    def stop() -> None:
        raise Stopped

    with pytest.raises(Stopped):
        export(name, images, tmp_path / "out", stop=stop)
    export(name, images, tmp_path / "out")
    export(name, images, tmp_path / "whole")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


class OfOneThread(StoredLabels):
    """Labels whose store, as every store, serves one thread."""

    def name(self, index: int) -> str:
        assert threading.current_thread() is threading.main_thread()
        return super().name(index)

    def label_map(self, index: int) -> Labels:
        assert threading.current_thread() is threading.main_thread()
        return super().label_map(index)


@pytest.mark.parametrize("name", LABEL_FORMATS)
def test_the_label_store_is_read_by_one_thread(name: str, images: StoredLabels, tmp_path: Path) -> None:
    export(name, OfOneThread(images.store, images.image_root), tmp_path / "out")


@pytest.mark.parametrize("name", ["yolo", "webdataset"])
def test_a_missing_image_is_listed_and_left_out(name: str, images: StoredLabels, tmp_path: Path) -> None:
    images.image(4).unlink()
    tally = export(name, images, tmp_path / "out")
    assert tally.num_images == len(images) - 1
    assert str(images.image(4)) in (tmp_path / "out" / "skipped.csv").read_text()


def test_without_any_image_there_is_no_export(images: StoredLabels, tmp_path: Path) -> None:
    elsewhere = StoredLabels(images.store, tmp_path / "nowhere")
    with pytest.raises(LussError, match="no image of train could be exported"):
        export("yolo", elsewhere, tmp_path / "out")


def test_a_folder_with_another_export_or_with_other_files_is_refused(images: StoredLabels, tmp_path: Path) -> None:
    export("png", images, tmp_path / "out")
    with pytest.raises(LussError, match=r"holds another export \(format differ"):
        export("coco", images, tmp_path / "out")
    with pytest.raises(LussError, match="holds other files"):
        export("png", images, tmp_path / "data")
    with pytest.raises(LussError, match="is a file"):
        export("png", images, tmp_path / "out" / "export.json")


def test_png_masks_hold_the_label_maps_and_no_two_images_share_one(images: StoredLabels, tmp_path: Path) -> None:
    export("png", images, tmp_path / "out")
    names = [images.mask_name(index) for index in range(len(images))]
    assert names[:3] == ["dog/a.jpg.png", "dog/a.png.png", "dog/b.c.png"]
    assert len(set(names)) == len(NAMES)
    for index, name in enumerate(names):
        np.testing.assert_array_equal(read_mask(tmp_path / "out" / "masks" / name), images.label_map(index))


def test_palette_pictures_hold_the_ids_and_show_the_colours(images: StoredLabels, tmp_path: Path) -> None:
    export("palette", images, tmp_path / "out")
    with Image.open(tmp_path / "out" / "masks" / "f.png") as picture:
        assert picture.mode == "P"
        ids = images.label_map(5)
        np.testing.assert_array_equal(np.asarray(picture), ids)
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), palette(6)[ids])


def test_palette_pictures_of_too_many_clusters_name_the_other_format(tmp_path: Path) -> None:
    images = small_labels(tmp_path / "data", num_clusters=300)
    with pytest.raises(LussError, match="there is a cluster 300: use the format png"):
        export("palette", images, tmp_path / "out")
    with pytest.raises(LussError, match="cluster 256"):
        write_palette_mask(tmp_path / "x.png", np.array([[256]]))
    images.store.layers.add(Edits(drop=tuple(range(200, 301))))
    few = StoredLabels(LabelStore.open(tmp_path / "data" / "labels"), images.image_root)
    assert export("palette", few, tmp_path / "few").num_images == len(NAMES)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_pycocotools_reads_the_label_maps_back(
    images: StoredLabels, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images.store.names[2] = "Hündin"
    export("coco", StoredLabels(images.store, images.image_root), tmp_path / "out")
    coco = COCO(tmp_path / "out" / "annotations.json")
    assert {key: value["name"] for key, value in coco.cats.items()}[2] == "Hündin"
    assert len(coco.imgs) == len(NAMES)
    for index in range(len(images)):
        expected = images.label_map(index)
        found = np.zeros_like(expected)
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[index + 1])):
            mask = coco.annToMask(annotation)
            found[mask > 0] = annotation["category_id"]
            assert annotation["area"] == mask.sum()
            left, top, width, height = annotation["bbox"]
            assert mask[top : top + height, left : left + width].sum() == mask.sum()
        np.testing.assert_array_equal(found, expected)
    assert not list((tmp_path / "out").glob(".*"))


def test_a_coco_writer_refuses_ids_without_a_category_and_continues_only_what_is_there(
    images: StoredLabels, tmp_path: Path
) -> None:
    writer = CocoWriter(tmp_path / "a.json", images, None)
    with pytest.raises(LussError, match=r"dog/a\.jpg: id 9 has no category"):
        writer.write(0, np.array([[0, 9]], np.uint16))
    writer.close()
    position = {"images": 5, "annotations": 0, "num_images": 1, "num_annotations": 0}
    with pytest.raises(LussError, match="is gone or was cut"):
        CocoWriter(tmp_path / "b.json", images, position)


def test_yolo_polygons_fill_to_the_label_map(images: StoredLabels) -> None:
    ids = images.label_map(6)
    found = np.zeros_like(ids)
    for cluster, corners in polygons(ids, tolerance=0):
        found[filled(corners * [ids.shape[1], ids.shape[0]], ids.shape)] = cluster
    np.testing.assert_array_equal(found, ids)


def test_a_yolo_label_is_a_class_and_corners_between_0_and_1() -> None:
    assert label_text(np.array([[0, 0], [0, 3]])) == "2 1 1 0.5 1 0.5 0.5 1 0.5\n"
    assert label_text(np.zeros((4, 4), int)) == ""


def test_a_yolo_folder_has_a_label_for_every_linked_image_and_names(images: StoredLabels, tmp_path: Path) -> None:
    images.store.names[3] = "a: [dog] \\"
    out = tmp_path / "out"
    export("yolo", StoredLabels(images.store, images.image_root), out)
    facts = yaml.safe_load((out / "data.yaml").read_text(encoding="utf-8"))
    assert facts["names"][2] == "a: [dog] \\"
    assert len(facts["names"]) == NUM_CLUSTERS
    linked = [path for path in (out / facts["train"]).rglob("*") if path.is_symlink()]
    assert len(linked) == len(NAMES)
    for path in linked:
        label = Path(str(path).replace("/images/", "/labels/")).with_suffix(".txt")
        assert label.is_file()
        assert path.read_bytes() == path.resolve().read_bytes()
    targets = {path.name: path.resolve().name for path in linked if path.parent.name == "dog"}
    assert targets == {"a.jpg.jpg": "a.jpg", "a.png.png": "a.png", "b.c.png": "b.c.png"}


class Photographs(LabelledImages):
    """Files of a folder, which nobody labels."""

    def __init__(self, folder: Path) -> None:
        super().__init__("train", folder, 1, {})
        self.files = sorted(folder.iterdir())

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return self.files[index].name

    def names(self) -> Iterator[str]:
        return (path.name for path in self.files)

    def label_maps(self, start: int) -> Iterator[tuple[int, Labels | MissingImage]]:
        return iter(())


@pytest.mark.parametrize("length", [70, 240])
def test_two_threads_that_link_long_names_of_one_ending_leave_the_photographs_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    (tmp_path / "photos").mkdir()
    for letter in "ab":
        (tmp_path / "photos" / f"{letter * 5}{'x' * length}.jpg").write_text(letter)
    together, usual = threading.Barrier(2), Path.symlink_to

    def at_once(path: Path, target: Path) -> None:
        together.wait(60)
        try:
            usual(path, target)
        finally:
            # Nobody renames a link before the other's is there.
            together.wait(60)

    monkeypatch.setattr(Path, "symlink_to", at_once)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    images = Photographs(tmp_path / "photos")
    writer = yolo_export(tmp_path / "out", images)
    for index in range(2):
        writer.write(index, np.zeros((2, 2), np.uint16))
    writer.close()
    assert [path.read_text() for path in images.files] == ["a", "b"]
    writer.position()
    linked = sorted((tmp_path / "out" / "images" / "train").iterdir())
    assert [path.resolve() for path in linked] == images.files


@pytest.mark.parametrize("error", [FileExistsError, PermissionError])
def test_only_a_disk_without_links_gets_copies(
    images: StoredLabels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[OSError]
) -> None:
    def refuse(path: Path, target: Path) -> None:
        raise error

    monkeypatch.setattr(Path, "symlink_to", refuse)
    writer = yolo_export(tmp_path / "out", images)
    writer.write(4, images.label_map(4))
    if error is FileExistsError:
        with pytest.raises(FileExistsError):
            writer.position()
    else:
        writer.position()
        assert (tmp_path / "out" / "images" / "train" / "e.png").read_bytes() == images.image(4).read_bytes()
    writer.close()


def test_a_dropped_cluster_keeps_its_place_among_the_classes_of_yolo(images: StoredLabels, tmp_path: Path) -> None:
    images.store.layers.add(Edits(drop=(2,)))
    edited = StoredLabels(LabelStore.open(tmp_path / "data" / "labels"), images.image_root)
    write_data_yaml(tmp_path, edited)
    names = yaml.safe_load((tmp_path / "data.yaml").read_text())["names"]
    assert (names[1], names[2]) == ("unused 2", "cluster 3")


# The library leaves the last shard to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_images_masks_and_names_back_in_order(images: StoredLabels, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export("webdataset", images, out)
    shards = sorted(str(path) for path in out.glob("*.tar"))
    assert len(shards) > 1
    samples = list(webdataset.WebDataset(shards, shardshuffle=False))
    assert len(samples) == len(NAMES)
    for index, sample in enumerate(samples):
        facts = json.loads(sample["json"])
        ids = images.label_map(index)
        assert (facts["height"], facts["width"]) == ids.shape
        assert facts["clusters"] == [int(found) for found in np.unique(ids) if found]
        assert sample[images.image(index).suffix[1:]] == images.image(index).read_bytes()
        path = tmp_path / "mask.png"
        path.write_bytes(sample["seg.png"])
        np.testing.assert_array_equal(read_mask(path), ids)
    assert json.loads(samples[3]["json"])["name"] == "ünïcode/\\xff.png"
    decoded = next(iter(webdataset.WebDataset(shards, shardshuffle=False).decode("pil")))
    np.testing.assert_array_equal(decode_mask(decoded["seg.png"]), images.label_map(0))
    gc.collect()


@pytest.mark.parametrize("edits", [None, Edits(threshold=0.7, merge=((1, 4),), drop=(5,), names={1: "dog"})])
def test_the_dataset_file_gives_what_the_store_gives(
    images: StoredLabels, tmp_path: Path, edits: Edits | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if edits is not None:
        images.store.layers.add(edits)
    edited = StoredLabels(LabelStore.open(tmp_path / "data" / "labels"), images.image_root)
    out = tmp_path / "out"
    export("torch", edited, out)
    monkeypatch.setattr(sys, "path", [str(out), *sys.path])
    data = PseudoLabelDataset(out)
    assert (out / "dataset.py").read_bytes() == Path(
        sys.modules[PseudoLabelDataset.__module__].__file__ or ""
    ).read_bytes()
    assert len(data) == len(NAMES)
    for index, name in enumerate(NAMES):
        image, label, found = data[index]
        assert (found, image.size) == (name, label.shape[::-1])
        expected = edited.label_map(index)
        assert torch.equal(label, torch.from_numpy(expected.astype(np.int64)))
    assert data.names[1] == edited.categories[1]


def test_what_a_killed_process_left_never_lets_an_export_write_into_the_stored_labels(
    images: StoredLabels, tmp_path: Path
) -> None:
    sources = [*images.store.path.parent.glob("shard-*.h5"), images.store.path]
    before = {source: source.read_bytes() for source in sources}
    (tmp_path / "out" / "labels").mkdir(parents=True)
    for source in sources:
        # As after a kill between the link and its renaming, when a later process gets the same number.
        os.link(source, tmp_path / "out" / "labels" / f".{source.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    write_torch_folder(tmp_path / "out", images)
    assert {source: source.read_bytes() for source in sources} == before
    assert all((tmp_path / "out" / "labels" / source.name).read_bytes() == before[source] for source in sources)


def test_the_dataset_file_imports_nothing_of_luss() -> None:
    source = Path(sys.modules[PseudoLabelDataset.__module__].__file__ or "").read_text(encoding="utf-8")
    assert "import luss" not in source
    assert "from luss" not in source


def test_the_dataset_file_refuses_another_image_of_the_same_name(images: StoredLabels, tmp_path: Path) -> None:
    export("torch", images, tmp_path / "out")
    Image.new("RGB", (3, 3)).save(images.image(4))
    with pytest.raises(ValueError, match=r"e\.png is not the image that was labelled"):
        PseudoLabelDataset(tmp_path / "out")[4]


def test_the_card_says_what_a_stranger_needs(images: StoredLabels, tmp_path: Path) -> None:
    tally = export("png", images, tmp_path / "out")
    facts = CardFacts(
        title="photos: train",
        format_text="masks",
        origin="Pseudo labels.",
        threshold=0.4,
        threshold_source="validation",
        used_labels=True,
        made={"luss": "0.1.0"},
        settings={"cluster": {"cluster.num_clusters": 5}},
    )
    names = {**images.categories, 2: "dog | wolf"}
    text = card(facts, tally, names, num_skipped=3)
    assert "images: 7\n" in text
    assert "left out: 3 images" in text
    assert "threshold: 0.4000, searched on the validation masks: ground truth was used" in text
    assert "cluster.num_clusters=5" in text
    assert "That of the source images, to be stated by you." in text
    assert f"| 2 | dog \\| wolf | {tally.images[2]} |" in text
    rows = clusters_csv(tally, names).splitlines()
    assert rows[0] == "id,name,images,pixels"
    assert sum(int(row.rsplit(",", 1)[1]) for row in rows[1:]) == tally.pixels.sum()
    write_card(tmp_path / "out", facts, tally, names, num_skipped=3)
    assert (tmp_path / "out" / "README.md").read_text(encoding="utf-8") == text


def test_a_card_of_very_many_clusters_stays_readable() -> None:
    names = {cluster: f"cluster {cluster}" for cluster in range(1, 5001)}
    text = card(CardFacts("t", "f", "o"), Tally(0, *np.zeros((2, 5001), np.int64)), names, num_skipped=0)
    assert text.count("\n| ") == 1001
    assert "4000 more in `clusters.csv`" in text


def peak_of_coco(path: Path, images: StoredLabels, num: int) -> int:
    ids = np.ones((8, 8), np.uint16)
    tracemalloc.start()
    try:
        writer = CocoWriter(path, images, None)
        for _ in range(num):
            writer.write(0, ids)
        writer.finish()
        writer.close()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_of_the_coco_writer_does_not_grow_with_the_number_of_images(
    images: StoredLabels, tmp_path: Path
) -> None:
    peak_of_coco(tmp_path / "warm.json", images, 10)
    few, many = (peak_of_coco(tmp_path / f"{num}.json", images, num) for num in (200, 2000))
    assert many < few + 50_000  # 1800 more annotations are 300 kB of text


def test_no_other_map_waits_beside_a_very_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luss.export.job._WAITING_PIXELS", 100)
    written: list[int] = []
    writer = FileWriter(lambda index: index, lambda index, ids: written.append(index))
    try:
        for index in range(8):
            writer.write(index, np.zeros((11, 10), np.uint16))
            assert written[-1] == index
    finally:
        writer.close()
