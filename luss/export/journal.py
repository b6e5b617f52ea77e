"""A list of finished images that grows by one line at a time and survives a kill at any moment."""

import hashlib
import json
import os
from array import array
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from luss.errors import LussError
from luss.files import is_disk_full

_DIGITS = 16


class Journal:
    """One line a finished image: what is known of it, by its name.

    A line cut off by a kill is dropped when the journal is opened; of two lines of one name the last counts. Memory: 16 bytes a line. One
    process writes it.

    Example:
        ```python
        with Journal(folder / "journal.jsonl") as journal:
            if journal.find("a.jpg") is None:
                journal.append("a.jpg", {"size": [480, 640]})
        ```
    """

    def __init__(self, path: Path) -> None:
        """Opens a journal, or begins one.

        Args:
            path: The file; its folder is made when absent.

        Raises:
            LussError: The file is not a journal.
        """
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = open(path, "a+b")  # noqa: SIM115  (lives with the journal)
        try:
            self._hashes, self._offsets = self._scan()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def find(self, name: str) -> dict[str, Any] | None:
        """What is known of an image, from the lines that were there when the journal was opened or last `refresh`ed."""
        place = int(np.searchsorted(self._hashes, np.uint64(_hash(name))))
        if place == len(self._hashes) or self._hashes[place] != _hash(name):
            return None
        self._file.seek(int(self._offsets[place]))
        try:
            record: dict[str, Any] = json.loads(self._file.readline()[_DIGITS + 1 :])
        except ValueError as error:
            raise self._damaged() from error
        return record

    def append(self, name: str, record: dict[str, Any]) -> None:
        """Adds a line.

        Raises:
            LussError: The disk is full.
        """
        try:
            self._file.write(f"{_hash(name):0{_DIGITS}x} {json.dumps(record, separators=(',', ':'))}\n".encode("ascii"))
            self._file.flush()
        except OSError as error:
            if is_disk_full(error):
                raise LussError(f"the disk that holds {self.path} is full: free some space and run again") from error
            raise

    def refresh(self) -> None:
        """Makes the lines that were appended since known to `find`."""
        self._hashes, self._offsets = self._scan()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _scan(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """The sorted hashes of all names, and where the last line of each begins."""
        hashes, offsets, position = array("Q"), array("Q"), 0
        self._file.seek(0)
        for line in self._file:
            if not line.endswith(b"\n"):
                os.truncate(self.path, position)
                break
            try:
                hashes.append(int(line[:_DIGITS], 16))
            except ValueError as error:
                raise self._damaged() from error
            offsets.append(position)
            position += len(line)
        # np.unique keeps the first of equals: reversed, that is the last line.
        values, places = np.unique(np.frombuffer(hashes, np.uint64)[::-1], return_index=True)
        return values, np.frombuffer(offsets, np.uint64)[::-1][places]

    def _damaged(self) -> LussError:
        return LussError(f"{self.path} is damaged: delete the folder {self.path.parent} and run again")


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(os.fsencode(name), digest_size=8).digest(), "little")
