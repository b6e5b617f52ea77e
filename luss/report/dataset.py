"""The statistics of a prepared ImageNet-S: images and categories of every split, and what its masks hold; as JSON and as a page.

What the benchmark's paper shows of its data (tables 5.1 and 5.2, figures 5.3 to 5.6): numbers of images and categories, images a category,
categories an image and which come together, sizes of objects, and where in a picture they are.
"""

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from luss import __version__
from luss.benchmark.counts import GROUPS
from luss.benchmark.masks import MaskCounts, count_masks
from luss.data.imagenet_s import Layout, category_ids
from luss.data.walk import Met, find_images
from luss.errors import LussError
from luss.files import write_json, write_text
from luss.report.folder import MARKER, PAGE, check_place, take_place, work_folder, write_assets

STATISTICS = "dataset.json"
_ASSETS = (("dataset.html", PAGE), *((name, name) for name in ("report.css", "basics.js", "dataset.js")))
# Upper ends of the benchmark's size groups, in percent of the counted pixels.
_GROUP_ENDS = (5, 25, 50, 100)
_SHOWN_PAIRS, _SHOWN_PROBLEMS = 50, 50

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class DatasetSummary:
    """What was written: the page and the numbers, and what could not be counted."""

    page: Path
    statistics: Path
    problems: list[str]


def dataset_statistics(
    layout: Layout, *, workers: int = 1, on_progress: Progress = lambda what, done, total: None
) -> dict[str, Any]:
    """Counts a data set; every mask is read once, and memory does not grow with the number of images.

    Args:
        layout: Of the data set; its training images are in one folder a category.
        workers: Processes that read masks.
        on_progress: Told what is counted, how many are done, and of how many.

    Returns:
        JSON values: `splits` (a row each: images, categories, masks, least, median and most images a category), `masks` (a block a split
        that has some, see `_of_masks`), `problems`.

    Raises:
        LussError: The training images are not sorted into categories.
    """
    names = list(category_ids(layout.image_folder("train")))
    if not names:
        raise LussError(
            f"{layout.image_folder('train')} has no folders of categories: a report of a data set needs ImageNet-S's layout"
        )
    problems: list[str] = []
    splits, masks = [], {}
    for split, folder in layout.images.items():
        on_progress(f"images of {split}", 0, 1)
        row = {"split": split, **_of_images(folder, problems), "masks": 0}
        on_progress(f"images of {split}", 1, 1)
        if split in layout.masks:
            tell = lambda done, total, split=split: on_progress(f"masks of {split}", done, total)  # noqa: E731
            counts = count_masks(layout.masks[split], len(names), workers=workers, progress=tell)
            problems += [f"{split}: {problem}" for problem in counts.problems[:_SHOWN_PROBLEMS]]
            if len(counts.problems) > _SHOWN_PROBLEMS:
                problems.append(f"{split}: {len(counts.problems) - _SHOWN_PROBLEMS} more masks cannot be used")
            row["masks"] = counts.num_masks
            if counts.num_masks:
                masks[split] = _of_masks(counts, names)
        splits.append(row)
    return {"categories": len(names), "splits": splits, "masks": masks, "problems": problems}


def _of_images(folder: Path, problems: list[str]) -> dict[str, Any]:
    """How many images a split has, and how many a category (first folder of their names)."""
    met = Met()
    found = Counter(name.partition("/")[0] for name in find_images(folder, met))
    problems += [f"{path}: {why}" for path, why in met.unlisted]
    sizes = sorted(found.values()) or [0]
    return {
        "images": found.total(), "categories": len(found),
        "least": sizes[0], "median": float(np.median(sizes)), "most": sizes[-1],
    }  # fmt: skip


def _of_masks(counts: MaskCounts, names: list[str]) -> dict[str, Any]:
    """What the masks of a split hold, as JSON values.

    Returns:
        `masks`; `height` and `width` (medians, pixels); `categories_an_image` (number of categories to masks) and its mean;
        `shares` of pixels in percent (background, objects, ignored); `objects` (a category in a mask) and `sizes`, how many of them cover
        1, 2, ..., 100 percent of the counted pixels; `size_groups` S, MS, ML, L of the benchmark; `where` (percent of masks with an object
        there, a row of cells after the other); `categories` (a row each: name, masks, percent of all object pixels); `together` (the most
        frequent pairs of categories in one mask).
    """
    total, objects = counts.pixels.sum(), counts.pixels[1:-1]
    shares = {"background": counts.pixels[0], "objects": objects.sum(), "ignored": counts.pixels[-1]}
    starts = (0, *_GROUP_ENDS[:-1])
    heights, widths = (float(np.median([shape[axis] for shape in counts.shapes.elements()])) for axis in (0, 1))
    mean = sum(number * masks for number, masks in counts.categories.items()) / counts.num_masks
    return {
        "masks": counts.num_masks,
        "height": heights,
        "width": widths,
        "categories_an_image": {str(number): counts.categories[number] for number in sorted(counts.categories)},
        "mean_categories_an_image": mean,
        "shares": {what: 100 * int(pixels) / int(total) for what, pixels in shares.items()},
        "objects": int(counts.sizes.sum()),
        "sizes": counts.sizes[1:].tolist(),
        "size_groups": {
            name: int(counts.sizes[start + 1 : end + 1].sum())
            for name, start, end in zip(GROUPS, starts, _GROUP_ENDS, strict=True)
        },
        "where": np.round(100 * counts.inside / np.maximum(counts.counted, 1), 2).tolist(),
        "categories": [
            {"name": name, "masks": int(masks), "pixels": 100 * int(pixels) / max(1, int(objects.sum()))}
            for name, masks, pixels in zip(names, counts.images[1:], objects, strict=True)
        ],
        "together": [
            {"names": [names[one - 1], names[other - 1]], "masks": masks}
            for (one, other), masks in sorted(counts.together.items(), key=lambda pair: (-pair[1], pair[0]))[:_SHOWN_PAIRS]
        ],
    }  # fmt: skip


def build_dataset_report(
    layout: Layout, out: Path, *, workers: int = 1, on_progress: Progress = lambda what, done, total: None
) -> DatasetSummary:
    """Writes the statistics of a data set to a folder: `dataset.json`, and a page that shows them without a network or a server.

    Args:
        layout: The data set.
        out: The report's folder; an earlier report there is replaced.
        workers, on_progress: See `dataset_statistics`.

    Raises:
        LussError: `out` holds something else, the data have another layout, or the disk is full.
    """
    check_place(out)
    work = work_folder(out)
    shutil.rmtree(work, ignore_errors=True)
    data = {"data": str(layout.root), "made": time.strftime("%Y-%m-%d %H:%M"), "luss": __version__}
    data |= dataset_statistics(layout, workers=workers, on_progress=on_progress)
    write_json(work / MARKER, {"format": 1, "key": "", "data": str(layout.root)})
    write_json(work / STATISTICS, data)
    # Names of folders come from outside: JSON in a script must not be able to end it.
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    write_text(work / "data.js", f"const lussData = {text};\n")
    write_assets(work, _ASSETS)
    take_place(work, out)
    return DatasetSummary(out / PAGE, out / STATISTICS, list(data["problems"]))
