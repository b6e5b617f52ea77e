"""Masks for CVAT: zip files of its format "Segmentation mask 1.1", which has the layout of Pascal VOC."""

import itertools
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from luss.data.skipped import escape_path
from luss.export.formats import LabelFormat
from luss.export.imagenet_s_zip import zip_member
from luss.export.job import FileWriter
from luss.export.labelled import LabelledImages, distinct_names
from luss.export.parts import numbered, remove_surplus
from luss.files import replacing, write_json
from luss.labels.palette import Colours
from luss.labels.writer import Labels

IMAGES_A_ZIP = 10_000
"""What a task of CVAT can still hold; a zip file lists its members in memory."""
CLASSES, OBJECTS = "SegmentationClass", "SegmentationObject"
# CVAT knows as many colours of objects in an image, the background's included.
_MAX_OBJECTS = 256
_TEXT = """\
`SPLIT-000000.zip`, ... hold the masks of up to 10,000 images each, as CVAT reads them. For every file create a task with these images
(`ImageSets/Segmentation/default.txt` in it lists them without their endings), paste `cvat-labels.json` as its labels (Raw), and choose
Actions, Upload annotations, Segmentation mask 1.1. The folders hold the same masks: `SegmentationClass` by cluster,
`SegmentationObject` by object, which is one for every cluster of an image."""


class CvatWriter(FileWriter[str]):
    """Masks in two folders, and the zip files of them, which appear at `finish`."""

    def __init__(self, folder: Path, images: LabelledImages) -> None:
        """Writes nothing yet."""
        super().__init__(images.mask_name, self._write_masks)
        self._folder, self._images = folder, images
        self._colours = voc_colours(max(images.num_clusters + 1, _MAX_OBJECTS))

    def _write_masks(self, name: str, ids: Labels) -> None:
        present = np.unique(ids[ids > 0])
        _write_picture(self._folder / CLASSES / name, ids, self._colours)
        if len(present) < _MAX_OBJECTS:
            objects = np.zeros_like(self._colours)
            objects[present] = self._colours[1 : len(present) + 1]
            _write_picture(self._folder / OBJECTS / name, ids, objects)

    def finish(self) -> None:
        """See `luss.export.job.Writer.finish`."""
        self.position()
        names = distinct_names(self._images.categories)
        lines = [f"{name}:{','.join(map(str, self._colours[key]))}::" for key, name in sorted(names.items())]
        label_map = "\n".join(["# label:color_rgb:parts:actions", "background:0,0,0::", *lines, ""])
        labels = [
            {"name": name, "color": f"#{self._colours[key].tobytes().hex()}", "attributes": []}
            for key, name in sorted(names.items())
        ]
        write_json(self._folder / "cvat-labels.json", labels)
        written = self._written()
        paths = numbered(self._folder, f"{self._images.split}-{{}}.zip")
        while some := list(itertools.islice(written, IMAGES_A_ZIP)):
            self._write_zip(next(paths), some, label_map)
        remove_surplus(paths)

    def _written(self) -> Iterator[str]:
        names = map(self._images.mask_name, range(len(self._images)))
        return (name for name in names if (self._folder / CLASSES / name).is_file())

    def _write_zip(self, path: Path, names: Sequence[str], label_map: str) -> None:
        listed = "".join(f"{escape_path(name.removesuffix('.png'))}\n" for name in names)
        with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            archive.writestr(zip_member("labelmap.txt"), label_map)
            archive.writestr(zip_member("ImageSets/Segmentation/default.txt"), listed)
            for folder, name in itertools.product((CLASSES, OBJECTS), names):
                if (source := self._folder / folder / name).is_file():
                    member = zip_member(f"{folder}/{escape_path(name)}")
                    with open(source, "rb") as mask, archive.open(member, "w") as stored:
                        shutil.copyfileobj(mask, stored)


def voc_colours(num: int) -> Colours:
    """(num, 3) uint8 RGB, all different up to 2**24: Pascal VOC deals the bits of an id out to red, green and blue, highest first."""
    ids, colours = np.arange(num), np.zeros((num, 3), np.uint8)
    for place in range(8):
        for channel in range(3):
            colours[:, channel] |= ((ids >> (3 * place + channel) & 1) << (7 - place)).astype(np.uint8)
    return colours


def _write_picture(path: Path, ids: Labels, colours: Colours) -> None:
    with replacing(path) as temporary:
        Image.fromarray(colours[ids]).save(temporary, format="PNG")


FORMAT = LabelFormat(_TEXT, lambda folder, images, position: CvatWriter(folder, images))
