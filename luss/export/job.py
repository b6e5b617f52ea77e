"""The work of an export: image by image into one folder, killed at any moment and continued, with the counts of its card.

`export.json` in the folder says what is exported, how far it is, and whether it is complete. It is rewritten after every
unit of work that is safely on the disk; a later try goes on behind that unit and writes what came after it again.
"""

import os
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from luss.data.skipped import SkippedFiles
from luss.errors import LussError
from luss.export.labelled import LabelledImages
from luss.files import TEMPORARY_SUFFIX, read_json, write_json
from luss.labels.writer import Labels

STATE = "export.json"
SKIPPED = "skipped.csv"
SAVE_EVERY = 1024
"""Images between two saves of formats that can stop anywhere."""


class MissingImage(Exception):
    """An image that the format needs is not there; it is listed and left out."""


class Writer(Protocol):
    """What a format does with the images; used from one thread, in order."""

    def write(self, index: int, ids: Labels) -> bool:
        """Takes an image.

        Args:
            index: Number of the image.
            ids: (H, W) its label map.

        Returns:
            Whether this is a good moment to save: later images may begin something new here.

        Raises:
            MissingImage: The image's file is needed, and cannot be read.
            LussError: The disk is full.
        """
        ...

    def position(self) -> dict[str, Any]:
        """Brings everything written so far to the disk; what the next try needs to go on behind it."""
        ...

    def finish(self) -> None:
        """Completes the files; a kill right afterwards makes it be called again at the next try, from the last position."""
        ...

    def close(self) -> None:
        """Lets go of files and threads; called at the end, whatever happened."""
        ...


@dataclass
class Tally:
    """What was exported.

    Attributes:
        num_images: Images with a label map.
        pixels: (C + 1,) int64 pixels of every id.
        images: (C + 1,) int64 images that hold the id.
    """

    num_images: int
    pixels: NDArray[np.int64]
    images: NDArray[np.int64]

    @classmethod
    def empty(cls, num_clusters: int) -> "Tally":
        """Nothing yet."""
        return cls(0, np.zeros(num_clusters + 1, np.int64), np.zeros(num_clusters + 1, np.int64))

    def add(self, counts: NDArray[np.int64]) -> None:
        """Adds an image by its (C + 1,) pixel counts."""
        self.num_images += 1
        self.pixels += counts
        self.images += counts > 0


@dataclass
class ExportFolder:
    """The folder of an export.

    Attributes:
        path: The folder.
        identity: What decides the content of every file: format, split, and identity of the labels.
        num_clusters: C.
    """

    path: Path
    identity: Mapping[str, Any]
    num_clusters: int
    start: int = field(default=0, init=False)
    complete: bool = field(default=False, init=False)
    position: dict[str, Any] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Looks at what is there.

        Raises:
            LussError: The folder holds something else, or is a file.
        """
        self.tally = Tally.empty(self.num_clusters)
        if self.path.exists() and not self.path.is_dir():
            raise LussError(f"{self.path} is a file: give a folder for the export")
        if (self.path / STATE).is_file():
            self._continue(read_json(self.path / STATE))
        elif self.path.is_dir() and any(not path.name.startswith(".") for path in self.path.iterdir()):
            raise LussError(f"{self.path} holds other files: give a new or an empty folder for the export")
        self.skipped = SkippedFiles(self.path / SKIPPED)

    def _continue(self, state: Any) -> None:
        try:
            before = state["identity"]
            if before != self.identity:
                different = sorted(
                    key for key in {*before, *self.identity} if before.get(key) != self.identity.get(key)
                )
                raise LussError(
                    f"{self.path} holds another export ({', '.join(different)} differ): give another folder, or delete it"
                )
            self.start, self.complete, self.position = int(state["next"]), bool(state["complete"]), state["position"]
            pixels, images = (np.array(state[key], np.int64) for key in ("pixels", "images_with"))
            self.tally = Tally(int(state["images"]), pixels, images)
        except (KeyError, TypeError, AttributeError) as error:
            raise LussError(f"{self.path / STATE} is damaged ({error!r}): delete {self.path}") from error

    def save(self, next_index: int, position: dict[str, Any], *, complete: bool = False) -> None:
        """Records that everything before image `next_index` is on the disk."""
        self.start, self.position, self.complete = next_index, position, complete
        content = {
            "identity": dict(self.identity),
            "complete": complete,
            "next": next_index,
            "images": self.tally.num_images,
            "skipped": self.skipped.count,
            "position": position,
            "pixels": self.tally.pixels.tolist(),
            "images_with": self.tally.images.tolist(),
        }
        write_json(self.path / STATE, content)


def export_images(
    folder: ExportFolder,
    images: LabelledImages,
    make_writer: Callable[[dict[str, Any] | None], Writer],
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    finish: Callable[[], None] = lambda: None,
) -> Tally:
    """Exports every image that is not yet exported.

    Args:
        folder: Where to; nothing is done when it is complete.
        images: What.
        make_writer: The format, given the position where an earlier try stopped, or None.
        on_progress: Told the number of images done, and of all.
        finish: Called when all images are written, before the export counts as complete.

    Returns:
        What was exported, earlier tries included.

    Raises:
        LussError: No image has a label map; the disk is full; what the format says.
    """
    if folder.complete:
        _remove_leftovers(folder.path)
        return folder.tally
    if not folder.position:
        # From now on the folder is known as this export's.
        folder.save(0, {})
    writer = make_writer(folder.position or None)
    try:
        for index in range(folder.start, len(images)):
            on_progress(index, len(images))
            if _export(folder, images, writer, index):
                folder.save(index + 1, writer.position())
        on_progress(len(images), len(images))
        if not folder.tally.num_images:
            raise LussError(f"no image of {images.split} could be exported: see {folder.skipped.path}")
        writer.finish()
        finish()
        folder.save(len(images), writer.position(), complete=True)
    finally:
        writer.close()
    _remove_leftovers(folder.path)
    return folder.tally


def _export(folder: ExportFolder, images: LabelledImages, writer: Writer, index: int) -> bool:
    """Exports one image, or lists it as skipped; whether to save now."""
    ids = images.label_map(index)
    if ids is None:
        folder.skipped.add(images.image(index), "has no mask: it could not be read when masks were made")
        return False
    try:
        save = writer.write(index, ids)
    except MissingImage as error:
        folder.skipped.add(images.image(index), str(error))
        return False
    folder.tally.add(np.bincount(ids.ravel(), minlength=folder.num_clusters + 1))
    return save


def _remove_leftovers(folder: Path) -> None:
    """Removes what killed tries, and the writer itself, no longer need."""
    for pattern in (f".*{TEMPORARY_SUFFIX}", ".*.part"):
        for leftover in folder.rglob(pattern):
            leftover.unlink(missing_ok=True)


class FileWriter:
    """A format with files of its own for every image, written by some threads: compressing and waiting for the disk overlap."""

    def __init__(
        self, write_files: Callable[[int, Labels], None], *, check: Callable[[int], None] = lambda index: None
    ) -> None:
        """Args:
        write_files: Writes the files of an image; called in several threads, so it must not read the label store, names included.
        check: Called before, in one thread; may raise MissingImage.
        """
        self._write_files, self._check = write_files, check
        self._threads = min(8, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="export")
        self._waiting: deque[Future[None]] = deque()
        self._since_saved = 0

    def write(self, index: int, ids: Labels) -> bool:
        """See `Writer.write`. A few images wait at any time, so memory stays bounded."""
        self._check(index)
        self._waiting.append(self._pool.submit(self._write_files, index, ids))
        while len(self._waiting) > 2 * self._threads:
            self._waiting.popleft().result()
        self._since_saved += 1
        return self._since_saved >= SAVE_EVERY

    def position(self) -> dict[str, Any]:
        """See `Writer.position`."""
        self._since_saved = 0
        while self._waiting:
            self._waiting.popleft().result()
        return {"files": True}

    def finish(self) -> None:
        """See `Writer.finish`."""
        self.position()

    def close(self) -> None:
        """See `Writer.close`."""
        self._pool.shutdown(cancel_futures=True)
