"""What annotation tools and trainers read: each export is read back by the rules of the program that it is for."""

import itertools
import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO
from small_labels import NAMES, NUM_CLUSTERS, small_labels

import luss.compat  # noqa: F401  (before torchvision)
from luss.export import load_format
from luss.export.cvat import voc_colours
from luss.export.formats import LabelFormat
from luss.export.job import ExportFolder, export_images
from luss.export.label_studio import brush_rle, label_config
from luss.export.labelled import LabelledImages, StoredLabels, distinct_names
from luss.export.yolo import yolo_export
from luss.labels.writer import Labels

# isort: split
from torchvision.datasets import CocoDetection

pytestmark = pytest.mark.slow


@pytest.fixture
def images(tmp_path: Path) -> StoredLabels:
    return small_labels(tmp_path / "data")


def export(name: str, images: LabelledImages, out: Path) -> Path:
    format = load_format(name)
    assert isinstance(format, LabelFormat)
    folder = ExportFolder(out, {"format": name}, images.num_clusters)
    writer = format.writer
    export_images(folder, images, lambda place: writer(out, images, place), finish=lambda: format.finish(out, images))
    return out


class Bits:
    """A stream of bits, most significant first."""

    def __init__(self, content: Sequence[int]) -> None:
        self.bits = "".join(f"{byte:08b}" for byte in content)
        self.place = 0

    def take(self, count: int) -> int:
        self.place += count
        return int(self.bits[self.place - count : self.place], 2)


def brush_mask(rle: Sequence[int], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask in Label Studio's code, decoded number by number."""
    stream = Bits(rle)
    total, bits = stream.take(32), stream.take(5) + 1
    sizes = [stream.take(4) + 1 for _ in range(4)]
    numbers: list[int] = []
    while len(numbers) < total:
        repeated, count = stream.take(1), stream.take(sizes[stream.take(2)]) + 1
        numbers += [stream.take(bits)] * count if repeated else [stream.take(bits) for _ in range(count)]
    picture = np.array(numbers).reshape(*shape, 4)
    assert np.isin(picture, (0, 255)).all()
    assert (picture == picture[..., :1]).all()
    return picture[..., 3] > 0


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (190, 180)])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def test_a_brush_mask_is_the_code_of_its_pixels(shape: tuple[int, int], share: float) -> None:
    mask = np.random.default_rng(0).random(shape) < share
    np.testing.assert_array_equal(brush_mask(brush_rle(mask), shape), mask)


def test_label_studio_gets_every_image_with_a_brush_mask_for_every_cluster(
    images: StoredLabels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luss.export.label_studio.FILE_BYTES", 3000)
    images.store.names[2] = images.store.names[4] = "Hündin"
    images = StoredLabels(images.store, images.image_root)
    out = export("label-studio", images, tmp_path / "out")
    files = sorted(out.glob("tasks-*.json"))
    assert len(files) > 1
    tasks = [task for file in files for task in json.loads(file.read_text(encoding="utf-8"))]
    assert len(tasks) == len(NAMES)
    config = ElementTree.parse(out / "label_config.xml").getroot()
    labels = [label.attrib["value"] for label in config.iter("Label")]
    assert len(set(labels)) == NUM_CLUSTERS
    ids = {name: cluster for cluster, name in zip(sorted(images.categories), labels, strict=True)}
    assert ids["Hündin"] == 2
    for index, task in enumerate(tasks):
        expected, found = images.label_map(index), np.zeros_like(images.label_map(index))
        (prediction,) = task["predictions"]
        for region in prediction["result"]:
            assert (region["from_name"], region["to_name"]) == ("label", "image")
            assert (region["original_height"], region["original_width"]) == expected.shape
            (label,) = region["value"]["brushlabels"]
            found[brush_mask(region["value"]["rle"], expected.shape)] = ids[label]
        np.testing.assert_array_equal(found, expected)
        # Served from the folder above that of the images: Label Studio lets nobody serve the document root itself.
        (served,) = parse_qs(urlparse(task["data"]["image"]).query, errors="surrogateescape")["d"]
        assert (images.image_root.parent / served).is_file()


def test_names_for_other_programs_are_as_many_as_the_clusters_and_say_no_markup() -> None:
    names = distinct_names(
        {1: "dog", 2: "dog", 3: "dog (2)", 4: "a:b#c\n", 5: "background", 6: "\x00", 7: "</View>\ud800"}
    )
    assert len(set(names.values()) - {"background"}) == 7
    assert (names[1], names[4], names[6]) == ("dog", "a b c", "cluster 6")
    values = [label.attrib["value"] for label in ElementTree.fromstring(label_config(names)).iter("Label")]
    assert values == list(names.values())


def cvat_annotations(path: Path) -> Iterator[tuple[str, list[tuple[str, NDArray[np.bool_]]]]]:
    """Name and masks of each image in a zip file, by the rules of Pascal VOC: an object is a colour, its label the colour of the class there."""
    instances = {tuple(colour): number for number, colour in enumerate(voc_colours(256).tolist())}
    with zipfile.ZipFile(path) as archive:
        rows = [line.split(":") for line in archive.read("labelmap.txt").decode().splitlines() if line[0] != "#"]
        assert all(len(row) == 4 for row in rows)
        labels = {tuple(map(int, row[1].split(","))): row[0] for row in rows}
        assert len(labels) == len(rows)
        for name in archive.read("ImageSets/Segmentation/default.txt").decode().splitlines():
            pictures = []
            for folder in ("SegmentationClass", "SegmentationObject"):
                with archive.open(f"{folder}/{name}.png") as file, Image.open(file) as picture:
                    assert picture.mode == "RGB"
                    pictures.append(np.asarray(picture))
            classes, objects = pictures
            found = []
            for colour in np.unique(objects.reshape(-1, 3), axis=0).tolist():
                mask = (objects == colour).all(axis=2)
                (label,) = np.unique(classes[mask], axis=0).tolist()
                if instances[tuple(colour)]:
                    found.append((labels[tuple(label)], mask))
                else:
                    assert labels[tuple(label)] == "background"
            yield name, found


def test_cvat_gets_an_object_for_every_cluster_of_an_image(
    images: StoredLabels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luss.export.cvat.IMAGES_A_ZIP", 4)
    images.store.names[3] = "a: [dog]"
    images = StoredLabels(images.store, images.image_root)
    out = export("cvat", images, tmp_path / "out")
    files = sorted(out.glob("train-*.zip"))
    assert [path.name for path in files] == ["train-000000.zip", "train-000001.zip"]
    ids = {
        entry["name"]: cluster for cluster, entry in enumerate(json.loads((out / "cvat-labels.json").read_text()), 1)
    }
    assert ids["a  [dog]"] == 3
    found = list(itertools.chain.from_iterable(map(cvat_annotations, files)))
    assert [name for name, _ in found][:3] == ["dog/a.jpg", "dog/a.png", "dog/b.c"]
    for index, (_, objects) in enumerate(found):
        expected = images.label_map(index)
        painted = np.zeros_like(expected)
        for label, mask in objects:
            painted[mask] = ids[label]
        np.testing.assert_array_equal(painted, expected)


def test_the_colours_of_pascal_voc_are_those_of_its_documentation_and_never_meet() -> None:
    assert voc_colours(4).tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
    assert voc_colours(256)[20].tolist() == [0, 64, 128]
    assert len(np.unique(voc_colours(65536), axis=0)) == 65536


def test_an_export_that_became_smaller_leaves_no_file_of_the_larger_one(images: StoredLabels, tmp_path: Path) -> None:
    for name, stale in (("label-studio", "tasks-000001.json"), ("cvat", "train-000001.zip")):
        out = export(name, images, tmp_path / name)
        (out / stale).write_text("[]")
        state = json.loads((out / "export.json").read_text())
        (out / "export.json").write_text(json.dumps(state | {"complete": False, "next": 0, "position": {}}))
        export(name, images, out)
        assert not (out / stale).exists()


class Named(LabelledImages):
    """Photographs of some names, whose upper half is cluster 1."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        super().__init__("train", folder, 1, {1: "top"})
        self._names = list(names)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (6, 4), (len(name), 0, 0)).save(folder / name)

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        return self._names[index]

    def names(self) -> Iterator[str]:
        return iter(self._names)

    def label_maps(self, start: int) -> Iterator[tuple[int, Labels]]:
        ids = np.repeat(np.array([[1], [1], [0], [0]], np.uint16), 6, axis=1)
        return ((index, ids) for index in range(start, len(self)))


def last_of_them(path: str) -> str:
    """Where Ultralytics' trainers (YOLOv5, v8 and later) look for the labels of an image."""
    before, after = f"{os.sep}images{os.sep}", f"{os.sep}labels{os.sep}"
    return after.join(path.rsplit(before, 1)).rsplit(".", 1)[0] + ".txt"


def first_of_them(path: str) -> str:
    """Where YOLOv7's trainer looks, in a folder whose own path has no such part."""
    return path.replace(f"{os.sep}images{os.sep}", f"{os.sep}labels{os.sep}", 1).rsplit(".", 1)[0] + ".txt"


@pytest.mark.parametrize("rule", [last_of_them, first_of_them])
def test_trainers_of_yolo_find_the_labels_of_photographs_in_folders_of_any_name(tmp_path: Path, rule: Any) -> None:
    names = ["images/a.png", "images/images/a.png", "trip/images/b.png", "trip/images_/b.png", "images.d/c.png"]
    names += ["labels/images/d.png", "trip/labels/b.png", "images/images.png", "Images/a.b.png", "e.png"]
    images = Named(tmp_path / "photos", names)
    out = export("yolo", images, tmp_path / "out")
    root = out / yaml.safe_load((out / "data.yaml").read_text())["train"]
    linked = [path for path in root.rglob("*.*") if path.is_file()]
    assert {path.resolve() for path in linked} == {(images.image_root / name).resolve() for name in names}
    labels = [rule(str(path)) for path in linked]
    assert len(set(labels)) == len(names)
    assert all(Path(label).read_text().startswith("0 ") for label in labels)
    assert len(list((out / "labels").rglob("*.txt"))) == len(names)


def test_a_yolo_folder_may_itself_lie_below_folders_called_images(tmp_path: Path) -> None:
    images = Named(tmp_path / "photos", ["images/a.png"])
    writer = yolo_export(tmp_path / "images" / "out", images)
    writer.write(0, next(images.label_maps(0))[1])
    writer.position()
    writer.close()
    (linked,) = (tmp_path / "images" / "out" / "images").rglob("*.png")
    assert Path(last_of_them(str(linked))).is_file()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_torchvision_reads_a_coco_file_with_its_photographs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = Named(tmp_path / "photos", ["images/a.png", "b b/ü.png"])
    out = export("coco", images, tmp_path / "out")
    data = CocoDetection(str(images.image_root), str(out / "annotations.json"))
    assert len(data) == 2
    for picture, annotations in data:
        (annotation,) = annotations
        assert data.coco.annToMask(annotation).shape == picture.size[::-1]
    # What loadRes, info and showAnns of pycocotools need, from 2.0.8 on.
    coco: COCO = data.coco
    assert all(isinstance(value, str) for value in coco.dataset["info"].values())
    coco.info()
    result = [{key: coco.anns[1][key] for key in ("image_id", "category_id", "segmentation")} | {"score": 0.5}]
    assert len(coco.loadRes(result).anns) == 1
    assert "description" in capsys.readouterr().out


def test_webdataset_packs_no_file_that_is_not_the_labelled_image(tmp_path: Path) -> None:
    images = Named(tmp_path / "photos", ["a.png", "b.png", "c.png"])
    (tmp_path / "photos" / "b.png").write_text("-----BEGIN PRIVATE KEY-----")
    Image.new("RGB", (5, 4)).save(tmp_path / "photos" / "c.png")
    out = export("webdataset", images, tmp_path / "out")
    listed = (out / "skipped.csv").read_text()
    assert "b.png,cannot be read: not an image" in listed
    assert "c.png,is not the image that was labelled" in listed
    assert b"PRIVATE" not in (out / "train-000000.tar").read_bytes()
