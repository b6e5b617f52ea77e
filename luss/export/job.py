"""The work of an export: image by image into one folder, killed at any moment and continued, with the counts of its card.

`export.json` in the folder says what is exported, how far it is, and whether it is complete. It is rewritten after every
unit of work that is safely on the disk; a later try goes on behind that unit and writes what came after it again.
`luss export` and `luss predict` both work so.
"""

import json
import os
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from luss.data.skipped import SkippedFiles
from luss.errors import LussError
from luss.export.labelled import LabelledImages, MissingImage
from luss.files import TEMPORARY_SUFFIX, read_json, write_json
from luss.labels.writer import Labels

STATE = "export.json"
SKIPPED = "skipped.csv"
SAVE_EVERY = 1024
"""Images between two saves of formats that can stop anywhere."""
OLD_RECORDS = ("predictions.json", "journal.jsonl")
"""What `luss predict` wrote before it shared this file."""
_COUNTED_AT_ONCE = 1 << 22
_WAITING_PIXELS = 1 << 25

Prepared = TypeVar("Prepared")


class Writer:
    """What a format does with the images, from one thread. This one takes them all and writes nothing: for formats that only `finish`.

    Attributes:
        anywhere: Whether it can be continued behind any image.
    """

    anywhere = False

    def write(self, index: int, ids: Labels) -> bool:
        """Takes the image of a number and its label map, (H, W).

        Returns:
            Whether to save now, because later images begin something new here.

        Raises:
            MissingImage: The image's file is needed, and cannot be read.
            LussError: The disk is full.
        """
        return False

    def position(self) -> dict[str, Any]:
        """Brings everything written so far to the disk; what the next try needs to go on behind it."""
        return {}

    def finish(self) -> None:
        """Completes the files; a kill right afterwards makes it be called again at the next try, from the last position."""
        self.position()

    def close(self) -> None:
        """Lets go of files and threads; called at the end, whatever happened."""


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
        identity: What decides the content of every file, as JSON values: format, split, and identity of the labels.
        num_clusters: C.
        grows: Whether more images may come to a complete folder; what the writer needs for them stays then.
    """

    path: Path
    identity: Mapping[str, Any]
    num_clusters: int
    grows: bool = False

    def __post_init__(self) -> None:
        """Looks at what is there.

        Raises:
            LussError: The folder holds something else, or is a file.
        """
        self.identity = json.loads(json.dumps(self.identity))
        self.listed = ""
        self.restart()
        if self.path.exists() and not self.path.is_dir():
            raise LussError(f"{self.path} is a file: give a folder for the export")
        if (self.path / STATE).is_file():
            self._continue(read_json(self.path / STATE))
        elif any((self.path / name).is_file() for name in OLD_RECORDS):
            raise LussError(
                f"{self.path} was written by an earlier version, which this one cannot continue: give another --out"
            )
        elif self.path.is_dir() and any(not path.name.startswith(".") for path in self.path.iterdir()):
            raise LussError(f"{self.path} holds other files: give a new or an empty folder for the export")
        self.skipped = SkippedFiles(self.path / SKIPPED)

    def _continue(self, state: Any) -> None:
        try:
            if state["identity"] != self.identity:
                raise self._another(state["identity"])
            self.start, self.complete, self.position = int(state["next"]), bool(state["complete"]), state["position"]
            pixels, images = (np.array(state[key], np.int64) for key in ("pixels", "images_with"))
            self.tally = Tally(int(state["images"]), pixels, images)
            self.listed = str(state.get("listed", ""))
            is_place = isinstance(self.position, dict) and self.start >= 0
            if not is_place or not pixels.shape == images.shape == (self.num_clusters + 1,):
                raise TypeError("an entry is of another kind")
        except LussError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise LussError(f"{self.path / STATE} is damaged ({error!r}): delete {self.path}") from error

    def _another(self, before: Mapping[str, Any]) -> LussError:
        keys = sorted(key for key in {*before, *self.identity} if before.get(key) != self.identity.get(key))
        values = (json.dumps(identity.get(keys[0]), ensure_ascii=False) for identity in (before, self.identity))
        return LussError(
            f"{self.path} holds another export ({', '.join(keys)} differ): made with {keys[0]}={', now it is '.join(values)}: "
            "give another --out, or delete that folder"
        )

    def restart(self) -> None:
        """Begins from the first image again; its files will be replaced."""
        self.start, self.complete, self.position = 0, False, dict[str, Any]()
        self.tally = Tally(0, *np.zeros((2, self.num_clusters + 1), np.int64))

    def save(self, next_index: int, position: dict[str, Any], *, listed: str = "", complete: bool = False) -> None:
        """Records that everything before image `next_index` is on the disk; `listed` stands for these images."""
        self.start, self.position, self.listed, self.complete = next_index, position, listed, complete
        content = {
            "identity": dict(self.identity),
            "complete": complete,
            "next": next_index,
            "listed": listed,
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
        folder, images: Where to, and what; nothing is done when the folder is complete.
        make_writer: The format, given the position where an earlier try stopped, or None.
        on_progress: Told the number of images done, and of all.
        finish: Called when all images are written, before the export counts as complete.

    Returns:
        What was exported, earlier tries included.

    Raises:
        LussError: No image has a label map; the disk is full; what the format says.
    """
    if folder.complete and not folder.grows:
        _remove_leftovers(folder)
        return folder.tally
    if not folder.position:
        # From now on the folder is known as this export's.
        folder.save(0, {})
    writer = make_writer(folder.position or None)
    begun = done = saved = folder.start
    wanted = False
    try:
        for index, found in images.label_maps(begun):
            on_progress(done, len(images))
            done += 1
            wanted |= _export(folder, images, writer, index, found) or (writer.anywhere and done - saved >= SAVE_EVERY)
            if wanted and (done - begun) % images.block == 0:
                folder.save(done, writer.position(), listed=images.listed(done))
                saved, wanted = done, False
        on_progress(done, len(images))
        if not folder.tally.num_images:
            raise LussError(f"no image of {images.split} could be exported: see {folder.skipped.path}")
        writer.finish()
        finish()
        folder.save(done, writer.position(), listed=images.listed(done), complete=True)
    finally:
        writer.close()
    _remove_leftovers(folder)
    return folder.tally


def _export(
    folder: ExportFolder, images: LabelledImages, writer: Writer, index: int, found: Labels | MissingImage
) -> bool:
    """Exports one image, or lists it as skipped; whether to save now."""
    try:
        if isinstance(found, MissingImage):
            raise found
        save = writer.write(index, found)
    except MissingImage as error:
        folder.skipped.add(images.image(index), str(error))
        return False
    folder.tally.add(_count(found, folder.num_clusters + 1))
    return save


def _count(ids: Labels, num_ids: int) -> NDArray[np.int64]:
    """Pixels of every id; some rows at a time, because counting takes 8 bytes a pixel."""
    counts = np.zeros(num_ids, np.int64)
    rows = max(1, _COUNTED_AT_ONCE // ids.shape[1])
    for first in range(0, ids.shape[0], rows):
        counts += np.bincount(ids[first : first + rows].ravel(), minlength=num_ids)
    return counts


def _remove_leftovers(folder: ExportFolder) -> None:
    """Removes what killed tries, and the writer itself, no longer need."""
    for pattern in (f".*{TEMPORARY_SUFFIX}", *(() if folder.grows else (".*.part",))):
        for leftover in folder.path.rglob(pattern):
            leftover.unlink(missing_ok=True)


class FileWriter(Writer, Generic[Prepared]):
    """A format with files of its own for every image, written by some threads: compressing and waiting for the disk overlap."""

    anywhere = True

    def __init__(self, prepare: Callable[[int], Prepared], write_files: Callable[[Prepared, Labels], None]) -> None:
        """Args:
        prepare: Called first, in one thread, with the number of the image: what needs the label store, names included. May raise MissingImage.
        write_files: Writes the files of an image; called in several threads.
        """
        self._prepare, self._write_files = prepare, write_files
        self._threads = min(8, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="export")
        self._waiting: deque[tuple[int, Future[None]]] = deque()

    def write(self, index: int, ids: Labels) -> bool:
        """See `Writer.write`. A few images wait at any time, and none beside a very large one, so memory stays bounded."""
        self._waiting.append((ids.size, self._pool.submit(self._write_files, self._prepare(index), ids)))
        while len(self._waiting) > 2 * self._threads or sum(size for size, _ in self._waiting) > _WAITING_PIXELS:
            self._waiting.popleft()[1].result()
        return False

    def position(self) -> dict[str, Any]:
        while self._waiting:
            self._waiting.popleft()[1].result()
        return {"files": True}

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


class Together(Writer):
    """Several formats of the same images in one folder."""

    def __init__(self, writers: Mapping[str, Writer]) -> None:
        """Takes over the writers; `position` has their names."""
        self._writers = dict(writers)
        self.anywhere = all(writer.anywhere for writer in self._writers.values())

    def write(self, index: int, ids: Labels) -> bool:
        asked = [writer.write(index, ids) for writer in self._writers.values()]
        return any(asked)

    def position(self) -> dict[str, Any]:
        return {name: writer.position() for name, writer in self._writers.items()}

    def finish(self) -> None:
        for writer in self._writers.values():
            writer.finish()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()
