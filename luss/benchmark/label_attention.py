"""Attention for an evaluation from the pseudo labels of a run, where it is stored on the feature grid."""

from pathlib import Path, PurePosixPath
from typing import cast

import numpy as np
from numpy.typing import NDArray

from luss.benchmark.folders import AttentionFolder, AttentionSource
from luss.data.names import NameIndex
from luss.errors import LussError
from luss.labels.sampling import bilinear, centres
from luss.labels.store import LabelStore
from luss.labels.writer import INDEX_NAME

_SEARCHED = "validation-labels"
"""Beside `labels/`: the maps of validation, there when the threshold was searched with its masks."""


class LabelAttention(AttentionSource):
    """Attention from label files: float32 in [0, 1], resized bilinearly to the size of the mask.

    An image is found by its name without ending: "category/name" is the attention of `category/name.JPEG`. Keeps 32
    bytes an image. Pickles as the paths, so each worker process opens the files once for itself.
    """

    def __init__(self, paths: list[Path]) -> None:
        """Opens label files.

        Args:
            paths: Each `labels.h5` or a folder that `LabelStore.open` takes; all are searched for a name.

        Raises:
            LussError: A file is absent or damaged.
        """
        self._paths = paths
        self._stores = [LabelStore.open(path, layer=None) for path in paths]
        self._names: list[NameIndex] | None = None

    @classmethod
    def open(cls, path: Path) -> "LabelAttention":
        """Opens the label files that a path stands for.

        Args:
            path: `labels.h5`, the folder that holds it, a run's `pseudo_labels` folder, or a run. Of the last two the
                maps of validation count as well, where the stage has written them.

        Raises:
            LussError: There is no label file, or it is damaged.
        """
        inside = (path / _SEARCHED, path / "pseudo_labels" / _SEARCHED)
        return cls([path, *(folder for folder in inside if (folder / INDEX_NAME).is_file())])

    def __reduce__(self) -> tuple[type["LabelAttention"], tuple[list[Path]]]:
        return LabelAttention, (self._paths,)

    def shape(self, name: str) -> None:
        self._find(name)  # any size, but the image must be there

    def read(self, name: str, size: tuple[int, int]) -> NDArray[np.floating]:
        store, index = self._find(name)
        attention = store.raw(index)[1]
        rows, columns = (
            centres(0, extent, num=extent, image_extent=extent, grid_extent=grid)
            for extent, grid in zip(size, attention.shape, strict=True)
        )
        values = bilinear(attention, rows, columns)
        values /= np.float32(255)
        return cast(NDArray[np.floating], values)

    def _find(self, name: str) -> tuple[LabelStore, int]:
        """The file and the row of an image.

        Raises:
            LussError: No image of that name has a label map, or several do.
        """
        if self._names is None:
            # Both names of the mask of every image.
            self._names = [
                NameIndex((each for image in store.image_names() for each in _names_of_mask(image)), 2 * len(store))
                for store in self._stores
            ]
        found = []
        for store, names in zip(self._stores, self._names, strict=True):
            rows = [place // 2 for place in names.places(name)]
            # By the name without ending; x.jpg beside x.png have the masks x.jpg.png and x.png.png instead.
            found += [(store, row) for row in rows if name in _names_of_mask(store.name(row))]
        exact = [(store, row) for store, row in found if store.name(row) == name]
        found = exact or found
        if not found:
            listed = " and ".join(str(store.path) for store in self._stores)
            raise LussError(
                f"{name!r} has no label map in {listed}: give the label file of the images that are evaluated"
            )
        if len(found) > 1:
            listed = " and ".join(f"{store.name(row)!r} in {store.path}" for store, row in found)
            raise LussError(f"{name!r} may be {listed}: give the one label file of the images that are evaluated")
        return found[0]


def _names_of_mask(name: str) -> tuple[str, str]:
    """What the mask of an image may be called, without its ending .png."""
    return str(PurePosixPath(name).with_suffix("")), name


def attention_source(path: Path) -> AttentionSource:
    """The attention that a path stands for.

    Args:
        path: A folder of `<category>/<name>.npy`, or what `LabelAttention.open` takes.

    Raises:
        LussError: It is neither, or the label file is damaged.
    """
    inside = (path / folder / INDEX_NAME for folder in (".", "labels", "pseudo_labels/labels"))
    if any(index.is_file() for index in inside) or (path.is_file() and path.suffix == Path(INDEX_NAME).suffix):
        return LabelAttention.open(path)
    if path.is_dir():
        return AttentionFolder(path)
    raise LussError(
        f"{path} is no attention: give a folder of <category>/<name>.npy, a {INDEX_NAME} of luss, or the folder that holds it"
    )
