"""The list of files a stage could not use, with the reason, and the limit on how many there may be."""

import csv
import io
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path

from luss.errors import LussError
from luss.files import replacing
from luss.refusals import refusals_named

_HEADER = ("path", "reason")

READ_WITH_NOTE = "read all the same: "
"""Begins the reason of a file that was used although something is wrong with it; it does not count as skipped."""

# Controls would break lines and columns; surrogates stand for bytes that are not UTF-8 (PEP 383).
_ESCAPED = re.compile("[\x00-\x1f\x7f\\\\\udc80-\udcff]")
_ESCAPE = re.compile(r"\\(x[0-9a-f]{2}|.)")
_LETTERS = {"\\": "\\", "\t": "t", "\n": "n", "\r": "r"}
_UNESCAPED = {letter: character for character, letter in _LETTERS.items()}


def escape_path(path: str) -> str:
    r"""Writes any path of the system as one line of valid UTF-8 without tabs, readable by people.

    Tab, newline, carriage return and backslash become `\t`, `\n`, `\r` and `\\`; other control characters and bytes
    that are not UTF-8 (`os` gives them as surrogates) become `\xNN`. All else, spaces and unicode included, stays.
    """
    return _ESCAPED.sub(lambda found: "\\" + (_LETTERS.get(found[0]) or f"x{ord(found[0]) & 0xFF:02x}"), path)


def unescape_path(text: str) -> str:
    """The path that `escape_path` turned into `text`."""
    return _ESCAPE.sub(lambda match: _unescape_letter(match[1]), text) if "\\" in text else text


def _unescape_letter(letter: str) -> str:
    if letter in _UNESCAPED:
        return _UNESCAPED[letter]
    code = int(letter[1:], 16)
    return chr(code if code < 0x80 else 0xDC00 + code)


class SkippedFiles:
    r"""A CSV file `path,reason` with one line for every file that could not be used.

    Each path is listed once, however often a stage is resumed; a line cut off by a kill is dropped. One process owns
    the file: workers report to it, other processes keep lists of their own, which the owner absorbs at the end. Paths are
    escaped as by `escape_path`.

    Args:
        path: The CSV file; written when the first path is added.

    Raises:
        LussError: The file is there and cannot be read, or it is no such list.

    Example:
        >>> skipped = SkippedFiles(stage_folder / "skipped.csv")
        >>> skipped.add(Path("photos/broken.jpg"), "truncated")
        >>> skipped.check(total=1000, max_share=0.01)
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reasons: dict[str, str] = {}
        # Made when it is first asked for.
        self._by_file: dict[str, list[str]] | None = None
        self._num_notes = 0
        if path.exists():
            self._load()

    @property
    def count(self) -> int:
        """Number of files listed, without those that were read with a note."""
        return len(self._reasons) - self._num_notes

    @property
    def num_notes(self) -> int:
        """Number of files that were read with a note."""
        return self._num_notes

    def add(self, path: Path, reason: str) -> None:
        """Lists a file, at once on disk; a path that is listed already keeps its first reason.

        Raises:
            LussError: The disk is full.
        """
        name = escape_path(str(path))
        if not self._is_new(name, reason):
            return
        self._reasons[name] = reason = " ".join(escape_path(reason).split())
        self._num_notes += reason.startswith(READ_WITH_NOTE)
        self._by_file = None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with refusals_named(self.path), open(self.path, "ab") as file:
            rows = [(name, self._reasons[name])]
            file.write(_csv_lines([_HEADER, *rows] if file.tell() == 0 else rows))

    def _is_new(self, name: str, reason: str) -> bool:
        """A note gives way to the reason why a file cannot be used after all."""
        before = self._reasons.get(name)
        if before is None or not before.startswith(READ_WITH_NOTE) or reason.startswith(READ_WITH_NOTE):
            return before is None
        self._replace({other: each for other, each in self._reasons.items() if other != name})
        return True

    def lists(self, name: str) -> bool:
        """Whether a file could not be used, by its path below whatever folder: data may lie elsewhere today."""
        if self._by_file is None:
            self._by_file = {}
            for path, reason in self._reasons.items():
                if not reason.startswith(READ_WITH_NOTE):
                    self._by_file.setdefault(path.rpartition("/")[2], []).append(path)
        wanted = escape_path(name)
        return any(path.endswith(f"/{wanted}") for path in self._by_file.get(wanted.rpartition("/")[2], ()))

    def forget(self, folder: Path) -> None:
        """Takes a folder, as it begins the paths that were added, and all below it off the list: they are about to be looked at anew."""
        top = escape_path(str(folder)).rstrip(os.sep) + os.sep
        kept = {name: reason for name, reason in self._reasons.items() if not f"{name}{os.sep}".startswith(top)}
        self._replace(kept)

    def begin(self, listed: "SkippedFiles", paths: Iterable[Path]) -> None:
        """Becomes a copy of another list, followed by what is listed of `paths`.

        Raises:
            LussError: The disk is full.
        """
        reasons = dict(listed._reasons)
        if self._reasons:
            kept = (name for path in paths if (name := escape_path(str(path))) in self._reasons)
            reasons.update((name, self._reasons[name]) for name in kept)
        self._replace(reasons)

    def clear(self) -> None:
        """Takes everything off the list and removes its file."""
        self.path.unlink(missing_ok=True)
        self._take({})

    def absorb(self, lists: Iterable[Path]) -> None:
        """Adds what other processes have listed; a path that is listed already keeps its first reason.

        Args:
            lists: Files of `SkippedFiles` whose owners have ended, in a fixed order.

        Raises:
            LussError: One of them is no such list; the disk is full.
        """
        found = dict(self._reasons)
        for path in lists:
            for name, reason in SkippedFiles(path)._reasons.items():
                if found.setdefault(name, reason).startswith(READ_WITH_NOTE):
                    found[name] = reason
        self._replace(found)

    def check(self, total: int, max_share: float, *, count: int | None = None) -> None:
        """Refuses a data set with too many unusable files.

        Args:
            total: Number of files looked at, the listed ones included.
            max_share: Largest share that may be listed, 0..1.
            count: Listed files that are among these; None: all.

        Raises:
            LussError: More than `max_share` of `total` files are listed.
        """
        count = self.count if count is None else count
        if count <= max_share * total:
            return
        share = count / max(total, count)
        # Above the share: products of decimals may fall short of it.
        enough = min(math.ceil(100 * share + 0.01) / 100, 1)
        raise LussError(
            f"{count:,} of {total:,} image files ({share:.1%}) could not be used, more than "
            f"data.max_skipped_share={max_share:g} allows. The files and reasons are in {self.path}: "
            f"repair or remove them, or go on without them: data.max_skipped_share={enough:g}"
        )

    def _replace(self, reasons: dict[str, str]) -> None:
        """Writes the whole list anew, if it is another one."""
        if list(reasons.items()) == list(self._reasons.items()):
            return
        with replacing(self.path) as temporary:
            temporary.write_bytes(_csv_lines([_HEADER, *reasons.items()]))
        self._take(reasons)

    def _take(self, reasons: dict[str, str]) -> None:
        self._reasons, self._by_file = reasons, None
        self._num_notes = sum(reason.startswith(READ_WITH_NOTE) for reason in reasons.values())

    def _load(self) -> None:
        """Reads the list and cuts off a last line that a kill left unfinished: only its end is a newline."""
        try:
            data = self.path.read_bytes()
            complete = data[: data.rfind(b"\n") + 1]
            rows = list(csv.reader(io.StringIO(complete.decode(), newline="")))
            if len(complete) < len(data):
                os.truncate(self.path, len(complete))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise LussError(f"{self.path} cannot be read as a list of skipped files ({error}): delete it") from error
        if rows and (tuple(rows[0]) != _HEADER or any(len(row) != 2 for row in rows)):
            raise LussError(f"{self.path} is not a list of skipped files with the columns path,reason: delete it")
        self._take(dict(rows[1:]))


def _csv_lines(rows: list[tuple[str, str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
