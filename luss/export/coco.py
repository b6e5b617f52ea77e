"""COCO json with one run-length mask for every cluster of an image, written as a stream.

The annotations of a million images do not fit in memory, so images and annotations go to two hidden files beside the
final one, a JSON object a line, and are joined at the end. `position` says how far they are safely on the disk: a
writer that is given it continues there.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from luss.data.skipped import escape_path
from luss.errors import LussError
from luss.export.formats import LabelFormat
from luss.export.job import Writer
from luss.export.labelled import LabelledImages
from luss.files import replacing
from luss.labels.writer import Labels

_SECTIONS = ("images", "annotations")
_TEXT = """\
`annotations.json` is a COCO file: one annotation for every cluster of an image, its mask run-length coded; the category is
the cluster's id. `file_name` is the image's path below its folder.

```python
from pycocotools.coco import COCO

coco = COCO("annotations.json")
mask = coco.annToMask(coco.loadAnns(coco.getAnnIds(imgIds=[1]))[0])  # (H, W) of 0 and 1
```"""


class CocoWriter(Writer):
    """A COCO file of one split, written image by image; memory does not grow with the number of images.

    The file appears under its name at `finish`. The parts stay: the end of the export removes them (`luss.export.job`).
    """

    anywhere = True

    def __init__(
        self, path: Path, images: LabelledImages, position: Mapping[str, int] | None, *, kind: str = "pseudo labels"
    ) -> None:
        """Begins a file, or continues one.

        Args:
            path: The json file; its folder is made when absent.
            images: What is exported.
            position: Where an earlier writer of the same file stopped; what it wrote later is dropped.
            kind: What the label maps are, for the file's description.

        Raises:
            LussError: pycocotools is not installed; the files of the earlier writer are gone.
        """
        mask_api()
        self.path, self._images, self._categories = path, images, dict(images.categories)
        self._info = {"description": f"{kind} of {images.split}, one mask for every cluster of an image"}
        self.num_images = 0 if position is None else position["num_images"]
        self.num_annotations = 0 if position is None else position["num_annotations"]
        path.parent.mkdir(parents=True, exist_ok=True)
        self._files = {section: self._open(section, position) for section in _SECTIONS}

    def write(self, index: int, ids: Labels) -> bool:
        """Adds an image and one annotation for every id in its map; `file_name` is escaped as by `escape_path`.

        Raises:
            LussError: An id has no category; the disk is full.
        """
        name = self._images.name(index)
        present = [int(found) for found in np.unique(ids) if found]
        if unknown := [found for found in present if found not in self._categories]:
            raise LussError(f"{name}: id {unknown[0]} has no category: the label map is not of this set of clusters")
        self.num_images += 1
        height, width = ids.shape
        image = {"id": self.num_images, "file_name": escape_path(name), "width": width, "height": height}
        self._write("images", image)
        for found in present:
            self.num_annotations += 1
            annotation = {"id": self.num_annotations, "image_id": self.num_images, "category_id": found}
            self._write("annotations", {**annotation, **run_length(ids == found), "iscrowd": 0})
        return False

    def position(self) -> dict[str, Any]:
        """See `luss.export.job.Writer.position`: how far the parts reach, and how much is in them."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        lengths = {section: file.tell() for section, file in self._files.items()}
        return {**lengths, "num_images": self.num_images, "num_annotations": self.num_annotations}

    def finish(self) -> None:
        """Joins the parts to the file and keeps them, so that a writer killed right afterwards can still be continued.

        Raises:
            LussError: The disk is full.
        """
        self.position()
        categories = [{"id": key, "name": name} for key, name in sorted(self._categories.items())]
        with replacing(self.path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.write(f'{{"info": {_json(self._info)},\n"categories": {_json(categories)}')
            for section in _SECTIONS:
                file.write(f',\n"{section}": [')
                _copy_lines(self._part(section), file)
                file.write("]")
            file.write("}\n")

    def close(self) -> None:
        """Closes the parts and leaves them: for a writer that will be continued."""
        for file in self._files.values():
            file.close()

    def _write(self, section: str, value: dict[str, Any]) -> None:
        self._files[section].write(f"{_json(value)}\n".encode())

    def _part(self, section: str) -> Path:
        return self.path.with_name(f".{self.path.name}.{section}.part")

    def _open(self, section: str, position: Mapping[str, int] | None) -> IO[bytes]:
        part = self._part(section)
        if position is None:
            return open(part, "wb")
        if not part.is_file() or part.stat().st_size < position[section]:
            raise LussError(f"{part} is gone or was cut, so the export cannot continue: delete {self.path.parent}")
        os.truncate(part, position[section])
        return open(part, "ab")


def run_length(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A mask as COCO stores it.

    Args:
        mask: (H, W) truth values, at least one of them true.

    Returns:
        `segmentation` (size [H, W] and compressed counts as text), `area` in pixels, and `bbox` [left, top, width, height].

    Raises:
        LussError: pycocotools is not installed.
    """
    api = mask_api()
    coded = api.encode(np.asfortranarray(mask, np.uint8))
    segmentation = {"size": [int(side) for side in coded["size"]], "counts": coded["counts"].decode("ascii")}
    return {"segmentation": segmentation, "area": int(api.area(coded)), "bbox": [int(v) for v in api.toBbox(coded)]}


def mask_api() -> Any:
    """pycocotools' functions for masks, or LussError, which says what to install."""
    try:
        from pycocotools import mask
    except ImportError as error:
        raise LussError("pycocotools is not installed: pip install 'luss[coco]', or choose the format png") from error
    return mask


def _copy_lines(part: Path, file: IO[str]) -> None:
    with open(part, encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            file.write(f"{',' if number else ''}\n{line.rstrip()}")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


FORMAT = LabelFormat(_TEXT, lambda folder, images, position: CocoWriter(folder / "annotations.json", images, position))
