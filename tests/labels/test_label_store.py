"""The HDF5 label-map store: what goes in comes out, nothing half-written counts, damage is reported in words."""

import contextlib
import errno
import fcntl
import os
import shutil
import subprocess
import sys
import textwrap
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from luss.errors import LussError
from luss.labels.store import LabelStore
from luss.labels.writer import FORMAT_VERSION, LabelRecord, LabelWriter, shard_path

pytestmark = pytest.mark.slow

RANGES = [(0, 3), (3, 6), (6, 8)]
NUM_CLUSTERS = 919


def make_records(start: int, stop: int) -> list[LabelRecord]:
    records = []
    for index in range(start, stop):
        generator = np.random.default_rng(index)
        height, width = (int(side) for side in generator.integers(1, 50, 2))
        labels = generator.integers(1, NUM_CLUSTERS + 1, (height, width)).astype(np.uint16)
        attention = generator.integers(0, 256, (height, width)).astype(np.uint8)
        records.append(LabelRecord(f"class {index % 2}/bild_ä{index}.JPEG", (8 * height, 8 * width), labels, attention))
    return records


def make_writer(folder: Path, fingerprint: str = "f1") -> LabelWriter:
    return LabelWriter(folder, RANGES, num_clusters=NUM_CLUSTERS, fingerprint=fingerprint)


def make_store(folder: Path) -> LabelStore:
    writer = make_writer(folder)
    for shard, (start, stop) in enumerate(RANGES):
        writer.write_shard(shard, make_records(start, stop))
    return LabelStore.open(writer.finish(0.4, "auto"))


def test_maps_names_and_sizes_come_back_as_written(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    records = make_records(0, 8)
    assert len(store) == len(records)
    for index, record in enumerate(records):
        labels, attention = store.raw(index)
        assert labels.dtype == np.uint16
        assert attention.dtype == np.uint8
        np.testing.assert_array_equal(labels, record.labels)
        np.testing.assert_array_equal(attention, record.attention)
        assert (store.name(index), store.image_size(index)) == (record.name, record.image_size)
        assert store.index_of(record.name) == index


def test_the_attributes_say_how_the_threshold_was_found(tmp_path: Path) -> None:
    make_store(tmp_path)
    make_writer(tmp_path).finish(0.37, "validation")
    store = LabelStore.open(tmp_path)
    assert (store.threshold, store.threshold_source, store.used_labels) == (0.37, "validation", True)
    # Earlier versions wrote down what follows from the source.
    with h5py.File(store.path, "r+") as file:
        file.attrs["used_labels"] = True
    assert LabelStore.open(store.path).used_labels is True
    assert (store.num_clusters, store.fingerprint) == (NUM_CLUSTERS, "f1")


def test_names_that_are_not_utf8_survive(tmp_path: Path) -> None:
    name = os.fsdecode(b"ordner/\xff\xfe b.JPEG")
    record = make_records(0, 1)[0]._replace(name=name)
    writer = LabelWriter(tmp_path, [(0, 1)], num_clusters=NUM_CLUSTERS, fingerprint="f")
    writer.write_shard(0, [record])
    store = LabelStore.open(writer.finish(0.5, "given"))
    assert store.name(0) == name
    assert store.index_of(name) == 0


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LussError, match=r"nowhere\.JPEG.*no label map"):
        make_store(tmp_path).index_of("nowhere.JPEG")


def test_a_shard_may_hold_fewer_maps_than_images(tmp_path: Path) -> None:
    writer = make_writer(tmp_path)
    records = make_records(0, 8)
    for shard, kept in enumerate([records[:2], [], records[6:]]):
        writer.write_shard(shard, kept)
    store = LabelStore.open(writer.finish(0.4, "auto"))
    assert [store.name(index) for index in range(len(store))] == [records[i].name for i in (0, 1, 6, 7)]
    np.testing.assert_array_equal(store.raw(2)[0], records[6].labels)


def test_a_store_without_any_map_is_refused(tmp_path: Path) -> None:
    writer = make_writer(tmp_path)
    for shard in range(3):
        writer.write_shard(shard, [])
    with pytest.raises(LussError, match="every image was skipped"):
        writer.finish(0.4, "auto")
    assert not (tmp_path / "labels.h5").exists()


def test_a_killed_writer_leaves_no_shard(tmp_path: Path) -> None:
    program = f"""
        import os, signal, numpy as np
        from pathlib import Path
        from luss.labels.writer import LabelRecord, LabelWriter
        def records():
            for index in range(1000):
                if index == 900:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield LabelRecord(str(index), (9, 9), np.ones((3, 3), np.uint16), np.ones((3, 3), np.uint8))
        LabelWriter(Path({str(tmp_path)!r}), [(0, 1000)], num_clusters=1, fingerprint="f").write_shard(0, records())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False)
    assert done.returncode == -9
    writer = LabelWriter(tmp_path, [(0, 1000)], num_clusters=1, fingerprint="f")
    assert [path.suffix for path in tmp_path.iterdir()] == [".partial"]
    assert writer.missing_shards() == [0]
    writer.write_shard(0, [LabelRecord("a", (9, 9), np.ones((3, 3), np.uint16), np.ones((3, 3), np.uint8))])
    writer.finish(0.5, "given")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.h5", "shard-00000.h5"]


def test_a_resumed_writer_finds_only_the_missing_shards(tmp_path: Path) -> None:
    make_writer(tmp_path).write_shard(1, make_records(3, 6))
    assert make_writer(tmp_path).missing_shards() == [0, 2]
    with pytest.raises(LussError, match=r"2 label shards .* are missing \(0, 2\)"):
        make_writer(tmp_path).finish(0.4, "auto")


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def replace_by_text(path: Path) -> None:
    path.write_text("not HDF5")


def remove_a_dataset(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["attention"]


def shorten_a_dataset(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["attention"].resize(len(file["attention"]) - 1, axis=0)


@pytest.mark.parametrize("damage", [truncate, replace_by_text, remove_a_dataset, shorten_a_dataset, Path.unlink])
def test_a_damaged_shard_does_not_count_as_done(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    make_store(tmp_path)
    damage(shard_path(tmp_path, 1))
    assert make_writer(tmp_path).missing_shards() == [1]


def test_shards_of_another_run_or_another_split_do_not_count_as_done(tmp_path: Path) -> None:
    make_store(tmp_path)
    assert make_writer(tmp_path, "f2").missing_shards() == [0, 1, 2]
    resplit = LabelWriter(tmp_path, [(0, 3), (3, 7), (7, 8)], num_clusters=NUM_CLUSTERS, fingerprint="f1")
    assert resplit.missing_shards() == [1, 2]


@pytest.mark.parametrize("damage", [truncate, replace_by_text, remove_a_dataset])
def test_reading_a_damaged_shard_names_the_file_and_the_fix(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    make_store(tmp_path)
    damage(shard_path(tmp_path, 1))
    store = LabelStore.open(tmp_path)
    with pytest.raises(LussError, match=r"shard-00001\.h5 is damaged.*run the pseudo_labels stage again"):
        store.raw(4)


def test_flipped_bits_in_a_shard_are_noticed(tmp_path: Path) -> None:
    make_store(tmp_path)
    path = shard_path(tmp_path, 0)
    with h5py.File(path) as file:
        chunk = file["labels"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset + chunk.size // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(LussError, match=r"shard-00000\.h5 is damaged"):
        LabelStore.open(tmp_path).raw(0)


@pytest.mark.parametrize("damage", [truncate, replace_by_text, remove_a_dataset])
def test_a_damaged_index_names_the_file_and_the_fix(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    make_store(tmp_path)
    if damage is remove_a_dataset:
        with h5py.File(tmp_path / "labels.h5", "a") as file:
            del file["offset"]
    else:
        damage(tmp_path / "labels.h5")
    with pytest.raises(LussError, match=r"labels\.h5 is damaged.*run the pseudo_labels stage again"):
        LabelStore.open(tmp_path)


def test_every_file_of_a_store_says_which_version_of_the_format_it_has(tmp_path: Path) -> None:
    make_store(tmp_path)
    files = sorted(tmp_path.glob("*.h5"))
    assert len(files) == 1 + len(RANGES)
    for path in files:
        with h5py.File(path) as file:
            assert file.attrs["format_version"] == FORMAT_VERSION


@pytest.mark.parametrize("version", [FORMAT_VERSION - 1, FORMAT_VERSION + 1])
def test_a_store_of_another_version_of_the_format_is_refused_and_says_so(tmp_path: Path, version: int) -> None:
    make_store(tmp_path)
    with h5py.File(tmp_path / "labels.h5", "a") as file:
        file.attrs["format_version"] = version
    with pytest.raises(
        LussError,
        match=rf"labels\.h5 has format {version}, this luss reads {FORMAT_VERSION}: run the pseudo_labels stage again",
    ):
        LabelStore.open(tmp_path)


def test_a_shard_of_another_version_of_the_format_is_written_again(tmp_path: Path) -> None:
    make_store(tmp_path)
    with h5py.File(shard_path(tmp_path, 1), "a") as file:
        file.attrs["format_version"] = FORMAT_VERSION + 1
    assert make_writer(tmp_path).missing_shards() == [1]


def test_an_absent_index_and_an_absent_shard_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(LussError, match="has not finished there"):
        LabelStore.open(tmp_path)
    make_store(tmp_path)
    shard_path(tmp_path, 2).unlink()
    with pytest.raises(LussError, match=r"shard-00002\.h5 is missing: copy the whole folder"):
        LabelStore.open(tmp_path)


def test_an_index_over_shards_of_a_later_run_is_refused(tmp_path: Path) -> None:
    make_store(tmp_path)
    make_writer(tmp_path, "f2").write_shard(0, make_records(0, 3))
    with pytest.raises(LussError, match=r"shard-00000\.h5 belongs to another run"):
        LabelStore.open(tmp_path).raw(0)


def test_a_moved_folder_still_opens(tmp_path: Path) -> None:
    make_store(tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    np.testing.assert_array_equal(LabelStore.open(tmp_path / "there").raw(7)[0], make_records(7, 8)[0].labels)


def test_any_hdf5_reader_sees_one_file_wherever_the_folder_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_store(tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    monkeypatch.chdir("/")
    records = make_records(0, 8)
    with h5py.File(tmp_path / "there" / "labels.h5") as file:
        for index, record in enumerate(records):
            part = slice(file["offset"][index], file["offset"][index] + file["height"][index] * file["width"][index])
            np.testing.assert_array_equal(file["labels"][part], record.labels.reshape(-1))
            np.testing.assert_array_equal(file["attention"][part], record.attention.reshape(-1))
            assert file["path"].asstr()[index] == record.name
            assert (file["image_height"][index], file["image_width"][index]) == record.image_size
        assert file.attrs["threshold"] == 0.4
        sources = [source.file_name for source in file["labels"].virtual_sources()]
        assert sources == [f"shard-0000{shard}.h5" for shard in range(3)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.zeros((2, 2), np.uint16)}, r"cluster ids 0\.\.0 are not in 1\.\.919"),
        ({"labels": np.full((2, 2), 920)}, r"cluster ids 920\.\.920 are not"),
        ({"labels": np.ones((2, 3), np.uint16)}, "one non-empty"),
        ({"attention": np.ones((2, 2), np.float32)}, "attention uint8"),
    ],
)
def test_a_malformed_map_is_refused_and_leaves_no_shard(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    record = LabelRecord("a", (16, 16), np.ones((2, 2), np.uint16), np.ones((2, 2), np.uint8))
    with pytest.raises(ValueError, match=message):
        make_writer(tmp_path).write_shard(0, [record._replace(**change)])  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_more_maps_than_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shard 0 has 3 images but was given 4"):
        make_writer(tmp_path).write_shard(0, make_records(0, 4))


def test_a_threshold_outside_zero_to_one_is_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    with pytest.raises(LussError, match="threshold is 40"):
        make_writer(tmp_path).finish(40, "given")
    with pytest.raises(LussError, match="threshold is -1"):
        store.label_map(0, threshold=-1)


def test_an_index_beyond_the_end_is_an_index_error(tmp_path: Path) -> None:
    with pytest.raises(IndexError):
        make_store(tmp_path).raw(8)


def test_dominant_clusters_count_only_what_the_threshold_keeps(tmp_path: Path) -> None:
    labels = np.array([[1, 1, 1, 2, 2, 3]], np.uint16)
    attention = np.array([[10, 10, 10, 200, 200, 255]], np.uint8)
    writer = LabelWriter(tmp_path, [(0, 1)], num_clusters=3, fingerprint="f")
    writer.write_shard(0, [LabelRecord("a", (8, 48), labels, attention)])
    store = LabelStore.open(writer.finish(0.5, "given"))
    assert [store.dominant_clusters(tau).tolist() for tau in (0.0, None, 1.0)] == [[1], [2], [3]]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files are counted through /proc")
def test_only_a_bounded_number_of_shards_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path)
    monkeypatch.setattr("luss.labels.store.MAX_OPEN_SHARDS", 2)

    def num_open() -> int:
        links = (os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd"))
        return sum(os.path.exists(link) and str(tmp_path) in os.readlink(link) for link in links)

    for index in (0, 4, 7, 1, 5, 6):
        np.testing.assert_array_equal(store.raw(index)[0], make_records(index, index + 1)[0].labels)
        assert num_open() <= 2


def peak_of_writing(folder: Path, num: int) -> int:
    labels, attention = np.ones((32, 42), np.uint16), np.ones((32, 42), np.uint8)

    def records() -> Iterator[LabelRecord]:
        for index in range(num):
            yield LabelRecord(f"{index:07d}.JPEG", (375, 500), labels.copy(), attention.copy())

    writer = LabelWriter(folder, [(0, num)], num_clusters=1, fingerprint="f")
    tracemalloc.start()
    try:
        writer.write_shard(0, records())
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_of_the_writer_does_not_grow_with_the_number_of_maps(tmp_path: Path) -> None:
    few, many = (peak_of_writing(tmp_path / str(num), num) for num in (512, 4096))
    assert many < few + 100_000  # 3584 more maps are 14 MB


def test_memory_of_the_reader_is_a_few_bytes_an_image(tmp_path: Path) -> None:
    num = 4096
    peak_of_writing(tmp_path, num)
    LabelWriter(tmp_path, [(0, num)], num_clusters=1, fingerprint="f").finish(0.5, "given")
    tracemalloc.start()
    try:
        store = LabelStore.open(tmp_path)
        for index in range(len(store)):
            store.raw(index)
        assert tracemalloc.get_traced_memory()[0] < 64 * num
        assert tracemalloc.get_traced_memory()[1] < 128 * num
    finally:
        tracemalloc.stop()


def test_equal_labels_are_equal_files_whenever_they_are_written(tmp_path: Path) -> None:
    files = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        writer = LabelWriter(folder, [(0, 1)], num_clusters=3, fingerprint="f")
        ids = np.ones((4, 4), np.uint16)
        writer.write_shard(0, [LabelRecord("a.png", (8, 8), ids, ids.astype(np.uint8))])
        files.append([writer.finish(0.5, "given").read_bytes(), (folder / "shard-00000.h5").read_bytes()])
        # HDF5 writes down whole seconds.
        time.sleep(1.1)
    assert files[0] == files[1]


def test_labels_are_read_and_known_while_the_disk_gives_no_lock(tmp_path: Path) -> None:
    make_store(tmp_path)
    # What asks for a lock now is refused, as everything is on a file server without locks.
    with contextlib.ExitStack() as held:
        for path in tmp_path.glob("*.h5"):
            fcntl.flock(held.enter_context(open(path, "rb+")), fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            h5py.File(tmp_path / "labels.h5", "r")
        store = LabelStore.open(tmp_path)
        np.testing.assert_array_equal(store.raw(7)[0], make_records(7, 8)[0].labels)
        assert make_writer(tmp_path).missing_shards() == []


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOLCK, errno.EACCES, errno.EIO, errno.EAGAIN])
def test_a_file_that_was_merely_not_opened_is_neither_called_damaged_nor_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store = make_store(tmp_path)

    def refuse(path: Path, *arguments: object, **options: object) -> None:
        raise OSError(number, f"Unable to synchronously open file (errno = {number})")

    monkeypatch.setattr(h5py, "File", refuse)
    for read in (
        lambda: LabelStore.open(tmp_path),
        lambda: store.raw(0),
        lambda: make_writer(tmp_path).missing_shards(),
    ):
        with pytest.raises(LussError) as caught:
            read()
        assert "damaged" not in str(caught.value)
        assert "delete" not in str(caught.value)
        assert str(tmp_path) in str(caught.value)
