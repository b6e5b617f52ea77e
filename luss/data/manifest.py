r"""The manifest: every usable image of a split, its size and its id, in one table on disk.

Files of a split, in one folder:
    `<split>.tsv`          id, width, height, bytes, path: one line an image, below a line of column names. The path is
                           relative to the image root, with forward slashes and odd characters escaped (`\t`, `\xNN`).
                           Earlier versions wrote no bytes.
    `<split>.offsets.npy`  uint64, byte at which the line of image i begins.
    `<split>.folders`      what the walk saw of each folder (`luss.data.walk`); absent where the names were given.
    `<split>.json`         the image root and the counts; written last: where it is, the manifest is complete.
Both tables are memory-mapped: a manifest of a million images costs a reader no memory of its own.
"""

import contextlib
import hashlib
import itertools
import mmap
import posixpath
from array import array
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from luss.data.formats import IMAGE_SUFFIXES, is_image, is_picture
from luss.data.images import Header, Listed, UnreadableImage, read_header
from luss.data.names import inside
from luss.data.skipped import READ_WITH_NOTE, SkippedFiles, escape_path, unescape_path
from luss.data.walk import Met, find_images
from luss.errors import LussError
from luss.files import read_json, replacing, write_json
from luss.progress import StopFlag
from luss.refusals import refuse
from luss.settings.run import MAX_PIXELS

_COLUMNS = b"id\twidth\theight\tbytes\tpath\n"
# Of earlier versions.
_OLD_COLUMNS = b"id\twidth\theight\tpath\n"
_RENEW = "list the images again (luss run ... --force manifest)"
_CHUNK = 64
"""Images a worker measures between two looks at `stop`."""

Measured = Header | UnreadableImage


@dataclass(frozen=True)
class ManifestSummary:
    """What `build_manifest` found.

    Attributes:
        num_images: Images in the manifest, >= 1.
        num_skipped: Image files that went to `skipped` instead.
        unread: Pictures of formats that are not read here, by their ending; they went to `skipped` too.
        made_by_luss: Folders that were left out, because luss has written what lies in them.
    """

    num_images: int
    num_skipped: int
    unread: dict[str, int] = field(default_factory=dict)
    made_by_luss: tuple[Path, ...] = ()

    @property
    def sentences(self) -> list[str]:
        """What to tell a person."""
        found = []
        if self.unread:
            endings = ", ".join(
                f"{ending} {count:,}" for ending, count in sorted(self.unread.items(), key=lambda each: -each[1])
            )
            found.append(
                f"{sum(self.unread.values()):,} pictures are in formats that are not read here and are left out ({endings}): "
                "skipped.csv lists each with what helps"
            )
        if self.made_by_luss:
            more = f" and {len(self.made_by_luss) - 3} more" if len(self.made_by_luss) > 3 else ""
            folders = ", ".join(map(str, self.made_by_luss[:3]))
            found.append(f"left out, because luss has written what lies there: {folders}{more}")
        return found


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
    met: Met | None = None,
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
            finds truncated files and files that can be read although their end is missing, which are noted.
        names: Paths below `image_root` with forward slashes, in the order of the manifest; None = all images that
            `find_images` finds.
        met: What the walks that give `names` meet; it is filled when the last name has been read.
        stop: Asked every few dozen images.
        on_progress: Called with the number of files looked at so far.

    Returns:
        The counts.

    Raises:
        LussError: The image root is no folder, holds no images, or none that can be read; a folder in it cannot be listed; the disk
            is full.
        Interrupted: `stop` is set; no manifest was written.
    """
    if not image_root.is_dir():
        raise LussError(f"{image_root} is not a folder: set data.root to the folder that holds the images")
    root = image_root.absolute()
    files = _Files(folder, split)
    files.facts.unlink(missing_ok=True)
    files.folders.unlink(missing_ok=True)
    skipped.forget(root)
    num_before, met = skipped.count, met or Met()
    unread: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        table_path, offsets_path = (stack.enter_context(replacing(path)) for path in (files.table, files.offsets))
        if names is None:
            notes = stack.enter_context(open(stack.enter_context(replacing(files.folders)), "w", encoding="utf-8"))
            met.on_folder = lambda note: notes.write(note.line())
            names = find_images(root, met)
        measuring = contextlib.closing(_measure_all(root, names, max_pixels, verify, max(1, workers)))
        with open(table_path, "wb") as table, measuring as results:
            offsets = _write_table(root, table, results, skipped, unread, stop, on_progress)
            num_bytes = table.tell()
        met.check_listed()
        num_skipped = skipped.count - num_before - sum(unread.values())
        summary = ManifestSummary(len(offsets), num_skipped, dict(unread), tuple(met.made_by_luss))
        _check_not_empty(image_root, summary, skipped)
        with open(offsets_path, "wb") as file:
            np.save(file, np.frombuffer(offsets, dtype=np.uint64), allow_pickle=False)
    counts = {"num_images": summary.num_images, "num_skipped": summary.num_skipped, "num_bytes": num_bytes}
    write_json(files.facts, {"image_root": escape_path(str(root)), **counts})
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
            raise LussError(f"{facts_path} is damaged ({error!r}): {_RENEW}") from error
        manifest = cls(folder, split, image_root=image_root, num_images=num_images, num_bytes=num_bytes)
        manifest._open_maps()
        return manifest

    def __len__(self) -> int:
        return self._num_images

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": None}

    def name(self, index: int) -> str:
        """The image's path below `image_root`, with forward slashes."""
        return self._name(self._row(index), index)

    def path(self, index: int) -> Path:
        """The image's file."""
        return self.image_root / self.name(index)

    def size(self, index: int) -> tuple[int, int]:
        """(width, height) of the upright image in pixels."""
        return self.listed(index).size

    def listed(self, index: int) -> Listed:
        """What the image's file was like when it was listed."""
        row = self._row(index)
        try:
            width, height, num_bytes = int(row[1]), int(row[2]), None if len(row) == 4 else int(row[3])
        except ValueError as error:
            raise self._damaged(index) from error
        if min(width, height) < 1:
            raise self._damaged(index)
        return Listed((width, height), num_bytes)

    def names(self) -> Iterator[str]:
        """All names in the order of the ids."""
        table, _ = self._maps or self._open_maps()
        start = table.find(b"\n") + 1
        # Not table.readline(): its position is shared by all iterators and threads.
        for index in range(self._num_images):
            end = table.find(b"\n", start)
            yield self._name(self._checked(table[start:end].split(b"\t"), index), index)
            start = end + 1

    def digest(self, count: int) -> str:
        """Stands for the first `count` images: their names and sizes in order, wherever they lie. Reads their lines, some 60 bytes an image."""
        table, offsets = self._maps or self._open_maps()
        end = self._start(offsets, count) if count < len(self) else self._num_bytes
        return hashlib.sha256(memoryview(table)[:end]).hexdigest()

    def _row(self, index: int) -> list[bytes]:
        if not 0 <= index < self._num_images:
            raise IndexError(f"image {index} of a manifest of {self._num_images}")
        table, offsets = self._maps or self._open_maps()
        start = self._start(offsets, index)
        return self._checked(table[start : table.find(b"\n", start)].split(b"\t"), index)

    def _start(self, offsets: NDArray[np.uint64], index: int) -> int:
        start = int(offsets[index])
        if start >= self._num_bytes:
            files = _Files(self.folder, self.split)
            raise LussError(
                f"{files.offsets} is damaged (image {index} would begin behind the end of {files.table.name}): {_RENEW}"
            )
        return start

    def _checked(self, row: list[bytes], index: int) -> list[bytes]:
        if len(row) not in (4, 5) or row[0] != b"%d" % index:
            raise self._damaged(index)
        return row

    def _name(self, row: list[bytes], index: int) -> str:
        try:
            name = unescape_path(row[-1].decode())
        except ValueError as error:
            raise self._damaged(index) from error
        return inside(name, self.folder)

    def _damaged(self, index: int) -> LussError:
        files = _Files(self.folder, self.split)
        # Below the names of the columns, and counted from 1.
        return LussError(f"{files.table}, line {index + 2}, is damaged, or {files.offsets.name} is: {_RENEW}")

    def _open_maps(self) -> tuple[mmap.mmap, NDArray[np.uint64]]:
        files = _Files(self.folder, self.split)
        try:
            with open(files.table, "rb") as file:
                table = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            offsets = np.lib.format.open_memmap(files.offsets, mode="r")
        except Exception as error:  # a damaged header makes NumPy raise several kinds
            refuse(error, files.table)
            raise LussError(f"the manifest of split {self.split!r} cannot be read ({error}): {_RENEW}") from error
        if len(table) != self._num_bytes or offsets.shape != (self._num_images,) or offsets.dtype != np.uint64:
            raise LussError(f"{files.table} and {files.offsets} do not belong to {files.facts}: {_RENEW}")
        if not table[: len(_COLUMNS)].startswith((_COLUMNS, _OLD_COLUMNS)):
            raise LussError(f"{files.table}, line 1, does not name the columns of a manifest: {_RENEW}")
        self._maps = table, offsets
        return self._maps


class _Files:
    def __init__(self, folder: Path, split: str) -> None:
        endings = (".tsv", ".offsets.npy", ".json", ".folders")
        self.table, self.offsets, self.facts, self.folders = (folder / f"{split}{end}" for end in endings)


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
        return read_header(path, max_pixels, whole=verify == "full")
    except UnreadableImage as error:
        return error


def _write_table(
    root: Path,
    table: IO[bytes],
    results: Iterator[list[tuple[str, Measured]]],
    skipped: SkippedFiles,
    unread: Counter[str],
    stop: StopFlag | None,
    on_progress: Callable[[int], None],
) -> "array[int]":
    """Writes the lines and returns where each begins; counts in `unread` what looks like a picture and is of no format that is read."""
    offsets = array("Q")
    num_files = 0
    position = table.write(_COLUMNS)
    for chunk in results:
        if stop is not None:
            stop.check()
        for name, measured in chunk:
            if isinstance(measured, UnreadableImage):
                if not is_image(posixpath.basename(name)) and is_picture(posixpath.basename(name)):
                    unread[posixpath.splitext(name)[1].lower()] += 1
                skipped.add(measured.path, measured.reason)
                continue
            if measured.note:
                skipped.add(root / name, f"{READ_WITH_NOTE}{measured.note}")
            width, height = measured.size
            line = f"{len(offsets)}\t{width}\t{height}\t{measured.num_bytes}\t{escape_path(name)}\n".encode()
            offsets.append(position)
            position += table.write(line)
        num_files += len(chunk)
        on_progress(num_files)
    return offsets


def _check_not_empty(image_root: Path, summary: ManifestSummary, skipped: SkippedFiles) -> None:
    if summary.num_images:
        return
    if num_unusable := summary.num_skipped + sum(summary.unread.values()):
        raise LussError(
            f"none of the {num_unusable} image files below {image_root} can be read: see the reasons in {skipped.path}"
        )
    raise LussError(
        f"{image_root} holds no images: looked, also in its folders, for names ending in "
        f"{' '.join(sorted(IMAGE_SUFFIXES))} (any letter case, not hidden). Set data.root to the folder that holds them"
    )
