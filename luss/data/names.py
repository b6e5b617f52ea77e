"""Names of images and of their masks, and how an image is found by its name without holding all names."""

import hashlib
import posixpath
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from luss.errors import LussError


def name_hash(name: str) -> int:
    """Eight bytes that stand for a name, in 0..2**64 - 1: the same on every machine; bytes that are not UTF-8 come as surrogates (PEP 383)."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little")


def name_hashes(names: Iterable[str], count: int = -1) -> NDArray[np.uint64]:
    """(N,) hash of every name; `count` = N where it is known."""
    return np.fromiter(map(name_hash, names), np.uint64, count)


def repeated(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The hashes that occur more than once, ascending."""
    values, counts = np.unique(hashes, return_counts=True)
    return values[counts > 1]


def inside(name: str, source: object) -> str:
    """The name, which a file from a stranger has: one that leads out of its folder would be read or written anywhere.

    Args:
        name: A path below a folder, with forward slashes.
        source: Where it stands, for the message.

    Raises:
        LussError: It is absolute, or has a part `..`.
    """
    if name[:1] == "/" or (".." in name and ".." in name.split("/")):
        raise LussError(
            f"{source} names the image {name!r}, which leads out of its folder: luss writes no such names, do not trust it"
        )
    return name


class NameIndex:
    """Finds the place of a name in a list of names; keeps 16 bytes a name."""

    def __init__(self, names: Iterable[str], count: int = -1) -> None:
        """Reads all names once; `count` is their number where it is known."""
        hashes = name_hashes(names, count)
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]

    def places(self, name: str) -> list[int]:
        """Where the name may stand, ascending; the caller compares, because two names may share a hash."""
        wanted = np.uint64(name_hash(name))
        first, end = (int(np.searchsorted(self._hashes, wanted, side)) for side in ("left", "right"))
        return [int(place) for place in self._order[first:end]]


def mask_name(name: str) -> str:
    """The mask's file of an image: `dog/x.JPEG` -> `dog/x.png`."""
    return posixpath.splitext(name)[0] + ".png"


def folded(name: str) -> str:
    """The name as a file system reads it that takes upper and lower case, and both ways to write an accent, for the same."""
    return (
        name.lower() if name.isascii() else unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())
    )


class Named(Protocol):
    """Images with names, such as a manifest."""

    def __len__(self) -> int:
        """How many."""

    def name(self, index: int) -> str:
        """The image's path below a root, with forward slashes."""

    def names(self) -> Iterator[str]:
        """All of them, in order."""


# Bytes of a name: file systems take 255, and temporary names are longer.
_LONGEST = 240
# Files that are written beside each other under the name of a mask have these endings: a folder of such a name is in their way.
_WRITTEN = (".png", ".jpg", ".npz", ".npy", ".txt")


class MaskNames:
    """The mask's file of every image, by `mask_name`; names that meet are kept apart.

    Names meet where two images would have one mask, also on a file system that takes `X.png` and `x.png` for the same file, or where a
    folder of images has the name of the mask. A name that meets another is given to nobody. Each of its images takes its own whole name
    instead (`x.jpg` and `x.png`: `x.jpg.png` and `x.png.png`), and where that meets another one too, its whole name and a code made from
    it (`x.jpg.5d1e8a90c3b7f264.png`). So the names depend on which images there are, and not on their order. Keeps 8 bytes for each name
    that nobody has.

    Attributes:
        shared: Hashes of the names that nobody has.
        num_unusual: Images whose mask has another name than `mask_name` says.
        example: One of these images; empty where there is none.
    """

    def __init__(self, images: Named) -> None:
        """Reads all names once, and once more for each form of name that has met another."""
        self._images = images
        self.shared = np.empty(0, np.uint64)
        self.num_unusual, self.example = 0, ""
        taken = np.array([name_hash(name) for name in _in_the_way(images.names())], np.uint64)
        while True:
            claimed = name_hashes((folded(self._of(name)) for name in images.names()), len(images))
            met = np.union1d(repeated(claimed), np.intersect1d(claimed, taken))
            known, self.shared = len(self.shared), np.union1d(self.shared, met)
            if len(self.shared) == known:
                break
        for name in images.names() if known else ():
            if self._of(name) != mask_name(name):
                self.num_unusual, self.example = self.num_unusual + 1, self.example or name

    def __getitem__(self, index: int) -> str:
        """The file, relative to the folder of masks, with forward slashes."""
        return self._of(self._images.name(index))

    def sentence(self) -> str:
        """What to tell a person about names that were kept apart; empty where none met."""
        if not self.num_unusual:
            return ""
        return (
            f"{self.num_unusual} images would share the name of a mask with another image, also where upper and lower case are the same: "
            f"theirs keep the ending of the image, such as {self._of(self.example)} of {self.example}"
        )

    def _of(self, name: str) -> str:
        usual = mask_name(name)
        if not len(self.shared) or not self._is_shared(usual):
            return usual
        whole = _longer(name, ".png")
        return _longer(name, f".{name_hash(name):016x}.png") if self._is_shared(whole) else whole

    def _is_shared(self, mask: str) -> bool:
        wanted = np.uint64(name_hash(folded(mask)))
        place = int(np.searchsorted(self.shared, wanted))
        return place < len(self.shared) and bool(self.shared[place] == wanted)


def _longer(name: str, ending: str) -> str:
    """The name with an ending more; a code in its place where file systems, which allow 255 bytes, would not take it."""
    folder, slash, last = name.rpartition("/")
    short = len(last.encode("utf-8", "surrogateescape")) + len(ending) <= _LONGEST
    return name + ending if short else f"{folder}{slash}{name_hash(name):016x}.png"


def _in_the_way(names: Iterable[str]) -> set[str]:
    """The masks, folded, that would have the name of a folder of images, whatever is written under that name."""
    found, last = set(), ""
    for name in names:
        folder = name.rpartition("/")[0]
        if folder == last:
            continue
        last = folder
        for above in (folder, *map(str, PurePosixPath(folder).parents)):
            if (text := folded(above)).endswith(_WRITTEN):
                found.add(mask_name(text))
    return found
