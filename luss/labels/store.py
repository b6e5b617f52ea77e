"""Reading a label-map store: any map at any size, any crop, any threshold. `luss.labels.writer` describes the files."""

import contextlib
import math
import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import numpy.typing as npt

from luss.data.names import NameIndex, inside
from luss.errors import LussError
from luss.labels.foreign import check_virtual, own_dataset
from luss.labels.layers import FOLDER, Layers, cluster_names
from luss.labels.sampling import centres, sample
from luss.labels.writer import (
    FORMAT_VERSION,
    INDEX_NAME,
    REDO,
    VIRTUAL,
    Attention,
    Labels,
    check_num_clusters,
    check_threshold,
    open_labels,
    shard_path,
)
from luss.refusals import refuse

NAMES_A_READ = 1 << 14
# HDF5 keeps 1 MiB of unpacked chunks a dataset by default; with many shards open for random reads that is most of a GB.
CHUNK_CACHE_BYTES = 1 << 16
MAX_MAP_PIXELS = 1 << 30
"""Of a label map: 2 GB. What the store of a stranger declares is made when a map is read."""
# An open shard takes about 1.3 MB in HDF5; opening one again takes about 1.5 ms where reading a map takes 0.15.
MAX_OPEN_SHARDS = 160


class LabelStore:
    """Reads a label-map store: any map at any size, or any crop of it, in well under a millisecond.

    What `luss labels` changed (threshold, merged, dropped and named clusters) is applied, unless `layer` says otherwise.
    Opens files on first use and again after a fork; pickling carries only the path and the layer's number. So it can be
    used in DataLoader workers started by fork or by spawn. Keeps 24 bytes an image in memory. One store serves one
    thread.

    Attributes:
        path: `labels.h5`.
        num_clusters: C: ids lie in 0..C, whatever was merged or dropped.
        fingerprint: Identity of the stored maps.
        layer: What was edited; `layer.number` 0 is nothing.
        threshold: tau in [0, 1], the edited one if there is one.
        threshold_source: "given", "auto" or "validation".
        names: Cluster id to name, for the clusters that have one.

    Example:
        >>> labels = LabelStore.open("outputs/demo")
        >>> label_map = labels.label_map(0)  # (H, W) ids at the image's size, 0 = background
        >>> label_map.shape == labels.image_size(0)
        True
        >>> labels.label_map(0, (64, 64), threshold=1.0).shape
        (64, 64)
        >>> labels.index_of(labels.name(0))
        0
        >>> labels.summary()["images"] == len(labels)
        True
    """

    def __init__(self, path: Path, layer: int | Literal["current"] | None = "current") -> None:
        """Opens a store; see `open`."""
        self.path = _index(path)
        self._pid = os.getpid()
        self._shards: OrderedDict[int, _OpenShard] = OrderedDict()
        self._names: NameIndex | None = None
        if not self.path.is_file():
            raise LussError(f"{self.path} does not exist: the pseudo_labels stage has not finished there, run it first")
        with _reporting(self.path), open_labels(self.path) as file:
            version = int(file.attrs["format_version"])
            if version != FORMAT_VERSION:
                raise LussError(f"{self.path} has format {version}, this luss reads {FORMAT_VERSION}: {REDO}")
            self.num_clusters = int(file.attrs["num_clusters"])
            check_num_clusters(self.num_clusters)
            self.fingerprint = str(file.attrs["fingerprint"])
            self.threshold = float(file.attrs["threshold"])
            self.threshold_source = str(file.attrs["threshold_source"])
            check_threshold(self.threshold)
            check_virtual(file, VIRTUAL)
            self._shard_stop: npt.NDArray[np.int64] = own_dataset(file, "shard_stop")[:]
            self._offset: npt.NDArray[np.int64] = own_dataset(file, "offset")[:]
            # Reading a virtual dataset gives zeros, not an error, where a shard is absent.
            for number in range(len(self._shard_stop)):
                if not (shard := shard_path(self.path.parent, number)).is_file():
                    raise LussError(f"{shard} is missing: copy the whole folder, or {REDO}")
            grid = [own_dataset(file, name)[:] for name in ("height", "width", "image_height", "image_width")]
            self._sizes: npt.NDArray[np.int32] = np.stack(grid, axis=1)
            self._check_numbers()
        self.layers = Layers(self.path.parent / FOLDER, self.fingerprint, self.num_clusters, self.threshold)
        self.layer = self.layers.read(self.layers.current_number() if layer == "current" else layer or 0)
        self._ids = self.layer.table(self.num_clusters)
        if self.layer.threshold is not None:
            self.threshold, self.threshold_source = self.layer.threshold, "given"
        self.names = cluster_names(self.layer, self.clusters)

    @classmethod
    def open(cls, path: Path | str, layer: int | Literal["current"] | None = "current") -> "LabelStore":
        """Opens a store.

        Args:
            path: `labels.h5`, the folder that holds it, or the folder of a run.
            layer: Which edits to apply: "current" (what `luss labels` made the current ones), a layer's number, or
                None for the labels as stored.

        Raises:
            LussError: The file is absent, damaged, of another format, or a shard beside it is missing; there is no such
                layer.
        """
        return cls(Path(path), layer)

    def __getstate__(self) -> tuple[Path, int]:
        return self.path, self.layer.number

    def __setstate__(self, state: tuple[Path, int]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self._offset)

    def __repr__(self) -> str:
        shown = f"{len(self)} images, {len(self.clusters)} clusters, threshold {self.threshold:.3f}"
        return f"<LabelStore {shown}, layer {self.layer.number}>"

    @property
    def used_labels(self) -> bool:
        """Whether ground truth had a part in the threshold."""
        return self.threshold_source == "validation"

    @property
    def clusters(self) -> list[int]:
        """Ids that label maps may hold, in order, background left out: neither dropped nor merged into another."""
        return [int(found) for found in np.flatnonzero(self._ids == np.arange(len(self._ids)))[1:]]

    def cluster_name(self, cluster: int) -> str:
        """The name of a cluster, "cluster 7" for one without, "background" for 0."""
        return self.names.get(cluster) or (f"cluster {cluster}" if cluster else "background")

    def summary(self) -> dict[str, Any]:
        """What there is, without reading a map.

        Returns:
            images, clusters (those in use), merged (id to the id that it became), dropped (ids), names (id to name),
            threshold, threshold_source, used_labels, and layer (0 = as stored).
        """
        return {
            "images": len(self),
            "clusters": len(self.clusters),
            "merged": dict(self.layer.merged),
            "dropped": list(self.layer.dropped),
            "names": dict(self.names),
            "threshold": self.threshold,
            "threshold_source": self.threshold_source,
            "used_labels": self.used_labels,
            "layer": self.layer.number,
        }

    def name(self, index: int) -> str:
        """The image's path relative to the data root; bytes that are not UTF-8 come back as surrogate escapes."""
        shard, row = self._locate(index)
        with _reporting(shard.path):
            return inside(str(shard.names[row].decode("utf-8", "surrogateescape")), shard.path)

    def index_of(self, name: str) -> int:
        """The index of the image called `name`. The first call reads all names once and keeps 16 bytes an image.

        Raises:
            LussError: No image of that name has a label map.
        """
        if self._names is None:
            self._names = NameIndex(self.image_names(), len(self))
        for index in self._names.places(name):
            if self.name(index) == name:
                return index
        raise LussError(f"{name!r} has no label map in {self.path}: it is not in the data set, or could not be read")

    def image_size(self, index: int) -> tuple[int, int]:
        """(height, width) of the original image in pixels."""
        _, _, height, width = self._sizes[self._checked(index)].tolist()
        return height, width

    def raw(self, index: int) -> tuple[Labels, Attention]:
        """The map on its own grid, not thresholded.

        Returns:
            (h, w) uint16 cluster ids 1..C, and 0 where a cluster was dropped; (h, w) uint8 attention as round(255 a).

        Raises:
            LussError: The shard is damaged, or belongs to another run.
        """
        shard, _ = self._locate(index)
        index = self._checked(index)
        shape = tuple(self._sizes[index, :2].tolist())
        first = int(self._offset[index]) - shard.first_element
        part = slice(first, first + math.prod(shape))
        with _reporting(shard.path):
            labels, attention = shard.labels[part].reshape(shape), shard.attention[part].reshape(shape)
            if labels.max() > self.num_clusters:
                raise ValueError(f"image {index} has a cluster {labels.max()} of {self.num_clusters}")
        return self._ids[labels] if self.layer.identity else labels, attention

    def label_map(self, index: int, size: tuple[int, int] | None = None, *, threshold: float | None = None) -> Labels:
        """The pseudo label of a whole image (spec: PASS, "Threshold, pseudo labels").

        Args:
            index: Number of the image.
            size: (H, W) of the result; None is the original image's size.
            threshold: tau in [0, 1] in place of the store's.

        Returns:
            (H, W) uint16: the nearest position's cluster id, and 0 where the bilinearly resized attention is strictly
            below tau. Both are sampled at pixel centres (torch's `nearest-exact`, and `bilinear` with
            `align_corners=False`).
        """
        height, width = self.image_size(index) if size is None else size
        labels, attention = self.raw(index)
        rows = centres(0, height, num=height, image_extent=height, grid_extent=labels.shape[0])
        columns = centres(0, width, num=width, image_extent=width, grid_extent=labels.shape[1])
        return sample(labels, attention, rows, columns, self._level(threshold))

    def crop(
        self,
        index: int,
        rectangle: tuple[float, float, float, float],
        *,
        size: int,
        flip: bool = False,
        threshold: float | None = None,
    ) -> Labels:
        """The pseudo label of a crop view, without building the full-size map.

        Args:
            index: Number of the image.
            rectangle: (left, top, width, height) in original pixels.
            size: Side of the result.
            flip: Whether the view is mirrored left to right.
            threshold: tau in [0, 1] in place of the store's.

        Returns:
            (size, size) uint16, sampled at the pixel centres of the view as in `label_map`.
        """
        left, top, width, height = rectangle
        image_height, image_width = self.image_size(index)
        labels, attention = self.raw(index)
        rows = centres(top, height, num=size, image_extent=image_height, grid_extent=labels.shape[0])
        columns = centres(left, width, num=size, image_extent=image_width, grid_extent=labels.shape[1])
        return sample(labels, attention, rows, columns[::-1] if flip else columns, self._level(threshold))

    def attention_blocks(self, num_elements: int = 1 << 22) -> Iterator[Attention]:
        """All stored attention values in order, (at most `num_elements`,) uint8 at a time."""
        for number in range(len(self._shard_stop)):
            shard = self._open(number)
            for first in range(0, len(shard.attention), num_elements):
                with _reporting(shard.path):
                    block: Attention = shard.attention[first : first + num_elements]
                yield block

    def cluster_positions(self, threshold: float | None = None, num_elements: int = 1 << 22) -> npt.NDArray[np.int64]:
        """(C + 1,) int64: at how many positions of all maps each id is, 0 = background. Streams the store, some positions at a time."""
        level = self._level(threshold)
        counts = np.zeros(self.num_clusters + 1, np.int64)
        for number in range(len(self._shard_stop)):
            shard = self._open(number)
            for first in range(0, len(shard.labels), num_elements):
                part = slice(first, first + num_elements)
                with _reporting(shard.path):
                    labels, attention = shard.labels[part], shard.attention[part]
                counts += np.bincount(self._ids[labels] * (attention >= level), minlength=len(counts))
        return counts

    def dominant_clusters(self, threshold: float | None = None) -> Labels:
        """(N,) uint16: the most frequent cluster of every image, background left out; 0 if nothing else is there."""
        level = self._level(threshold)
        found = np.zeros(len(self), np.uint16)
        for index in range(len(self)):
            labels, attention = self.raw(index)
            kept = labels[(attention >= level) & (labels > 0)]
            if kept.size:
                found[index] = np.bincount(kept).argmax()
        return found

    def _check_numbers(self) -> None:
        """Raises ValueError where numbers of the index cannot be: what is read, and made, by them would be anything."""
        stops, count = self._shard_stop, len(self._offset)
        if (
            not len(stops)
            or stops[0] < 0
            or (np.diff(stops) < 0).any()
            or stops[-1] != count
            or len(self._sizes) != count
        ):
            raise ValueError("its columns do not belong together")
        elements, pixels = (self._sizes.astype(np.int64)[:, [0, 2]] * self._sizes[:, [1, 3]]).T
        if (self._sizes < 1).any() or (self._offset != np.cumsum(elements) - elements).any():
            raise ValueError("its sizes do not belong to its offsets")
        if (pixels > MAX_MAP_PIXELS).any():
            raise ValueError(f"an image has {pixels.max():,} pixels, more than {MAX_MAP_PIXELS:,}")

    def _level(self, threshold: float | None) -> np.float32:
        """The threshold in units of the stored attention, 0..255."""
        threshold = self.threshold if threshold is None else threshold
        check_threshold(threshold)
        # k / 255 becomes k to the bit, so a position that equals the threshold is never below it.
        return np.float32(threshold * 255)

    def _checked(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"label map {index} of {len(self)}")
        return index % len(self)

    def _locate(self, index: int) -> tuple["_OpenShard", int]:
        index = self._checked(index)
        number = int(np.searchsorted(self._shard_stop, index, "right"))
        return self._open(number), index - (int(self._shard_stop[number - 1]) if number else 0)

    def _open(self, number: int) -> "_OpenShard":
        if self._pid != os.getpid():  # forked: a parent's handles are not ours to use
            self._shards, self._pid = OrderedDict(), os.getpid()
        if number in self._shards:
            self._shards.move_to_end(number)
            return self._shards[number]
        first, stop = (int(self._shard_stop[number - 1]) if number else 0), int(self._shard_stop[number])
        path = shard_path(self.path.parent, number)
        with _reporting(path):
            file = open_labels(path, rdcc_nbytes=CHUNK_CACHE_BYTES)
            first_element = int(self._offset[first]) if first < stop else 0
            labels, attention, names = (own_dataset(file, name) for name in VIRTUAL)
            shard = _OpenShard(path, file, labels, attention, names, first_element)
            if file.attrs["fingerprint"] != self.fingerprint or len(shard.names) != stop - first:
                file.close()
                raise LussError(f"{path} belongs to another run than {self.path}: {REDO}")
        self._shards[number] = shard
        if len(self._shards) > MAX_OPEN_SHARDS:
            self._shards.popitem(last=False)[1].file.close()
        return shard

    def image_names(self) -> Iterator[str]:
        """`name` of every image in order, some thousands a read."""
        for number in range(len(self._shard_stop)):
            shard = self._open(number)
            for first in range(0, len(shard.names), NAMES_A_READ):
                with _reporting(shard.path):
                    names = shard.names[first : first + NAMES_A_READ]
                yield from (name.decode("utf-8", "surrogateescape") for name in names)


def _index(path: Path) -> Path:
    """`labels.h5` in a folder of labels, of the stage, or of a run."""
    if path.suffix == Path(INDEX_NAME).suffix and not path.is_dir():
        return path
    inside = (path, path / "labels", path / "pseudo_labels" / "labels")
    return next((folder / INDEX_NAME for folder in inside if (folder / INDEX_NAME).is_file()), path / INDEX_NAME)


@contextlib.contextmanager
def _reporting(path: Path) -> Iterator[None]:
    """Turns what HDF5 says about a damaged file into words with a fix; one that was merely not opened is not called damaged."""
    try:
        yield
    except LussError:
        raise
    except Exception as error:  # for a damaged file h5py and HDF5 raise nearly anything
        refuse(error, path)
        raise LussError(f"{path} is damaged or is not a label file ({error}): delete it and {REDO}") from error


@dataclass
class _OpenShard:
    """Open handles on one shard; `first_element` is where it starts in the whole store."""

    path: Path
    file: h5py.File
    labels: h5py.Dataset
    attention: h5py.Dataset
    names: h5py.Dataset
    first_element: int
