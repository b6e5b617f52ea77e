"""Where the pictures of ImageNet-S come from: a folder of ImageNet, and the toolkit's lists of test images."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from luss.data.formats import IMAGE_SUFFIXES, is_image
from luss.errors import LussError
from luss.files import read_user_text

_PLACES = (".", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")
# ImageNet's own ending first.
_ENDINGS = (".JPEG", *sorted({ending for suffix in IMAGE_SUFFIXES for ending in (suffix, suffix.upper())} - {".JPEG"}))


def image_names(folder: Path) -> list[str]:
    """The sorted names of the images directly in a folder; empty when there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if is_image(entry.name))
    except (FileNotFoundError, NotADirectoryError):
        return []


@dataclass(frozen=True)
class ImageNet:
    """ImageNet (ILSVRC 2012) on disk.

    Attributes:
        train: `<wnid>/<wnid>_<number>.JPEG`.
        val: `ILSVRC2012_val_<number>.JPEG`, flat or in folders of any names.
    """

    train: Path
    val: Path

    @classmethod
    def open(cls, root: Path) -> "ImageNet":
        """Finds the two folders.

        Args:
            root: Holds `train` and `val`, directly or as the archives of Kaggle do (`ILSVRC/Data/CLS-LOC`). One of them may be
                absent: what needs it is then missing.

        Raises:
            LussError: Neither is there.
        """
        for place in _PLACES:
            folder = (root / place).absolute()
            if (folder / "train").is_dir() or (folder / "val").is_dir():
                return cls(folder / "train", folder / "val")
        raise LussError(f"{root} is no folder of ImageNet: expected the folders train and val in it")

    def train_image(self, stem: str) -> Path | None:
        """The training image "n03887697_174"; its prefix names the folder. None when it is absent."""
        folder = self.train / stem.partition("_")[0]
        return next((folder / (stem + end) for end in _ENDINGS if (folder / (stem + end)).is_file()), None)

    def val_images(self) -> dict[str, str]:
        """Name without ending to path below `val` of every validation image (50,000), whatever folder holds it.

        The relabelled images of ImageNet-S lie in another folder than their new category's.
        """
        found: dict[str, str] = {}
        for folder, folders, names in os.walk(self.val, followlinks=True):
            folders.sort()
            for name in sorted(filter(is_image, names)):
                found.setdefault(os.path.splitext(name)[0], os.path.relpath(os.path.join(folder, name), self.val))
        return found


@dataclass(frozen=True)
class Lists:
    """The folder `data` of the ImageNet-S toolkit.

    Attributes:
        folder: Holds `categories` and `mapping`.
    """

    folder: Path

    @classmethod
    def open(cls, folder: Path) -> "Lists":
        """Finds the lists in the toolkit, or in its folder `data`.

        Raises:
            LussError: They are not there.
        """
        for place in (folder, folder / "data"):
            if (place / "mapping").is_dir():
                return cls(place)
        raise LussError(
            f"{folder} holds no lists: give the ImageNet-S toolkit's folder data, with mapping and categories in it"
        )

    def categories(self, number: int) -> list[str] | None:
        """The categories of a set in the order of their ids; None without that list."""
        path = self.folder / "categories" / f"ImageNetS_categories_im{number}.txt"
        return read_user_text(path).split() if path.is_file() else None

    def has_test(self, number: int) -> bool:
        """Whether the test images of a set are listed."""
        return self._test(number).is_file()

    def test(self, number: int) -> Iterator[tuple[str, str]]:
        """The test images of a set (tens of thousands).

        Yields:
            The name in ImageNet's val without folder and ending, and the place in the set: "<wnid>/<name>.JPEG".

        Raises:
            LussError: A line is not "source target", or its target is no file in a category's folder.
        """
        path = self._test(number)
        for line, text in enumerate(read_user_text(path).splitlines(), start=1):
            if not (words := text.split()):
                continue
            target = PurePosixPath(words[-1]).parts[-2:]
            if len(words) != 2 or len(target) != 2 or ".." in target or not is_image(target[1]):
                raise LussError(f"{path}, line {line}: expected 'wnid/name.JPEG wnid/name.JPEG', not {text.strip()!r}")
            yield PurePosixPath(words[0]).stem, "/".join(target)

    def _test(self, number: int) -> Path:
        return self.folder / "mapping" / f"ImageNetS_im{number}_mapping_test.txt"
