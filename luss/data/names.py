"""Names of images and of their masks, and how an image is found by its name without holding all names."""

import hashlib
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
    return str(PurePosixPath(name).with_suffix(".png"))


class Named(Protocol):
    """Images with names, such as a manifest."""

    def __len__(self) -> int:
        """How many."""

    def name(self, index: int) -> str:
        """The image's path below a root, with forward slashes."""

    def names(self) -> Iterator[str]:
        """All of them, in order."""


class MaskNames:
    """The mask's file of every image: by `mask_name`, except for images that would share one.

    A folder may hold `x.jpg` and `x.png`: their masks are `x.jpg.png` and `x.png.png`. Keeps 8 bytes for each such name.

    Attributes:
        shared: Hashes of the masks that several images would have.
    """

    def __init__(self, images: Named) -> None:
        """Reads all names once."""
        self._images = images
        self.shared = repeated(name_hashes(map(mask_name, images.names()), len(images)))

    def __getitem__(self, index: int) -> str:
        """The file, relative to the folder of masks, with forward slashes."""
        name = self._images.name(index)
        usual = mask_name(name)
        return f"{name}.png" if len(self.shared) and np.uint64(name_hash(usual)) in self.shared else usual
