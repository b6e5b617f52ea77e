"""Images with their label maps, as the exports read them: from stored pseudo labels, or from predicted masks."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from luss.data.imagenet_s import read_mask
from luss.data.manifest import Manifest
from luss.errors import LussError
from luss.labels.store import LabelStore
from luss.labels.writer import Labels
from luss.predict import MaskNames


class LabelledImages(Protocol):
    """One split: images under one numbering, each with a label map.

    Attributes:
        split: Its name.
        num_clusters: C; ids lie in 0..C.
        categories: Id to name for the ids that label maps may hold, background left out.
    """

    @property
    def split(self) -> str: ...

    @property
    def num_clusters(self) -> int: ...

    @property
    def categories(self) -> dict[int, str]: ...

    def __len__(self) -> int:
        """Number of images."""
        ...

    def name(self, index: int) -> str:
        """Path below the image root, with forward slashes."""
        ...

    def image(self, index: int) -> Path:
        """The image's file."""
        ...

    def mask_name(self, index: int) -> str:
        """A name for its mask, which no other image shares: `dog/x.png`."""
        ...

    def label_map(self, index: int) -> Labels | None:
        """(H, W) ids at the image's size; None when the image could not be read when labels were made."""
        ...


@dataclass(frozen=True)
class StoredLabels:
    """The pseudo labels of the training images, with the edits that the store was opened with.

    Attributes:
        store: The label maps.
        image_root: The folder that their names are relative to.
        split: What to call them.
    """

    store: LabelStore
    image_root: Path
    split: str = "train"
    _masks: list[MaskNames] = field(default_factory=list, repr=False)

    @property
    def num_clusters(self) -> int:
        """See `LabelledImages`."""
        return self.store.num_clusters

    @property
    def categories(self) -> dict[int, str]:
        """See `LabelledImages`."""
        return {cluster: self.store.cluster_name(cluster) for cluster in self.store.clusters}

    def __len__(self) -> int:
        return len(self.store)

    def name(self, index: int) -> str:
        """See `LabelledImages.name`."""
        return self.store.name(index)

    def names(self) -> Iterator[str]:
        """All names in order."""
        return map(self.store.name, range(len(self.store)))

    def image(self, index: int) -> Path:
        """See `LabelledImages.image`."""
        return self.image_root / self.name(index)

    def mask_name(self, index: int) -> str:
        """See `LabelledImages.mask_name`. The first call reads all names once."""
        if not self._masks:
            self._masks.append(MaskNames(self))
        return self._masks[0][index]

    def label_map(self, index: int) -> Labels | None:
        """See `LabelledImages.label_map`."""
        return self.store.label_map(index)


@dataclass(frozen=True)
class PredictedMasks:
    """The masks that a run predicted for a split.

    Attributes:
        manifest: The split's images.
        folder: Their masks, by the names of `luss.predict.MaskNames`.
        categories: Id to name.
        num_clusters: C.
    """

    manifest: Manifest
    folder: Path
    categories: dict[int, str]
    num_clusters: int
    _masks: list[MaskNames] = field(default_factory=list, repr=False)

    @property
    def split(self) -> str:
        """See `LabelledImages`."""
        return self.manifest.split

    def __len__(self) -> int:
        return len(self.manifest)

    def name(self, index: int) -> str:
        """See `LabelledImages.name`."""
        return self.manifest.name(index)

    def image(self, index: int) -> Path:
        """See `LabelledImages.image`."""
        return self.manifest.path(index)

    def mask_name(self, index: int) -> str:
        """See `LabelledImages.mask_name`."""
        if not self._masks:
            self._masks.append(MaskNames(self.manifest))
        return self._masks[0][index]

    def label_map(self, index: int) -> Labels | None:
        """See `LabelledImages.label_map`.

        Raises:
            LussError: The mask is damaged, or of another size than the image.
        """
        path = self.folder / self.mask_name(index)
        if not path.is_file():
            return None
        ids = read_mask(path)
        width, height = self.manifest.size(index)
        if ids.shape != (height, width) or ids.max() > self.num_clusters:
            raise LussError(f"{path} does not fit its image: run predict again (luss run ... --force predict)")
        return ids
