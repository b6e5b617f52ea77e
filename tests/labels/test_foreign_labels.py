"""Label stores of strangers: nothing outside of their folder is read, and no memory is taken for what a file does not hold."""

import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from luss.errors import LussError
from luss.labels.store import LabelStore
from luss.labels.writer import INDEX_NAME, LabelRecord, LabelWriter, shard_path

SECRET = "hunter2"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store of two shards with three images each, and beside it a file that is nobody's business."""
    writer = LabelWriter(tmp_path / "labels", [(0, 3), (3, 6)], num_clusters=4, fingerprint="f")
    grid = np.arange(1, 5).reshape(2, 2)
    for shard in range(2):
        names = [f"{shard}{letter}.png" for letter in "abc"]
        writer.write_shard(shard, [LabelRecord(name, (20, 30), grid, grid.astype(np.uint8)) for name in names])
    writer.finish(0.1, "auto")
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file.create_dataset("path", (3,), h5py.string_dtype("utf-8"), data=[SECRET] * 3)
        file["labels"] = np.full(12, 3, np.uint16)
    return tmp_path / "labels"


def read_all(folder: Path) -> list[str]:
    """Everything that readers of a store ask for."""
    store = LabelStore.open(folder)
    for index in range(len(store)):
        store.label_map(index)
        store.crop(index, (0, 0, 4, 4), size=3)
        store.name(index)
    list(store.attention_blocks())
    store.dominant_clusters()
    return list(store.image_names())


def replace(path: Path, name: str, make: Callable[[h5py.File], Any]) -> None:
    with h5py.File(path, "a") as file:
        del file[name]
        made = make(file)
        if made is not None:
            file[name] = made


def external_link(name: str) -> Callable[[h5py.File], Any]:
    return lambda file: h5py.ExternalLink("../secret.h5", name)


def soft_link(name: str) -> Callable[[h5py.File], Any]:
    def make(file: h5py.File) -> Any:
        file["elsewhere"] = h5py.ExternalLink("../secret.h5", name)
        return h5py.SoftLink("/elsewhere")

    return make


def virtual(name: str, source: str, dtype: Any, size: int) -> Callable[[h5py.File], None]:
    def make(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((size,), dtype)
        layout[:] = h5py.VirtualSource(source, name, (size,), dtype)
        file.create_virtual_dataset(name, layout)

    return make


def external_storage(path: Path) -> Callable[[h5py.File], None]:
    return lambda file: file.create_dataset("labels", (12,), np.uint16, external=[(str(path), 0, 24)]) and None


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("path", external_link("path")),
        ("path", soft_link("path")),
        ("path", virtual("path", "../secret.h5", h5py.string_dtype("utf-8"), 3)),
        ("labels", external_link("labels")),
        ("labels", virtual("labels", "shard-00001.h5", np.uint16, 12)),
        ("labels", external_storage(Path("/etc/hostname"))),
    ],
)
def test_a_shard_that_refers_to_something_else_is_refused(
    folder: Path, name: str, make: Callable[[h5py.File], Any]
) -> None:
    replace(shard_path(folder, 0), name, make)
    with pytest.raises(LussError, match=rf"its {name} (is a link|lies in other files), do not trust it"):
        read_all(folder)


@pytest.mark.parametrize("source", ["../secret.h5", "/etc/passwd", "other.h5", "sub/shard-00000.h5"])
def test_an_index_over_other_files_than_its_shards_is_refused(folder: Path, source: str) -> None:
    replace(folder / INDEX_NAME, "labels", virtual("labels", source, np.uint16, 24))
    with pytest.raises(LussError, match=r"labels lies outside of its folder, do not trust it"):
        LabelStore.open(folder)


def test_columns_of_an_index_are_no_links(folder: Path) -> None:
    shutil.copy(folder / INDEX_NAME, folder.parent / "copy.h5")
    replace(folder / INDEX_NAME, "offset", lambda file: h5py.ExternalLink("../copy.h5", "offset"))
    with pytest.raises(LussError, match="offset is a link"):
        LabelStore.open(folder)


@pytest.mark.parametrize(
    ("where", "name"),
    [
        (INDEX_NAME, "offset"),
        (INDEX_NAME, "height"),
        *(("shard-00000.h5", name) for name in ("labels", "attention", "path")),
    ],
)
def test_no_memory_is_taken_for_numbers_that_a_file_only_claims(folder: Path, where: str, name: str) -> None:
    with h5py.File(folder / where, "a") as file:
        file[name].resize((1 << 34,))
    tracemalloc.start()
    try:
        with pytest.raises(LussError, match=r"claims [0-9,]+ bytes, more than the file can hold"):
            read_all(folder)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def edited(folder: Path, name: str, values: Any) -> None:
    with h5py.File(folder / INDEX_NAME, "a") as file:
        file[name][...] = values


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("image_height", 2**31 - 1),
        ("height", 2**31 - 1),
        ("width", -1),
        ("offset", -5),
        ("offset", 2**62),
        ("shard_stop", [0, 5]),
        ("shard_stop", [6, 3]),
    ],
)
def test_numbers_of_an_index_that_cannot_be_are_refused(folder: Path, name: str, values: Any) -> None:
    edited(folder, name, values)
    if name in ("image_height", "height"):
        edited(folder, name.replace("height", "width"), 2**31 - 1)
    with pytest.raises(LussError, match=r"labels\.h5 is damaged|shard-0000.\.h5 (is damaged|belongs to another run)"):
        read_all(folder)


def test_ids_above_the_number_of_clusters_are_refused(folder: Path) -> None:
    with h5py.File(shard_path(folder, 1), "a") as file:
        file["labels"][5] = 9
    store = LabelStore.open(folder)
    store.label_map(0)
    with pytest.raises(LussError, match="image 4 has a cluster 9 of 4"):
        store.label_map(4)


@pytest.mark.parametrize(("key", "value"), [("num_clusters", 2**40), ("threshold", float("nan")), ("threshold", 7.0)])
def test_attributes_that_cannot_be_are_refused(folder: Path, key: str, value: float) -> None:
    with h5py.File(folder / INDEX_NAME, "a") as file:
        file.attrs[key] = value
    with pytest.raises(LussError):
        LabelStore.open(folder)
