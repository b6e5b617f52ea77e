"""A writer of JSON whose values do not fit in memory: they wait in hidden files beside the final one, a value a line.

`position` says how far these parts are safely on the disk: a writer that is given it continues there.
"""

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from luss.errors import LussError
from luss.export.job import Writer


class PartsWriter(Writer):
    """Collects values of one or several sections; a subclass makes the file of them in `finish`.

    The parts stay: the end of the export removes them (`luss.export.job`).

    Attributes:
        path: The final file; its folder is made when absent.
        count: Values of each section.
    """

    anywhere = True

    def __init__(self, path: Path, sections: Iterable[str], position: Mapping[str, int] | None) -> None:
        """Begins, or continues where an earlier writer stopped; what it wrote later is dropped.

        Raises:
            LussError: The parts of the earlier writer are gone.
        """
        self.path = path
        self.count = {section: position[f"num_{section}"] if position else 0 for section in sections}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._files = {section: self._open(section, position) for section in self.count}

    def add(self, section: str, value: Mapping[str, Any]) -> None:
        """Adds a value to a section."""
        self.count[section] += 1
        self._files[section].write(f"{to_json(value)}\n".encode())

    def lines(self, section: str) -> Iterator[str]:
        """The values of a section as JSON, without line breaks; after `position`."""
        with open(self._part(section), encoding="utf-8", newline="\n") as lines:
            yield from (line.rstrip("\n") for line in lines)

    def position(self) -> dict[str, Any]:
        """See `luss.export.job.Writer.position`: how far the parts reach, and how much is in them."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        lengths = {section: file.tell() for section, file in self._files.items()}
        return {**lengths, **{f"num_{section}": count for section, count in self.count.items()}}

    def close(self) -> None:
        """Closes the parts and leaves them: for a writer that will be continued."""
        for file in self._files.values():
            file.close()

    def _part(self, section: str) -> Path:
        return self.path.with_name(f".{self.path.name}.{section}.part")

    def _open(self, section: str, position: Mapping[str, int] | None) -> IO[bytes]:
        part = self._part(section)
        if position is None:
            return open(part, "wb")
        if not part.is_file() or part.stat().st_size < position[section]:
            raise LussError(f"{part} is gone or was cut, so the export cannot continue: delete {self.path.parent}")
        os.truncate(part, position[section])
        return open(part, "ab")


def to_json(value: Any) -> str:
    """A value as JSON in one line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def write_list(file: IO[str], values: Iterable[str]) -> None:
    """Writes a JSON list of values that are JSON already."""
    file.write("[")
    for number, value in enumerate(values):
        file.write(f"{',' if number else ''}\n{value}")
    file.write("]")


def numbered(folder: Path, name: str) -> Iterator[Path]:
    """`name` with the numbers 0, 1, ... in place of `{}`, six digits each."""
    return (folder / name.format(f"{number:06d}") for number in itertools.count())


def remove_surplus(paths: Iterable[Path]) -> None:
    """Removes the files that are there, up to the first that is not: what a larger export has left in its numbered files."""
    for path in itertools.takewhile(Path.exists, paths):
        path.unlink()
