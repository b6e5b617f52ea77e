"""Segmentation labels of YOLO: a text file an image with one polygon a line, and `data.yaml`.

Every 4-connected region of a cluster is one object. A line is `class x1 y1 x2 y2 ...`, coordinates as shares of the image's
width and height; the class is the cluster's id - 1, so that no cluster changes its number when others are dropped. YOLO
finds `labels/<split>/x.txt` for `images/<split>/x.jpg`, so the images are linked beside the labels. Its trainers replace one
`/images/` in the path of an image (most the last one, some the first), so no folder of images below has this name.
"""

import json
import os
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luss.export.contours import joined, regions
from luss.export.formats import LabelFormat
from luss.export.job import FileWriter
from luss.export.labelled import LabelledImages, MissingImage
from luss.files import temporary_beside, write_text
from luss.labels.writer import Labels

TOLERANCE = 0.75
"""Pixels by which an outline may leave the pixel edges: a diagonal's stairs become one line, and no detail goes."""
_TEXT = """\
`labels/SPLIT/<name>.txt` has one polygon a line for every connected region of a cluster (`class x1 y1 x2 y2 ...`,
coordinates as shares of width and height); the class is the cluster's id - 1. `images/SPLIT` holds links to the images and
`data.yaml` the names, so that a trainer needs no more than this folder: `yolo segment train data=data.yaml`. Outlines are
simplified by less than a pixel; a hole is joined to its outline by a seam. Sub-folders called `images` are `images_` here, or
trainers would not find their labels. `val` points to the same images: give a split of your own."""


def polygons(ids: NDArray[np.integer[Any]], *, tolerance: float = TOLERANCE) -> list[tuple[int, NDArray[np.float64]]]:
    """The objects of an (H, W) label map, simplified by `luss.export.contours.simplify`.

    Returns:
        Id and (P, 2) corners as shares of width and height in [0, 1], by id and then by the first pixel.
    """
    size = np.array([ids.shape[1], ids.shape[0]], np.float64)
    present = (int(found) for found in np.unique(ids) if found)
    return [(found, joined(region, tolerance) / size) for found in present for region in regions(ids == found)]


def label_text(ids: NDArray[np.integer[Any]]) -> str:
    """The content of an image's label file; empty where all is background."""
    lines = ([str(found - 1), *(f"{value:.6g}" for value in corners.ravel())] for found, corners in polygons(ids))
    return "".join(" ".join(line) + "\n" for line in lines)


def yolo_export(folder: Path, images: LabelledImages) -> FileWriter[tuple[PurePosixPath, Path]]:
    """The format `yolo` of `luss export`: links to the images in `images/<split>`, `labels/<split>`; see `write_data_yaml`."""

    def prepare(index: int) -> tuple[PurePosixPath, Path]:
        source = images.image(index)
        if not source.is_file():
            raise MissingImage("does not exist any more")
        stem = PurePosixPath(images.mask_name(index)).with_suffix("")
        # One "_" more for all names of this kind keeps them apart.
        folders = (f"{part}_" if part.rstrip("_") == "images" else part for part in stem.parts[:-1])
        return PurePosixPath(*folders, stem.name), source

    def write(files: tuple[PurePosixPath, Path], ids: Labels) -> None:
        stem, source = files
        _link(folder / "images" / images.split / f"{stem}{source.suffix}", source)
        write_text(folder / "labels" / images.split / f"{stem}.txt", label_text(ids))

    return FileWriter(prepare, write)


def write_data_yaml(folder: Path, images: LabelledImages) -> None:
    """Writes `data.yaml`: where the images are and the name of every class.

    Clusters that are not in use keep their places, because classes are numbered without gaps.
    """
    categories = images.categories
    # No `path`: it would tie the folder to its place, and without it YOLO takes the folder of the file.
    lines = [f"train: images/{images.split}", f"val: images/{images.split}", "names:"]
    for cluster in range(1, images.num_clusters + 1):
        # A JSON string is a YAML string, whatever is in it.
        name = json.dumps(categories.get(cluster, f"unused {cluster}"), ensure_ascii=False)
        lines.append(f"  {cluster - 1}: {name}")
    write_text(folder / "data.yaml", "\n".join(lines) + "\n")


def _link(path: Path, source: Path) -> None:
    """A symbolic link, or a copy where the disk knows no links, that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(source.absolute())
    except FileExistsError:
        # Somebody else's link, maybe: a copy would go through it, over the photograph that it points to.
        raise
    except OSError:
        shutil.copyfile(source, temporary)
    os.replace(temporary, path)


FORMAT = LabelFormat(
    _TEXT, lambda folder, images, position: yolo_export(folder, images), finish=write_data_yaml, with_images=True
)
