"""A folder of predictions: one file an image in one of four formats, what is done, and what it adds up to.

masks/<name>.png | .npz   label maps at the images' sizes, names kept (`luss.predict.MaskNames`)
coco.json                 in place of masks, for the format coco
overlays/<name>.jpg       the image under the colours of its map, at most 4 megapixels
predictions.json          what the folder was made with: a second pass with other settings is refused
journal.jsonl             one line a finished image
summary.json              ids with names, colours, pixels and images
skipped.csv               what could not be read
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from luss.data.imagenet_s import write_mask
from luss.data.images import read_image
from luss.data.manifest import Manifest
from luss.data.skipped import escape_path
from luss.errors import LussError
from luss.export.coco import run_length
from luss.export.journal import Journal
from luss.export.masks import check_palette_ids, write_palette_mask
from luss.files import TEMPORARY_SUFFIX, read_json, replacing, write_json
from luss.labels.palette import overlay, palette
from luss.models.segmenter import compared_size
from luss.predict import Labels, MaskNames, Predicted

FORMATS = ("png", "palette", "npz", "coco")
RECORD, JOURNAL, SUMMARY, COCO = "predictions.json", "journal.jsonl", "summary.json", "coco.json"
OVERLAY_PIXELS = 4_000_000
_COUNTED_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class ClassTotal:
    """What an id adds up to.

    Attributes:
        id: 0 = background.
        name: Its name.
        colour: "#rrggbb" in palettes and overlays.
        pixels: Over all images.
        images: That hold at least one such pixel.
    """

    id: int
    name: str
    colour: str
    pixels: int
    images: int


@dataclass(frozen=True)
class Totals:
    """What all finished images add up to.

    Attributes:
        images: How many they are.
        classes: One entry an id, 0..C.
    """

    images: int
    classes: list[ClassTotal]


class PredictionFolder:
    """Writes label maps into a folder; a killed pass is continued, and nothing of other settings is mixed in."""

    def __init__(
        self, folder: Path, manifest: Manifest, *, format: str, with_overlay: bool, names: Mapping[int, str]
    ) -> None:
        """Opens a folder that `claim` has accepted, and clears away half-written files of killed passes.

        Only for who may be sure that no other process writes there.

        Args:
            folder: Where everything goes.
            manifest: The images.
            format: One of `FORMATS`.
            with_overlay: Whether overlays are written too.
            names: Name of every id 0..C.
        """
        self.folder, self.manifest, self.format, self.with_overlay = folder, manifest, format, with_overlay
        self.names = dict(names)
        self.mask_names = MaskNames(manifest)
        for part in (folder / "masks", folder / "overlays"):
            for left in part.rglob(f".*{TEMPORARY_SUFFIX}"):
                left.unlink(missing_ok=True)
        self.journal = Journal(folder / JOURNAL)

    @property
    def needs_confidence(self) -> bool:
        """Whether the format stores it."""
        return self.format == "npz"

    def missing(self) -> NDArray[np.int64]:
        """Manifest indices of the images that are not finished: 8 bytes each."""
        return np.fromiter((i for i in range(len(self.manifest)) if not self._is_done(i)), np.int64)

    def add(self, prediction: Predicted) -> None:
        """Writes the files of one image, then its line in the journal.

        Raises:
            LussError: The disk is full.
        """
        assert prediction.labels is not None, "only what could be read is added"
        index, labels = prediction.index, prediction.labels
        if self.format != "coco":
            self._write(self._mask(index), labels, prediction.confidence)
        if self.with_overlay:
            _write_overlay(self._overlay(index), self.manifest.path(index), labels)
        counts = _count(labels, len(self.names))
        pixels = {str(i): int(counts[i]) for i in np.flatnonzero(counts)}
        record: dict[str, Any] = {"size": list(labels.shape), "pixels": pixels}
        if self.format == "coco":
            record["masks"] = {i: run_length(labels == int(i)) for i in pixels if i != "0"}
        self.journal.append(self.manifest.name(index), record)

    def finish(self) -> Totals:
        """Writes `summary.json`, and `coco.json` for that format; both are made anew each time, so names may have changed."""
        self.journal.refresh()
        if self.format == "coco":
            self._write_coco()
        totals = self._totals()
        write_json(self.folder / SUMMARY, asdict(totals))
        return totals

    def _is_done(self, index: int) -> bool:
        files = [] if self.format == "coco" else [self._mask(index)]
        files += [self._overlay(index)] if self.with_overlay else []
        return self.journal.find(self.manifest.name(index)) is not None and all(file.is_file() for file in files)

    def _mask(self, index: int) -> Path:
        path = self.folder / "masks" / self.mask_names[index]
        return path.with_suffix(".npz") if self.format == "npz" else path

    def _overlay(self, index: int) -> Path:
        return (self.folder / "overlays" / self.mask_names[index]).with_suffix(".jpg")

    def _write(self, path: Path, labels: Labels, confidence: NDArray[np.float32] | None) -> None:
        if self.format == "png":
            write_mask(path, labels)
        elif self.format == "palette":
            write_palette_mask(path, labels)
        else:
            assert confidence is not None, "npz stores the confidence"
            with replacing(path) as temporary, open(temporary, "wb") as file:
                np.savez_compressed(file, labels=labels, confidence=confidence.astype(np.float16))

    def _records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Manifest index and journal record of every finished image, in the order of the manifest."""
        for index, name in enumerate(self.manifest.names()):
            record = self.journal.find(name)
            if record is not None:
                yield index, record

    def _totals(self) -> Totals:
        pixels, images, num_done = np.zeros(len(self.names), np.int64), np.zeros(len(self.names), np.int64), 0
        for _, record in self._records():
            num_done += 1
            for key, count in record["pixels"].items():
                pixels[int(key)] += count
                images[int(key)] += 1
        colours = palette(len(self.names))
        classes = [
            ClassTotal(i, name, "#{:02x}{:02x}{:02x}".format(*colours[i]), int(pixels[i]), int(images[i]))
            for i, name in sorted(self.names.items())
        ]
        return Totals(num_done, classes)

    def _write_coco(self) -> None:
        """Streams the journal; numbers follow the manifest, so a pass that was killed gives the same bytes."""
        categories = [{"id": i, "name": name} for i, name in sorted(self.names.items()) if i]
        with replacing(self.folder / COCO) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.write(f'{{"categories": {_json(categories)},\n"images": [')
            separator = ""
            for index, record in self._records():
                height, width = record["size"]
                image = {
                    "id": index + 1,
                    "file_name": escape_path(self.manifest.name(index)),
                    "width": width,
                    "height": height,
                }
                file.write(f"{separator}\n{_json(image)}")
                separator = ","
            file.write('],\n"annotations": [')
            separator, number = "", 0
            for index, record in self._records():
                for category, mask in record["masks"].items():
                    number += 1
                    annotation = {
                        "id": number,
                        "image_id": index + 1,
                        "category_id": int(category),
                        **mask,
                        "iscrowd": 0,
                    }
                    file.write(f"{separator}\n{_json(annotation)}")
                    separator = ","
            file.write("]}\n")


def claim(folder: Path, made_with: Mapping[str, Any]) -> None:
    """Makes a folder the place of predictions made in one way.

    Args:
        folder: New, empty, or of an earlier pass.
        made_with: What decides the content, as JSON values.

    Raises:
        LussError: The folder holds predictions made otherwise (says what differs), or something else.
    """
    path, wanted = folder / RECORD, json.loads(json.dumps(made_with))
    if not path.is_file():
        if folder.exists() and (
            not folder.is_dir() or any(not entry.name.startswith(".") for entry in folder.iterdir())
        ):
            raise LussError(f"{folder} is not empty and holds no predictions: give a new folder as --out")
        write_json(path, wanted)
        return
    before = read_json(path)
    if not isinstance(before, dict):
        raise LussError(f"{path} is no record of predictions: give another --out, or delete {folder}")
    for key in sorted({*before, *wanted}):
        if before.get(key) != wanted.get(key):
            raise LussError(
                f"{folder} holds predictions made with {key}={_shown(before.get(key))}, now it is {_shown(wanted.get(key))}: "
                "give another --out, or delete that folder"
            )


def check_format(format: str, num_clusters: int) -> None:
    """Raises LussError where a format cannot be written: too many clusters for palette pictures, a package that is missing."""
    if format not in FORMATS:
        raise LussError(f"there is no format {format!r}: choose one of {', '.join(FORMATS)}")
    if format == "palette":
        check_palette_ids([num_clusters])
    if format == "coco":
        run_length(np.ones((1, 1), np.bool_))


def _count(labels: Labels, num_ids: int) -> NDArray[np.int64]:
    """Pixels of every id; some rows at a time, because counting takes 8 bytes a pixel."""
    counts = np.zeros(num_ids, np.int64)
    rows = max(1, _COUNTED_AT_ONCE // labels.shape[1])
    for first in range(0, labels.shape[0], rows):
        counts += np.bincount(labels[first : first + rows].ravel(), minlength=num_ids)
    return counts


def _write_overlay(path: Path, image_path: Path, labels: Labels) -> None:
    """The blended picture; a large photograph's is smaller than the photograph, so that blending takes bounded memory."""
    height, width = compared_size((labels.shape[0], labels.shape[1]), OVERLAY_PIXELS)
    image = read_image(image_path, min_side=min(height, width))
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    rows, columns = (np.arange(n) * before // n for n, before in zip((height, width), labels.shape, strict=True))
    blended = overlay(image, labels[rows][:, columns], outline=True)
    with replacing(path) as temporary:
        blended.save(temporary, format="JPEG", quality=90)


def _shown(value: Any) -> str:
    return _json(value) if value is not None else "nothing"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
