"""Images with their label maps, as the exports read them: from stored pseudo labels, or from predicted masks."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from luss.data.imagenet_s import read_mask
from luss.data.manifest import Manifest
from luss.data.names import MaskNames
from luss.data.skipped import SkippedFiles
from luss.errors import LussError
from luss.labels.store import LabelStore
from luss.labels.writer import Labels

# A colon separates the fields of CVAT's list of labels, and "#" begins a comment in it.
_UNNAMEABLE = re.compile("[:#\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


class MissingImage(Exception):
    """An image that is needed is not there, or has no label map; it is listed and left out."""


class LabelledImages(ABC):
    """One split: images under one numbering, each with a label map.

    Attributes:
        split: Its name.
        image_root: The folder that the images' names are relative to.
        num_clusters: C; ids lie in 0..C.
        categories: Id to name for the ids that label maps may hold, background left out.
        block: Images between two places where a pass may begin; inside a block they come in an order of their own.
    """

    block: ClassVar[int] = 1

    def __init__(self, split: str, image_root: Path, num_clusters: int, categories: Mapping[int, str]) -> None:
        """Reads nothing."""
        self.split, self.image_root, self.num_clusters, self.categories = split, image_root, num_clusters, categories

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def name(self, index: int) -> str:
        """Path below the image root, with forward slashes."""

    @abstractmethod
    def names(self) -> Iterator[str]:
        """All names in order."""

    def image(self, index: int) -> Path:
        """The image's file."""
        return self.image_root / self.name(index)

    @abstractmethod
    def label_maps(self, start: int) -> Iterator[tuple[int, Labels | MissingImage]]:
        """Number and label map, (H, W) ids at the image's size, of every image from the block that begins at `start` on.

        In place of a map there may be the reason why there is none. The order is the same each time.
        """

    def mask_name(self, index: int) -> str:
        """A name for its mask, which no other image shares: `dog/x.png`. The first call reads all names once."""
        return self._mask_names[index]

    def listed(self, count: int) -> str:
        """Something that differs when the first `count` images are others than before; empty where that cannot be."""
        return ""

    @property
    def kept_apart(self) -> str:
        """What to say about masks whose names would have met; empty where none did, and where no mask was named."""
        return self._mask_names.sentence() if "_mask_names" in self.__dict__ else ""

    @cached_property
    def _mask_names(self) -> MaskNames:
        return MaskNames(self)


def distinct_names(categories: Mapping[int, str]) -> dict[int, str]:
    """A name for every id that no other id and no background has, without colons and what XML cannot hold: for programs that tell labels by name."""
    found: dict[int, str] = {}
    taken = {"background"}
    for key, name in sorted(categories.items()):
        text = _UNNAMEABLE.sub(" ", name).strip() or f"cluster {key}"
        while text in taken:
            text = f"{text} ({key})"
        taken.add(text)
        found[key] = text
    return found


class StoredLabels(LabelledImages):
    """The pseudo labels of the training images, with the edits that the store was opened with.

    Attributes:
        store: The label maps.
    """

    def __init__(self, store: LabelStore, image_root: Path, split: str = "train") -> None:
        """See the attributes; `split` is what to call them."""
        categories = {cluster: store.cluster_name(cluster) for cluster in store.clusters}
        super().__init__(split, image_root, store.num_clusters, categories)
        self.store = store

    def __len__(self) -> int:
        return len(self.store)

    def name(self, index: int) -> str:
        return self.store.name(index)

    def names(self) -> Iterator[str]:
        return self.store.image_names()

    def label_maps(self, start: int) -> Iterator[tuple[int, Labels | MissingImage]]:
        return ((index, self.label_map(index)) for index in range(start, len(self)))

    def label_map(self, index: int) -> Labels:
        """(H, W) ids at the image's size."""
        return self.store.label_map(index)


class ManifestImages(LabelledImages):
    """The images of `manifest`."""

    def __init__(self, manifest: Manifest, categories: Mapping[int, str], num_clusters: int) -> None:
        """See the attributes."""
        super().__init__(manifest.split, manifest.image_root, num_clusters, categories)
        self.manifest = manifest

    def __len__(self) -> int:
        return len(self.manifest)

    def name(self, index: int) -> str:
        return self.manifest.name(index)

    def names(self) -> Iterator[str]:
        return self.manifest.names()


class PredictedMasks(ManifestImages):
    """The masks that a run predicted for a split.

    Attributes:
        folder: The masks, by the names of `luss.data.names.MaskNames`.
        unreadable: Images that could not be read when masks were made, and have none.
    """

    def __init__(
        self,
        manifest: Manifest,
        folder: Path,
        categories: Mapping[int, str],
        num_clusters: int,
        unreadable: SkippedFiles | None = None,
    ) -> None:
        """See the attributes; without `unreadable` any image may lack its mask."""
        super().__init__(manifest, categories, num_clusters)
        self.folder, self.unreadable = folder, unreadable

    def label_maps(self, start: int) -> Iterator[tuple[int, Labels | MissingImage]]:
        """See `LabelledImages.label_maps`.

        Raises:
            LussError: A mask is gone, damaged, or of another size than its image.
        """
        return ((index, self._label_map(index)) for index in range(start, len(self)))

    def _label_map(self, index: int) -> Labels | MissingImage:
        path = self.folder / self.mask_name(index)
        if not path.is_file():
            if self.unreadable is not None and not self.unreadable.lists(self.name(index)):
                raise LussError(f"{path} is gone: run predict again (luss run ... --force predict)")
            return MissingImage("has no mask: it could not be read when masks were made")
        ids = read_mask(path)
        width, height = self.manifest.size(index)
        if ids.shape != (height, width) or ids.max() > self.num_clusters:
            raise LussError(f"{path} does not fit its image: run predict again (luss run ... --force predict)")
        return ids
