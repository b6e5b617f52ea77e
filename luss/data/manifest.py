r"""The manifest: every usable image of a split, its size and its id, in one table on disk.

Files of a split, in one folder:
    `<split>.tsv`          id, width, height, path: one line an image, below a line of column names. The path is
                           relative to the image root, with forward slashes and odd characters escaped (`\t`, `\xNN`).
    `<split>.offsets.npy`  uint64, byte at which the line of image i begins.
    `<split>.json`         the image root and the counts; written last: where it is, the manifest is complete.
Both tables are memory-mapped: a manifest of a million images costs a reader no memory of its own.
"""

import contextlib
import hashlib
import itertools
import mmap
import os
from array import array
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from luss.data.images import IMAGE_SUFFIXES, MAX_PIXELS, UnreadableImage, is_image, read_image, read_size
from luss.data.names import inside
from luss.data.skipped import SkippedFiles, escape_path, unescape_path
from luss.errors import LussError
from luss.files import read_json, replacing, write_json
from luss.progress import StopFlag

_COLUMNS = b"id\twidth\theight\tpath\n"
_CHUNK = 64
"""Images a worker measures between two looks at `stop`."""

Measured = tuple[int, int] | UnreadableImage


@dataclass(frozen=True)
class ManifestSummary:
    """What `build_manifest` found.

    Attributes:
        num_images: Images in the manifest, >= 1.
        num_skipped: Image files (and folders that could not be listed) that went to `skipped` instead.
    """

    num_images: int
    num_skipped: int


def find_images(root: Path, *, report: Callable[[Path, str], None] = lambda path, reason: None) -> Iterator[str]:
    """Walks the folder `root` for files with an image suffix, in the order of their path components.

    Links are followed, except links to a folder that contains them. Hidden files and folders do not count. Only the
    names in the folders on the way to the current file are held in memory. `report` is called with a folder that cannot be
    listed, and the reason.

    Yields:
        Path below `root` with forward slashes; bytes that are not UTF-8 as surrogates (PEP 383).
    """
    return _walk(os.fspath(root), "", frozenset(), report)


def build_manifest(
    image_root: Path,
    folder: Path,
    split: str,
    *,
    skipped: SkippedFiles,
    max_pixels: int = MAX_PIXELS,
    workers: int = 1,
    verify: Literal["header", "full"] = "header",
    names: Iterable[str] | None = None,
    stop: StopFlag | None = None,
    on_progress: Callable[[int], None] = lambda num_files: None,
) -> ManifestSummary:
    """Writes the manifest of a split; the same files give the same bytes whatever `workers` is.

    Args:
        image_root: Folder of images, walked as `find_images` says.
        folder: Where the manifest goes; made when absent. A manifest of the same split is replaced.
        split: Name of the split, the stem of the files written.
        skipped: Takes the files that cannot be used; what it held from below `image_root` is forgotten first.
        max_pixels: Limit on width x height; larger images are skipped.
        workers: Number of threads, >= 1. Threads, not processes: reading headers waits for the disk, and no process
            outlives a killed parent. Measured: 30,000 headers/s from memory with any number of threads or processes;
            from a disk that takes 1 ms a file 770/s with 1 thread, 6,300/s with 8.
        verify: "header" trusts a header that can be read; "full" decodes every image, some ten times slower, and so
            finds truncated files.
        names: Paths below `image_root` with forward slashes, in the order of the manifest; None = all images that
            `find_images` finds.
        stop: Asked every few dozen images.
        on_progress: Called with the number of files looked at so far.

    Returns:
        The counts.

    Raises:
        LussError: The image root is no folder, holds no images, or none that can be read; the disk is full.
        Interrupted: `stop` is set; no manifest was written.
    """
    if not image_root.is_dir():
        raise LussError(f"{image_root} is not a folder: set data.root to the folder that holds the images")
    root = image_root.absolute()
    files = _Files(folder, split)
    files.facts.unlink(missing_ok=True)
    skipped.forget(root)
    num_before = skipped.count
    with replacing(files.table) as table_path, replacing(files.offsets) as offsets_path:
        names = find_images(root, report=skipped.add) if names is None else names
        measuring = contextlib.closing(_measure_all(root, names, max_pixels, verify, max(1, workers)))
        with open(table_path, "wb") as table, measuring as results:
            offsets = _write_table(table, results, skipped, stop, on_progress)
            num_bytes = table.tell()
        summary = ManifestSummary(len(offsets), skipped.count - num_before)
        _check_not_empty(image_root, summary, skipped)
        with open(offsets_path, "wb") as file:
            np.save(file, np.frombuffer(offsets, dtype=np.uint64), allow_pickle=False)
    facts = {
        "image_root": escape_path(str(root)),
        "num_images": summary.num_images,
        "num_skipped": summary.num_skipped,
        "num_bytes": num_bytes,
    }
    write_json(files.facts, facts)
    return summary


class Manifest:
    """A manifest on disk, read by memory map. Image i has the id i.

    Picklable for data loader workers under fork and spawn: a copy opens the files anew when first asked.
    Every method that takes an id raises IndexError outside 0..len-1.

    Example:
        >>> import luss
        >>> manifest = luss.Manifest.open("outputs/demo/manifest/manifest", "train")
        >>> manifest.name(0), manifest.size(0)  # width and height
        ('a.jpg', (80, 60))
    """

    def __init__(self, folder: Path, split: str, *, image_root: Path, num_images: int, num_bytes: int) -> None:
        """Use `Manifest.open`."""
        self.folder = folder
        self.split = split
        self.image_root = image_root
        self._num_images = num_images
        self._num_bytes = num_bytes
        self._maps: tuple[mmap.mmap, NDArray[np.uint64]] | None = None

    @classmethod
    def open(cls, folder: Path | str, split: str) -> "Manifest":
        """Opens the manifest of a split in the folder given to `build_manifest`.

        Raises:
            LussError: There is no complete manifest of this split, or its files do not belong together.
        """
        folder = Path(folder)
        facts_path = _Files(folder, split).facts
        if not facts_path.exists():
            raise LussError(
                f"there is no complete manifest of split {split!r} in {folder}: run the stage that builds it"
            )
        facts = read_json(facts_path)
        try:
            image_root = Path(unescape_path(facts["image_root"]))
            num_images, num_bytes = int(facts["num_images"]), int(facts["num_bytes"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise LussError(f"{facts_path} is damaged ({error!r}): delete it and build the manifest again") from error
        manifest = cls(folder, split, image_root=image_root, num_images=num_images, num_bytes=num_bytes)
        manifest._open_maps()
        return manifest

    def __len__(self) -> int:
        return self._num_images

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": None}

    def name(self, index: int) -> str:
        """The image's path below `image_root`, with forward slashes."""
        return inside(unescape_path(self._row(index)[3].decode()), self.folder)

    def path(self, index: int) -> Path:
        """The image's file."""
        return self.image_root / self.name(index)

    def size(self, index: int) -> tuple[int, int]:
        """(width, height) of the upright image in pixels."""
        _, width, height, _ = self._row(index)
        return int(width), int(height)

    def names(self) -> Iterator[str]:
        """All names in the order of the ids."""
        table, _ = self._maps or self._open_maps()
        start = len(_COLUMNS)
        # Not table.readline(): its position is shared by all iterators and threads.
        while start < len(table):
            end = table.find(b"\n", start)
            yield inside(unescape_path(table[start:end].split(b"\t")[3].decode()), self.folder)
            start = end + 1

    def digest(self, count: int) -> str:
        """Stands for the first `count` images: their names and sizes in order. Reads their lines, some 60 bytes an image."""
        table, offsets = self._maps or self._open_maps()
        end = int(offsets[count]) if count < len(self) else self._num_bytes
        return hashlib.sha256(memoryview(table)[:end]).hexdigest()

    def _row(self, index: int) -> list[bytes]:
        if not 0 <= index < self._num_images:
            raise IndexError(f"image {index} of a manifest of {self._num_images}")
        table, offsets = self._maps or self._open_maps()
        start = int(offsets[index])
        return table[start : table.find(b"\n", start)].split(b"\t")

    def _open_maps(self) -> tuple[mmap.mmap, NDArray[np.uint64]]:
        files = _Files(self.folder, self.split)
        advice = "delete the folder and build the manifest again"
        try:
            with open(files.table, "rb") as file:
                table = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            offsets = np.lib.format.open_memmap(files.offsets, mode="r")
        except Exception as error:  # a damaged header makes NumPy raise several kinds
            raise LussError(f"the manifest of split {self.split!r} cannot be read ({error}): {advice}") from error
        if len(table) != self._num_bytes or offsets.shape != (self._num_images,) or offsets.dtype != np.uint64:
            raise LussError(f"{files.table} and {files.offsets} do not belong to {files.facts}: {advice}")
        self._maps = table, offsets
        return self._maps


class _Files:
    def __init__(self, folder: Path, split: str) -> None:
        self.table, self.offsets, self.facts = (folder / f"{split}{end}" for end in (".tsv", ".offsets.npy", ".json"))


def _walk(
    folder: str, prefix: str, above: frozenset[tuple[int, int]], report: Callable[[Path, str], None]
) -> Iterator[str]:
    try:
        status = os.stat(folder)
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            return
        names, folders = _list(folder)
    except OSError as error:
        report(Path(folder), f"folder cannot be listed: {error.strerror}")
        return
    for name in names:
        if name in folders:
            yield from _walk(f"{folder}/{name}", f"{prefix}{name}/", above | {identity}, report)
        else:
            yield prefix + name


def _list(folder: str) -> tuple[list[str], set[str]]:
    """The sorted names of a folder's images and folders, and which of them are folders (a million names: 80 MB)."""
    names: list[str] = []
    folders: set[str] = set()
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_folder := not entry.name.startswith(".") and _is_folder(entry):
                folders.add(entry.name)
            if is_folder or is_image(entry.name):
                names.append(entry.name)
    return sorted(names), folders


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _measure_all(
    root: Path, names: Iterable[str], max_pixels: int, verify: Literal["header", "full"], workers: int
) -> Generator[list[tuple[str, Measured]], None, None]:
    """Measures images in threads; the chunks come back in the order of `names`, few of them waiting at any time."""

    def measure_chunk(chunk: list[str]) -> list[tuple[str, Measured]]:
        return [(name, _measure(root / name, max_pixels, verify)) for name in chunk]

    remaining = iter(names)
    pending: deque[Future[list[tuple[str, Measured]]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="manifest")
    try:
        while chunk := list(itertools.islice(remaining, _CHUNK)):
            pending.append(pool.submit(measure_chunk, chunk))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _measure(path: Path, max_pixels: int, verify: Literal["header", "full"]) -> Measured:
    try:
        size = read_size(path, max_pixels)
        if verify == "full":
            # A JPEG at an eighth of its size still has all its bytes read.
            read_image(path, min_side=1, max_pixels=max_pixels)
        return size
    except UnreadableImage as error:
        return error


def _write_table(
    table: IO[bytes],
    results: Iterator[list[tuple[str, Measured]]],
    skipped: SkippedFiles,
    stop: StopFlag | None,
    on_progress: Callable[[int], None],
) -> "array[int]":
    """Writes the lines and returns where each begins."""
    offsets = array("Q")
    num_files = 0
    position = table.write(_COLUMNS)
    for chunk in results:
        if stop is not None:
            stop.check()
        for name, measured in chunk:
            if isinstance(measured, UnreadableImage):
                skipped.add(measured.path, measured.reason)
                continue
            width, height = measured
            line = f"{len(offsets)}\t{width}\t{height}\t{escape_path(name)}\n".encode()
            offsets.append(position)
            position += table.write(line)
        num_files += len(chunk)
        on_progress(num_files)
    return offsets


def _check_not_empty(image_root: Path, summary: ManifestSummary, skipped: SkippedFiles) -> None:
    if summary.num_images:
        return
    if summary.num_skipped:
        raise LussError(
            f"none of the {summary.num_skipped} image files below {image_root} can be read: "
            f"see the reasons in {skipped.path}"
        )
    raise LussError(
        f"{image_root} holds no images: looked, also in its folders, for names ending in "
        f"{' '.join(sorted(IMAGE_SUFFIXES))} (any letter case, not hidden). Set data.root to the folder that holds them"
    )
