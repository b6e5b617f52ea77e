r"""Walking over a folder for its images, and noticing later, without looking at every file, that there are others.

What a walk notes of each folder is a line of a table (`Notes`), `<split>.folders`:
    when it last changed (ns), its pictures and folders, a hash of their names, its path below the root (escaped, `.` is the root).
A folder whose time is the same holds the same names. One whose time differs is listed, because copies of data have other times.
"""

import errno
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from luss.data.formats import is_picture
from luss.data.skipped import escape_path, unescape_path
from luss.errors import LussError

# Of a stage, of an export or of masks of `luss predict`, of a report: whatever lies in a folder with such files was made by luss.
_MADE_BY_LUSS = (
    ("config.yaml", "DONE.json"),
    ("config.yaml", "STARTED.json"),
    ("export.json",),
    ("report.json", "index.html"),
)
# A run has this stage.
_FIRST_STAGE = "manifest"
_MARKS = frozenset(name for names in _MADE_BY_LUSS for name in names) | {_FIRST_STAGE}
_LOOK_SECONDS = 2.0
# Folders that systems put into the root of a disk, for themselves.
_OF_THE_SYSTEM = frozenset({"lost+found", "System Volume Information", "$RECYCLE.BIN"})


class FolderNote(NamedTuple):
    """What a walk saw of a folder.

    Attributes:
        changed: When its list of names last changed, ns.
        num_names: Pictures and folders in it.
        names: Stands for their names.
        path: Below the root, with forward slashes; empty for the root.
    """

    changed: int
    num_names: int
    names: str
    path: str

    def line(self) -> str:
        """Its line of the table."""
        return f"{self.changed}\t{self.num_names}\t{self.names}\t{escape_path(self.path) or '.'}\n"

    @classmethod
    def read(cls, line: str) -> "FolderNote":
        """The note of a line; raises ValueError where it is none."""
        changed, count, names, path = line.rstrip("\n").split("\t")
        return cls(int(changed), int(count), names, "" if path == "." else unescape_path(path))


@dataclass
class Met:
    """What walks met besides the images.

    Attributes:
        unlisted: Folders that could not be listed, and why.
        made_by_luss: Folders that were left out because luss has written them: masks are no photographs.
        on_folder: Takes a note of every folder.
    """

    unlisted: list[tuple[Path, str]] = field(default_factory=list)
    made_by_luss: list[Path] = field(default_factory=list)
    on_folder: Callable[[FolderNote], object] = lambda note: None

    def check_listed(self) -> None:
        """Makes sure that every folder was listed: nobody knows how many images another one holds.

        Raises:
            LussError: One was not; names them.
        """
        if not self.unlisted:
            return
        lines = [f"  {path}: {reason}" for path, reason in self.unlisted[:10]]
        more = [f"  and {len(self.unlisted) - 10} more"] if len(self.unlisted) > 10 else []
        raise LussError(
            "\n".join(
                [
                    f"{len(self.unlisted)} folders of images cannot be listed, and nobody knows how many images they hold:",
                    *lines,
                    *more,
                ]
            )
            + "\nallow them to be read (chmod), or move them elsewhere"
        )


def find_images(root: Path, met: Met | None = None) -> Iterator[str]:
    """Walks the folder `root` for files with the suffix of a picture, in the order of their path components.

    Links are followed, except links to a folder that contains them. Hidden files and folders do not count, nor folders that luss has
    written (runs, exports, masks, reports). Only the names in the folders on the way to the current file are held in memory.

    Args:
        root: The folder.
        met: Takes what was met besides.

    Yields:
        Path below `root` with forward slashes; bytes that are not UTF-8 as surrogates (PEP 383).
    """
    return _walk(os.fspath(root), "", frozenset(), Met() if met is None else met)


def is_made_by_luss(folder: Path) -> bool:
    """Whether a folder is a run, or holds what luss has made: a stage, an export, masks, a report."""
    # Not listed: it may be a category with many images.
    return _made_by_luss(os.fspath(folder), {name for name in _MARKS if os.path.exists(os.path.join(folder, name))})


def _made_by_luss(folder: str, names: AbstractSet[str]) -> bool:
    if any(set(mark) <= names for mark in _MADE_BY_LUSS):
        return True
    return _FIRST_STAGE in names and is_made_by_luss(Path(folder, _FIRST_STAGE))


@dataclass(frozen=True)
class Changes:
    """What is different in a folder of images since it was listed.

    Attributes:
        added, removed: Pictures and folders, counted folder by folder; one that was renamed counts in both.
    """

    added: int = 0
    removed: int = 0


def changes(root: Path, notes: Iterable[str], *, seconds: float = _LOOK_SECONDS) -> Changes:
    """Compares folders with the notes of a walk; looks for some seconds at most, and says what it has found until then.

    Args:
        root: The folder that was walked; it may lie elsewhere now.
        notes: Lines of the table.
        seconds: When to stop looking.

    Raises:
        ValueError: A line is damaged.
    """
    added = removed = 0
    until = time.monotonic() + seconds
    for note in map(FolderNote.read, notes):
        if time.monotonic() > until:
            break
        folder = os.path.join(root, note.path) if note.path else os.fspath(root)
        try:
            if os.stat(folder).st_mtime_ns == note.changed:
                continue
            names, folders, _ = _list(folder)
        except FileNotFoundError:
            removed += note.num_names
            continue
        except OSError:
            continue
        if _hash(names) != note.names:
            names = [name for name in names if name not in folders or not is_made_by_luss(Path(folder, name))]
        if _hash(names) != note.names:
            more = len(names) - note.num_names
            # Names were exchanged where the number is the same.
            added, removed = (added + max(more, 0), removed + max(-more, 0)) if more else (added + 1, removed + 1)
    return Changes(added, removed)


def _walk(folder: str, prefix: str, above: frozenset[tuple[int, int]], met: Met) -> Iterator[str]:
    try:
        status = os.stat(folder)
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            return
        names, folders, marks = _list(folder)
    except OSError as error:
        if os.path.basename(folder) not in _OF_THE_SYSTEM:
            met.unlisted.append((Path(folder), error.strerror or str(error)))
        return
    if prefix and _made_by_luss(folder, marks):
        met.made_by_luss.append(Path(folder))
        return
    for name in names:
        if name in folders:
            yield from _walk(f"{folder}/{name}", f"{prefix}{name}/", above | {identity}, met)
        else:
            yield prefix + name
    left_out = {path.name for path in met.made_by_luss if os.fspath(path.parent) == folder}
    own = [name for name in names if name not in left_out] if left_out else names
    met.on_folder(FolderNote(status.st_mtime_ns, len(own), _hash(own), prefix[:-1]))


def _list(folder: str) -> tuple[list[str], set[str], set[str]]:
    """The sorted names of a folder's pictures and folders, which of them are folders (a million names: 80 MB), and what shows who made it."""
    names: list[str] = []
    folders: set[str] = set()
    marks: set[str] = set()
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_folder := not entry.name.startswith(".") and _is_folder(entry):
                folders.add(entry.name)
            if is_folder or is_picture(entry.name):
                names.append(entry.name)
            if entry.name in _MARKS:
                marks.add(entry.name)
    return sorted(names), folders, marks


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        # A link to itself is nothing; what cannot be looked at may be a folder, and listing it will tell.
        return error.errno != errno.ELOOP


def _hash(names: list[str]) -> str:
    return hashlib.blake2b("/".join(names).encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
