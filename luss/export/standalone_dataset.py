"""Pseudo labels as a torch data set. This file needs h5py, NumPy, Pillow and torch, and nothing else: copy it anywhere.

It reads the folder it lies in: `labels/` (HDF5 shards: label maps on the feature grid, with the attention of every position)
and `labels.json` (threshold, merged and dropped clusters, names, and where the images were).

    data = PseudoLabelDataset(image_root="photos/train")
    image, label, name = data[0]   # RGB PIL image, (H, W) int64 tensor: 0 = background, 1..C = cluster, path
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

IMAGE, LABEL, NAME = 0, 1, 2


class PseudoLabelDataset(Dataset[Any]):
    """Images with their label maps; files are opened on first use, in every loader worker for itself.

    Attributes:
        num_clusters: C; labels hold 0..C.
        names: Cluster id to name.
        threshold: Positions with less attention are background.
    """

    def __init__(
        self,
        folder: str | Path = Path(__file__).parent,
        image_root: str | Path | None = None,
        transform: Callable[[Image.Image, Tensor, str], Any] | None = None,
        threshold: float | None = None,
    ) -> None:
        """Args:
        folder: Holds `labels` and `labels.json`.
        image_root: The folder that the names are relative to; None = where the images were when labels were made.
        transform: Called with image, label and name; what it returns is the item.
        threshold: In [0, 1], in place of the one in `labels.json`; higher is more background.
        """
        self.folder = Path(folder)
        facts = json.loads((self.folder / "labels.json").read_text(encoding="utf-8"))
        self.image_root = Path(facts["image_root"] if image_root is None else image_root)
        self.transform = transform
        self.threshold = float(facts["threshold"] if threshold is None else threshold)
        self.num_clusters = int(facts["num_clusters"])
        self.names = {int(cluster): name for cluster, name in facts["names"].items()}
        self._table = np.arange(self.num_clusters + 1)
        for found, target in [*facts["merged"].items(), *((dropped, 0) for dropped in facts["dropped"])]:
            self._table[int(found)] = target
        with h5py.File(self._path, locking=False) as file:
            self._offset = file["offset"][:]
            self._grid = np.stack([file["height"][:], file["width"][:]], axis=1)
            self._size = np.stack([file["image_height"][:], file["image_width"][:]], axis=1)
        self._file: h5py.File | None = None
        self._owner = 0

    @property
    def _path(self) -> Path:
        return self.folder / "labels" / "labels.h5"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def __len__(self) -> int:
        return len(self._offset)

    def __getitem__(self, index: int) -> Any:
        """(image, label, name), or what `transform` makes of them."""
        name, label = self.name(index), self.label(index)
        with Image.open(self.image_root / name) as file:
            image = ImageOps.exif_transpose(file).convert("RGB")
        if image.size != (label.shape[1], label.shape[0]):
            raise ValueError(f"{self.image_root / name} is not the image that was labelled: its size differs")
        return (image, label, name) if self.transform is None else self.transform(image, label, name)

    def name(self, index: int) -> str:
        """The image's path below the image root."""
        return str(self._open()["path"][index].decode("utf-8", "surrogateescape"))

    def label(self, index: int, size: tuple[int, int] | None = None) -> Tensor:
        """(H, W) int64 label map, at the image's size or another one."""
        file, (height, width), first = self._open(), self._grid[index], int(self._offset[index])
        part = slice(first, first + int(height) * int(width))
        labels = torch.from_numpy(self._table[file["labels"][part]].reshape(1, 1, height, width).astype(np.float32))
        attention = torch.from_numpy(file["attention"][part].reshape(1, 1, height, width).astype(np.float32))
        size = (int(self._size[index, 0]), int(self._size[index, 1])) if size is None else size
        found = F.interpolate(labels, size, mode="nearest-exact")[0, 0].long()
        strength = F.interpolate(attention, size, mode="bilinear", align_corners=False)[0, 0]
        found[strength < self.threshold * 255] = 0
        return found

    def _open(self) -> h5py.File:
        if self._file is None or self._owner != os.getpid():
            self._file, self._owner = h5py.File(self._path, locking=False), os.getpid()
        return self._file
