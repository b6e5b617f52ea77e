"""Pseudo labels as an ordinary torch data set, for people who train their own segmenter."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from luss.data.images import read_image
from luss.errors import LussError
from luss.labels.store import LabelStore
from luss.labels.writer import check_threshold

Sample = dict[str, Any]


class PseudoLabels(Dataset[Any]):
    """Images with their pseudo labels: 0 is background, 1..C are the discovered clusters.

    Files are opened on first use in each process, so it works in DataLoader workers started by fork or by spawn.

    Example:
        >>> import luss
        >>> labels = luss.PseudoLabels("outputs/demo", image_root="photos")
        >>> sample = labels[0]  # {"image": PIL image, "label": (H, W) int64, "name": "dog/a.jpg"}
        >>> sample["image"].size[::-1] == tuple(sample["label"].shape)
        True
    """

    def __init__(
        self,
        path: Path | str,
        image_root: Path | str | None = None,
        transform: Callable[[Sample], Any] | None = None,
        threshold: float | None = None,
    ) -> None:
        """Opens the label maps.

        Args:
            path: `labels.h5` or its folder.
            image_root: Folder that the stored names are relative to; None leaves the images out.
            transform: Called with every sample; what it returns is the item. It must be picklable for spawned workers.
                Images differ in size, so a batch needs a transform that crops or resizes image and label together.
            threshold: tau in [0, 1] in place of the one found by the pseudo_labels stage; higher is more background.

        Raises:
            LussError: No usable label maps at `path`, or the threshold is outside [0, 1].
        """
        self.store = LabelStore.open(path)
        self.image_root = None if image_root is None else Path(image_root)
        self.transform = transform
        self.threshold = self.store.threshold if threshold is None else threshold
        check_threshold(self.threshold)

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, index: int) -> Any:
        """One sample.

        Returns:
            {"image": RGB PIL image or None, "label": (H, W) int64 at the image's size, "name": relative path}, or
            whatever `transform` makes of it.

        Raises:
            LussError: The image is missing, unreadable, or not the one that was labelled; the label maps are damaged.
        """
        label = self.store.label_map(index, threshold=self.threshold)
        sample: Sample = {
            "image": self._image(index),
            "label": torch.from_numpy(label.astype(np.int64)),
            "name": self.store.name(index),
        }
        return sample if self.transform is None else self.transform(sample)

    def _image(self, index: int) -> Any:
        if self.image_root is None:
            return None
        path = self.image_root / self.store.name(index)
        image = read_image(path)
        height, width = self.store.image_size(index)
        if image.size != (width, height):
            raise LussError(
                f"{path} is {image.width} x {image.height}, but the image that was labelled is {width} x {height}: "
                "give the folder that the labels were made from, or make them again"
            )
        return image
