"""COCO json with one run-length mask for every cluster of an image, written as a stream.

The annotations of a million images do not fit in memory: images and annotations are two parts (`luss.export.parts`), joined at the end.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luss.data.skipped import escape_path
from luss.errors import LussError
from luss.export.formats import LabelFormat
from luss.export.labelled import LabelledImages
from luss.export.parts import PartsWriter, to_json, write_list
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


class CocoWriter(PartsWriter):
    """A COCO file of one split, written image by image; memory does not grow with the number of images.

    The file appears under its name at `finish`.
    """

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
        super().__init__(path, _SECTIONS, position)
        self._images, self._categories = images, dict(images.categories)
        self._info = {"description": f"{kind} of {images.split}, one mask for every cluster of an image"}

    def write(self, index: int, ids: Labels) -> bool:
        """Adds an image and one annotation for every id in its map; `file_name` is escaped as by `escape_path`.

        Raises:
            LussError: An id has no category; the disk is full.
        """
        name = self._images.name(index)
        present = [int(found) for found in np.unique(ids) if found]
        if unknown := [found for found in present if found not in self._categories]:
            raise LussError(f"{name}: id {unknown[0]} has no category: the label map is not of this set of clusters")
        height, width = ids.shape
        image_id = self.count["images"] + 1
        self.add("images", {"id": image_id, "file_name": escape_path(name), "width": width, "height": height})
        for found in present:
            number = self.count["annotations"] + 1
            facts = {"id": number, "image_id": image_id, "category_id": found}
            self.add("annotations", {**facts, **run_length(ids == found), "iscrowd": 0})
        return False

    def finish(self) -> None:
        """Joins the parts to the file and keeps them, so that a writer killed right afterwards can still be continued.

        Raises:
            LussError: The disk is full.
        """
        self.position()
        categories = [{"id": key, "name": name} for key, name in sorted(self._categories.items())]
        with replacing(self.path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.write(f'{{"info": {to_json(self._info)},\n"categories": {to_json(categories)}')
            for section in _SECTIONS:
                file.write(f',\n"{section}": ')
                write_list(file, self.lines(section))
            file.write("}\n")


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
    """pycocotools' functions for masks.

    Raises:
        LussError: It is not installed.
    """
    try:
        from pycocotools import mask
    except ImportError as error:
        raise LussError("pycocotools is not installed: pip install 'luss[coco]', or choose the format png") from error
    return mask


FORMAT = LabelFormat(_TEXT, lambda folder, images, position: CocoWriter(folder / "annotations.json", images, position))
