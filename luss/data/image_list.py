"""A text file of image paths as a root and names below it, without holding the paths."""

import os
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from luss.data.names import name_hash, repeated
from luss.errors import LussError


class ImageList:
    """One path a line; relative ones are relative to the current folder. Empty lines do not count, and each path counts once.

    Keeps 8 bytes a path. The file is read anew each time the names are asked for.

    Attributes:
        path: The list.
        root: The deepest folder that holds all of them.
    """

    def __init__(self, path: Path) -> None:
        """Reads the list once.

        Raises:
            LussError: It is absent, not text, or lists nothing.
        """
        self.path = path
        hashes = array("Q")
        root = ""
        for image in self._paths():
            folder = os.path.dirname(image)
            root = os.path.commonpath([root, folder]) if hashes else folder
            hashes.append(name_hash(image))
        if not hashes:
            raise LussError(f"{path} lists no images: write one path a line")
        self.root = Path(root)
        self._repeated = set(repeated(np.frombuffer(hashes, np.uint64)).tolist())

    def names(self) -> Iterator[str]:
        """Paths below `root` with forward slashes, in the order of the list."""
        seen: set[int] = set()
        for image in self._paths():
            if self._repeated and (found := name_hash(image)) in self._repeated:
                if found in seen:
                    continue
                seen.add(found)
            yield os.path.relpath(image, self.root).replace(os.sep, "/")

    def _paths(self) -> Iterator[str]:
        try:
            with open(self.path, encoding="utf-8", errors="surrogateescape") as file:
                for line in file:
                    if "\0" in line:
                        raise LussError(f"{self.path} is not a list of paths: it must be a text file, one path a line")
                    if text := line.rstrip("\r\n").strip():
                        yield os.path.abspath(text)
        except OSError as error:
            raise LussError(f"the list {self.path} cannot be read ({error.strerror})") from error
