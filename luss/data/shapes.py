"""The embedded data set: drawn shapes in the ImageNet-S layout, made offline in seconds, for the demo and the tests.

Ten categories, one object a picture, exact masks. Categories differ in outline and texture; colour, background, pose, scale
and light are nuisances drawn alike for all of them (`luss.data.shapes_drawing`).
"""

import dataclasses
import glob
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from luss.data.imagenet_s import MASK_FOLDER_SUFFIX, write_mask
from luss.data.shapes_drawing import CATEGORIES, Drawing, draw_shape
from luss.data.worker_faults import starting_workers
from luss.errors import LussError
from luss.files import read_json, remove_dead, temporary_beside, write_json
from luss.refusals import refusals_named

VERSION = 1
"""Raised with every change to the drawing code, so that a data set drawn by older code is drawn again."""

RECORD = "dataset.json"
"""The file, written last, that says which parameters a data set was made with."""

_GENERATOR = "luss.data.shapes"
_STREAMS = {"train": 0, "validation": 1, "test": 2}
_JPEG_QUALITY = 92


@dataclasses.dataclass(frozen=True)
class _Parameters:
    """Everything that decides the files' content, as `make_shapes` describes it."""

    num_train: int
    num_validation: int
    num_test: int
    num_train_semi_per_category: int
    size: int
    difficulty: float
    seed: int

    def check(self) -> None:
        for name in ("num_train", "num_validation", "num_test", "num_train_semi_per_category", "seed"):
            if getattr(self, name) < 0:
                raise LussError(f"{name} is {getattr(self, name)}: give 0 or more")
        if self.size < 16:
            raise LussError(f"size is {self.size} pixels, too small to show a texture: give 16 or more")
        if not 0.0 <= self.difficulty <= 1.0:
            raise LussError(f"difficulty is {self.difficulty}: give a number from 0 (easy) to 1 (hard)")

    def record(self) -> dict[str, Any]:
        return {"generator": _GENERATOR, "version": VERSION, "parameters": dataclasses.asdict(self)}


def category_of(index: int) -> str:
    """The category of picture `index` of any split: every run of ten pictures holds each category once."""
    return tuple(CATEGORIES)[index % len(CATEGORIES)]


def draw_sample(split: str, index: int, *, size: int = 96, difficulty: float = 0.5, seed: int = 0) -> Drawing:
    """Draws one picture of the data set: a pure function of its arguments.

    Args:
        split: "train", "validation" or "test". The pictures of train-semi are the first ones of train.
        index: Number of the picture in its split, from 0; its category is `category_of(index)`.
        size: Longest side in pixels, at least (at most 1.3 times as much).
        difficulty: 0..1, see `draw_shape`.
        seed: Of the data set, 0 or more.

    Returns:
        The picture (before JPEG) and its mask.
    """
    rng = np.random.default_rng([seed, _STREAMS[split], index])
    return draw_shape(category_of(index), rng=rng, size=size, difficulty=difficulty)


def make_shapes(
    root: Path | str,
    *,
    num_train: int = 1200,
    num_validation: int = 160,
    num_test: int = 160,
    num_train_semi_per_category: int = 10,
    size: int = 96,
    difficulty: float = 0.5,
    seed: int = 0,
    workers: int = 1,
) -> None:
    """Writes the embedded data set to `root`, or does nothing when it is there already with these parameters.

    Layout: `train/<category>/*.jpg`; `train-semi`, `validation` and `test` likewise, each with masks beside it in
    `<split>-segmentation/<category>/*.png` (RGB, id = R + 256 G, 0 background, no pixel ignored); `categories.txt` (id = line
    number, from 1); `dataset.json`, the parameters. The files appear all at once: they are written to a hidden sibling folder,
    which is then renamed. A data set with other parameters is replaced.

    Example:
        >>> import luss
        >>> luss.make_shapes("shapes", num_train=20, num_validation=10, num_test=0, size=32)
        >>> Path("shapes/categories.txt").read_text().split()[0]
        'crescent'

    Args:
        root: The data set's folder; absent, empty, or made by this function.
        num_train: Pictures in `train` (no masks); categories in equal shares.
        num_validation, num_test: Pictures in `validation` and `test`.
        num_train_semi_per_category: Pictures of each category in `train-semi`: the first ones of `train`.
        size: Longest side in pixels, at least (at most 1.3 times as much).
        difficulty: 0 (calm, centred, upright) to 1 (busy, any pose, small or faint objects).
        seed: 0 or more; another seed gives other pictures.
        workers: Processes that draw; changes nothing in the files.

    Raises:
        LussError: A parameter is out of range; `root` holds files that this function did not write; the disk is full.
    """
    numbers = num_train, num_validation, num_test, num_train_semi_per_category, size
    parameters = _Parameters(*numbers, float(difficulty), seed)
    parameters.check()
    root = Path(root)
    # Whole data sets that processes left which were killed while they drew.
    remove_dead(root.parent, glob.escape(root.name))
    if _is_made(root, parameters):
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = temporary_beside(root), temporary_beside(root, "old")
    try:
        with refusals_named(root.parent):
            _write_all(fresh, parameters, workers)
            if root.exists():
                os.rename(root, old)
            os.rename(fresh, root)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _is_made(root: Path, parameters: _Parameters) -> bool:
    """Whether the data set is there as asked; refuses a folder that is somebody's own."""
    if not root.exists():
        return False
    if not root.is_dir():
        raise LussError(f"{root} is a file: give another folder for the shapes data set")
    if (root / RECORD).is_file():
        record = read_json(root / RECORD)
        if isinstance(record, dict) and record.get("generator") == _GENERATOR:
            return bool(record == parameters.record())
    if any(root.iterdir()):
        raise LussError(f"{root} holds files that are not a shapes data set: give another folder, or empty this one")
    return False


def _jobs(parameters: _Parameters) -> Iterator[tuple[str, int]]:
    """(split, index) of every picture to draw, train-semi's among train's."""
    num_semi = parameters.num_train_semi_per_category * len(CATEGORIES)
    counts = (max(parameters.num_train, num_semi), parameters.num_validation, parameters.num_test)
    return ((split, index) for split, count in zip(_STREAMS, counts, strict=True) for index in range(count))


def _write_all(folder: Path, parameters: _Parameters, workers: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    write = partial(_write_sample, folder, parameters)
    if workers <= 1:
        for job in _jobs(parameters):
            write(job)
    else:
        # Spawned, not forked: the caller may hold torch's threads, and a fork of those can hang.
        # Ctrl-C reaches the whole process group: workers that died of it would leave the pool waiting.
        spawned, ignored = multiprocessing.get_context("spawn"), (signal.SIGINT, signal.SIG_IGN)
        with starting_workers(workers, "data.workers"):
            pool = ProcessPoolExecutor(workers, spawned, signal.signal, ignored)
        with pool:
            for _ in pool.map(write, _jobs(parameters), chunksize=32):
                pass
    (folder / "categories.txt").write_text("".join(f"{name}\n" for name in CATEGORIES), encoding="utf-8")
    write_json(folder / RECORD, parameters.record())


def _write_sample(folder: Path, parameters: _Parameters, job: tuple[str, int]) -> None:
    """Draws one picture and writes it, and its mask, to every split that it belongs to."""
    split, index = job
    drawing = draw_sample(split, index, size=parameters.size, difficulty=parameters.difficulty, seed=parameters.seed)
    category = category_of(index)
    name = f"{category}/{category}_{index:05d}"
    mask = drawing.mask.astype(np.uint16) * np.uint16(index % len(CATEGORIES) + 1)
    semi = split == "train" and index < parameters.num_train_semi_per_category * len(CATEGORIES)
    splits = [split] if split != "train" or index < parameters.num_train else []
    for home in [*splits, "train-semi"] if semi else splits:
        path = folder / home / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawing.image).save(path, quality=_JPEG_QUALITY)
    labelled = "train-semi" if semi else split
    if labelled != "train":
        write_mask(folder / f"{labelled}{MASK_FOLDER_SUFFIX}" / f"{name}.png", mask)
