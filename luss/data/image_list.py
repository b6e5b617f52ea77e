"""Images that a person names, as a root and names below it, without holding the paths."""

import os
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from luss.data.formats import is_picture
from luss.data.names import name_hash, repeated
from luss.data.walk import Met, find_images
from luss.errors import LussError
from luss.files import not_text, text_encoding


class ImageList:
    """Images, folders of images, and text files of one path a line; each path counts once.

    Paths in a list that are relative are relative to the current folder; empty lines do not count. Keeps 8 bytes a path. Lists and folders
    are read anew each time the names are asked for.

    Attributes:
        sources: What was named.
        root: The deepest folder that holds all of them.
    """

    def __init__(self, *sources: Path) -> None:
        """Reads all once; a file whose name is not that of a picture is a list.

        Raises:
            LussError: A list is absent, no text, or lists nothing.
        """
        self.sources = sources
        hashes = array("Q")
        roots: set[str] = set()
        for source in sources:
            known = len(hashes)
            for image in self._paths(source, Met()):
                folder = os.path.abspath(source) if source.is_dir() else os.path.dirname(image)
                if folder not in roots:
                    roots = {os.path.commonpath([*roots, folder])} if roots else {folder}
                hashes.append(name_hash(image))
            if len(hashes) == known and not source.is_dir():
                raise LussError(f"{source} lists no images: write one path a line")
        if not hashes:
            raise LussError(f"{', '.join(map(str, sources))} hold no images")
        self.root = Path(roots.pop())
        self._repeated = set(repeated(np.frombuffer(hashes, np.uint64)).tolist())

    def names(self, met: Met | None = None) -> Iterator[str]:
        """Paths below `root` with forward slashes, in the order in which they were named; `met`: see `find_images`."""
        seen: set[int] = set()
        for source in self.sources:
            for image in self._paths(source, met or Met()):
                if self._repeated and (found := name_hash(image)) in self._repeated:
                    if found in seen:
                        continue
                    seen.add(found)
                yield os.path.relpath(image, self.root).replace(os.sep, "/")

    def _paths(self, source: Path, met: Met) -> Iterator[str]:
        if source.is_dir():
            root = os.path.abspath(source)
            yield from (f"{root}/{name}" for name in find_images(Path(root), met))
        elif is_picture(source.name):
            yield os.path.abspath(source)
        else:
            yield from _read_list(source)


def _read_list(path: Path) -> Iterator[str]:
    try:
        with open(path, "rb") as file:
            encoding = text_encoding(file.read(4))
        # Names that are not UTF-8 are names all the same, where files have them.
        with open(
            path, encoding=encoding, errors="surrogateescape" if encoding.startswith("utf-8") else "strict"
        ) as lines:
            for number, line in enumerate(lines, start=1):
                if "\0" in line:
                    raise LussError(f"{path} is not a list of paths: {not_text(path, number)}")
                if text := line.rstrip("\r\n").strip():
                    if not text.isascii() and _is_undecoded(text) and not os.path.lexists(text):
                        raise LussError(f"{not_text(path, number)}; no file has this name as it stands there")
                    yield os.path.abspath(text)
    except UnicodeDecodeError as error:
        raise LussError(f"{path} begins as {error.encoding} and is not: save it as UTF-8") from error
    except OSError as error:
        raise LussError(f"the list {path} cannot be read ({error.strerror})") from error


def _is_undecoded(text: str) -> bool:
    return any("\udc80" <= letter <= "\udcff" for letter in text)
