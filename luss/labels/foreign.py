"""HDF5 files of strangers: what they may refer to, and how much they may claim to hold.

HDF5 reads other files for who opens one: by external links, external storage and virtual sources, with any path. And a dataset may declare
any size without holding it.
"""

from collections.abc import Iterable

import h5py
import numpy as np

from luss.labels.writer import DTYPES, SHARD_NAME

# Deflate makes at most 1032 bytes of one.
_LARGEST_RATIO = 1032
_NUMBER = np.dtype(np.int64)


def own_dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """A column of a file of labels that lies in this very file, and is not larger than what is in the file can be unpacked to.

    Raises:
        ValueError: It is a link, lies elsewhere, or is of another kind.
    """
    dataset = _linked(file, name)
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"its {name} lies in other files, do not trust it")
    declared = dataset.size * dataset.dtype.itemsize
    # The type of a text is an object's, as that of other things.
    is_right = dataset.dtype == DTYPES.get(name, _NUMBER) and (name != "path" or h5py.check_string_dtype(dataset.dtype))
    if dataset.ndim != 1 or not is_right:
        raise ValueError(f"its {name} has the shape {dataset.shape} and the type {dataset.dtype}")
    if declared > _LARGEST_RATIO * dataset.id.get_storage_size():
        raise ValueError(f"its {name} claims {declared:,} bytes, more than the file can hold")
    return dataset


def check_virtual(file: h5py.File, names: Iterable[str]) -> None:
    """Checks that virtual columns are made of shards beside the file; other programs read them.

    Raises:
        ValueError: One refers to something else.
    """
    for name in names:
        dataset = _linked(file, name)
        sources = {source.file_name for source in dataset.virtual_sources()} if dataset.is_virtual else set()
        if dataset.external or not all(SHARD_NAME.fullmatch(source) for source in sources):
            raise ValueError(f"its {name} lies outside of its folder, do not trust it")


def _linked(file: h5py.File, name: str) -> h5py.Dataset:
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"its {name} is a link, do not trust it")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"its {name} is no dataset")
    return dataset
