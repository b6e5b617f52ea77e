"""Writing a label-map store: every image's pseudo label and attention in a few HDF5 files.

A label map lives on the feature grid of its image (for example 32 x 42 positions), not at the image's resolution: that
is all the information there is, it is a few hundred times smaller than a full-size mask, and the threshold and the
output size stay free to change.

`LabelWriter` writes immutable shards `shard-00000.h5` and, once all are there, `labels.h5`: virtual datasets over the
shards with relative names (sizes and offsets are copied), so the folder can be moved and any HDF5 reader sees one file.
`luss.labels.store.LabelStore` reads them.

Layout of a shard, and of `labels.h5` (E elements = the sum of h * w over its N images):
    labels        (E,) uint16   nearest cluster of every position, 1..C, before thresholding
    attention     (E,) uint8    mean attention in [0, 1] as round(255 a)
    offset        (N,) int64    first element of the image
    height, width (N,) int32    feature grid h, w
    image_height, image_width (N,) int32   original pixels
    path          (N,) string   relative name, UTF-8; other bytes survive as Python's surrogateescape
`labels.h5` also has `shard_stop` (S,) int64: one past the last image of each shard.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from luss.errors import LussError
from luss.files import remove_partials, replacing
from luss.refusals import refuse

FORMAT_VERSION = 1
INDEX_NAME = "labels.h5"
REDO = "run the pseudo_labels stage again, it writes only what is missing"

SHARD_NAME = re.compile(r"shard-\d{5,}\.h5")
"""Names of shards, see `shard_path`."""

# Elements: small enough that reading one map unpacks little else, large enough that gzip finds repetition.
CHUNK = 8192
RECORDS_A_WRITE = 256

DTYPES: dict[str, Any] = {
    "labels": np.dtype(np.uint16),
    "attention": np.dtype(np.uint8),
    "offset": np.dtype(np.int64),
    "height": np.dtype(np.int32),
    "width": np.dtype(np.int32),
    "image_height": np.dtype(np.int32),
    "image_width": np.dtype(np.int32),
    "path": h5py.string_dtype("utf-8"),
}
_FLAT = ("labels", "attention")
VIRTUAL = ("labels", "attention", "path")
_COPIED = ("offset", "height", "width", "image_height", "image_width")

Labels = npt.NDArray[np.uint16]
Attention = npt.NDArray[np.uint8]
ThresholdSource = Literal["given", "auto", "validation"]


class LabelRecord(NamedTuple):
    """One image's label map on its way to a shard.

    Attributes:
        name: Path of the image relative to the data root.
        image_size: (height, width) of the original image in pixels.
        labels: (h, w) cluster ids 1..C of every grid position, before thresholding.
        attention: (h, w) uint8, mean attention in [0, 1] as round(255 a).
    """

    name: str
    image_size: tuple[int, int]
    labels: npt.NDArray[np.integer[Any]]
    attention: Attention


def shard_path(folder: Path, shard: int) -> Path:
    """The file of shard number `shard` in `folder`."""
    return folder / f"shard-{shard:05d}.h5"


class LabelWriter:
    """Writes a label-map store shard by shard; a killed writer continues at the missing shards."""

    def __init__(
        self, folder: Path, shard_ranges: Sequence[tuple[int, int]], *, num_clusters: int, fingerprint: str
    ) -> None:
        """Describes the store; writes nothing yet.

        Args:
            folder: Where the shards and `labels.h5` go.
            shard_ranges: (start, stop) image ids of every shard, in order. A shard may hold fewer maps than ids:
                unreadable images have none. Random reads are fastest with at most 160 shards (`MAX_OPEN_SHARDS` of the
                reader), that is some 8000 images a shard at ImageNet's size.
            num_clusters: C, the largest cluster id, 1..65535.
            fingerprint: Identity of everything that decides the maps; shards with another one are written anew.

        Raises:
            LussError: More clusters than 16 bits can name.
        """
        check_num_clusters(num_clusters)
        self.folder = folder
        self.shard_ranges = list(shard_ranges)
        self.num_clusters = num_clusters
        self.fingerprint = fingerprint

    def missing_shards(self) -> list[int]:
        """Numbers of the shards that are absent, damaged, or were written for another fingerprint or range."""
        return [shard for shard in range(len(self.shard_ranges)) if not self.is_written(shard)]

    def write_shard(self, shard: int, records: Iterable[LabelRecord]) -> Path:
        """Writes one shard; it appears under its name only when it is complete.

        Args:
            shard: Number of the shard.
            records: Label maps in image order; consumed one small batch at a time.

        Returns:
            The shard's file.

        Raises:
            ValueError: A map has a wrong shape or ids outside 1..C, or there are more maps than the shard has images.
            LussError: The disk is full.
        """
        start, stop = self.shard_ranges[shard]
        path = shard_path(self.folder, shard)
        iterator = iter(records)
        with replacing(path) as temporary, h5py.File(temporary, "w", locking=False) as file:
            file.attrs.update(self._shard_attributes(shard))
            for name, dtype in DTYPES.items():
                _create(file, name, dtype)
            while batch := list(islice(iterator, RECORDS_A_WRITE)):
                for record in batch:
                    _check_record(record, self.num_clusters)
                _append(file, batch)
            if len(file["path"]) > stop - start:
                raise ValueError(
                    f"shard {shard} has {stop - start} images but was given {len(file['path'])} label maps"
                )
        return path

    def finish(self, threshold: float, threshold_source: ThresholdSource) -> Path:
        """Writes `labels.h5` over the complete shards. It may be called again to record another threshold.

        Args:
            threshold: tau in [0, 1]: positions with less attention are background when a map is read.
            threshold_source: "given" (a number in the configuration), "auto" (found without labels) or "validation"
                (searched with ground truth: every report says so).

        Returns:
            The path of `labels.h5`.

        Raises:
            LussError: Shards are missing, no image has a label map, or the threshold is outside [0, 1].
        """
        check_threshold(threshold)
        if missing := self.missing_shards():
            shown = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
            raise LussError(f"{len(missing)} label shards of {self.folder} are missing ({shown}): {REDO}")
        path = self.folder / INDEX_NAME
        with replacing(path) as temporary, h5py.File(temporary, "w", locking=False) as file:
            file.attrs.update(self._attributes())
            searched = threshold_source == "validation"
            file.attrs.update(threshold=float(threshold), threshold_source=threshold_source, used_labels=searched)
            _write_index(file, self.folder, len(self.shard_ranges))
        remove_partials(self.folder, "*.h5")
        return path

    def _attributes(self) -> dict[str, Any]:
        return {"format_version": FORMAT_VERSION, "num_clusters": self.num_clusters, "fingerprint": self.fingerprint}

    def _shard_attributes(self, shard: int) -> dict[str, Any]:
        start, stop = self.shard_ranges[shard]
        return {**self._attributes(), "start": start, "stop": stop}

    def is_written(self, shard: int) -> bool:
        """Whether a shard is complete and was written for this fingerprint and range.

        Raises:
            LussError: It cannot be opened, which says nothing about it.
        """
        try:
            with open_labels(shard_path(self.folder, shard)) as file:
                if any(file.attrs[key] != value for key, value in self._shard_attributes(shard).items()):
                    return False
                elements = int(np.sum(file["height"][:].astype(np.int64) * file["width"][:]))
                sizes = {name: len(file[name]) for name in DTYPES}
                # Reading the last element of each makes sure that the end of the file is there.
                tails = all(size == 0 or file[name][size - 1] is not None for name, size in sizes.items())
                return tails and all(
                    size == (elements if name in _FLAT else sizes["path"]) for name, size in sizes.items()
                )
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            refuse(error, shard_path(self.folder, shard))
            return False


def open_labels(path: Path, **options: Any) -> h5py.File:
    """Opens a shard or `labels.h5` for reading, without a lock: they are replaced and never changed, and file servers may give none."""
    return h5py.File(path, "r", locking=False, **options)


def check_num_clusters(num_clusters: int) -> None:
    """Raises LussError for more clusters than 16 bits can name, or none."""
    if not 1 <= num_clusters <= np.iinfo(np.uint16).max:
        raise LussError(f"num_clusters is {num_clusters}: label maps hold ids from 1 to 65535, set fewer clusters")


def check_threshold(threshold: float) -> None:
    """Raises LussError unless the threshold lies in [0, 1]."""
    if not 0 <= threshold <= 1:
        raise LussError(f"the threshold is {threshold}: attention lies in [0, 1], give a number in that range")


def _check_record(record: LabelRecord, num_clusters: int) -> None:
    labels, attention = record.labels, record.attention
    if labels.ndim != 2 or not labels.size or labels.shape != attention.shape or attention.dtype != np.uint8:
        raise ValueError(
            f"{record.name!r}: labels {labels.shape} and attention {attention.shape} {attention.dtype} must be "
            "one non-empty (h, w) grid, attention uint8"
        )
    if labels.min() < 1 or labels.max() > num_clusters:
        raise ValueError(f"{record.name!r}: cluster ids {labels.min()}..{labels.max()} are not in 1..{num_clusters}")


def _create(file: h5py.File, name: str, dtype: Any) -> None:
    # Strings of varying length live outside the chunks, where no filter reaches them.
    packing = {} if name == "path" else {"compression": "gzip", "compression_opts": 1, "shuffle": True}
    chunk = CHUNK if name in _FLAT else 1024
    file.create_dataset(name, (0,), dtype, maxshape=(None,), chunks=(chunk,), **packing)


def _append(file: h5py.File, records: Sequence[LabelRecord]) -> None:
    grid = np.array([record.labels.shape for record in records], np.int64)
    image = np.array([record.image_size for record in records], np.int64)
    ends = len(file["labels"]) + np.cumsum(grid.prod(axis=1))
    names = np.empty(len(records), object)
    names[:] = [record.name.encode("utf-8", "surrogateescape") for record in records]
    columns = {
        "labels": np.concatenate([record.labels.reshape(-1).astype(np.uint16) for record in records]),
        "attention": np.concatenate([record.attention.reshape(-1) for record in records]),
        "offset": ends - grid.prod(axis=1),
        "height": grid[:, 0],
        "width": grid[:, 1],
        "image_height": image[:, 0],
        "image_width": image[:, 1],
        "path": names,
    }
    _extend(file, columns)


def _extend(file: h5py.File, columns: dict[str, Any]) -> None:
    for name, values in columns.items():
        dataset = file[name]
        first = len(dataset)
        dataset.resize(first + len(values), axis=0)
        dataset[first:] = values


def _write_index(file: h5py.File, folder: Path, num_shards: int) -> None:
    """Fills `labels.h5`: small columns as copies, so that opening touches no shard; the rest as virtual datasets."""
    for name in _COPIED:
        _create(file, name, DTYPES[name])
    lengths: list[dict[str, int]] = []
    for shard in range(num_shards):
        with open_labels(shard_path(folder, shard)) as source:
            columns = {name: source[name][:] for name in _COPIED}
            columns["offset"] += sum(length["labels"] for length in lengths)
            _extend(file, columns)
            lengths.append({name: len(source[name]) for name in VIRTUAL})
    if not len(file["offset"]):
        raise LussError(f"no image has a label map in {folder}: every image was skipped, see skipped.csv")
    file["shard_stop"] = np.cumsum([length["path"] for length in lengths], dtype=np.int64)
    for name in VIRTUAL:
        dtype = DTYPES[name]
        layout = h5py.VirtualLayout((sum(length[name] for length in lengths),), dtype)
        first = 0
        for shard, length in enumerate(lengths):
            if length[name]:
                source_name = shard_path(folder, shard).name
                layout[first : first + length[name]] = h5py.VirtualSource(source_name, name, (length[name],), dtype)
            first += length[name]
        _create_virtual(file, name, layout, dtype)


def _create_virtual(file: h5py.File, name: str, layout: h5py.VirtualLayout, dtype: Any) -> None:
    """As `create_virtual_dataset`, which writes down the time: equal labels shall be equal files."""
    properties = layout.dcpl
    properties.set_obj_track_times(False)
    kind = h5py.h5t.py_create(np.dtype(dtype), logical=True)
    h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create_simple(layout.shape), dcpl=properties)
