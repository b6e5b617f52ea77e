import errno
import json
import multiprocessing
import os
import pickle
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from luss.errors import LussError
from luss.features.store import FeatureDtype, FeatureStore, FeatureWriter, shard_path


def rows(num_rows: int, dim: int = 3) -> np.ndarray:
    # Small integers: exact in float16.
    return np.random.default_rng(0).integers(-500, 500, (num_rows, dim)).astype(np.float32)


def writer(
    folder: Path,
    num_rows: int = 10,
    dtype: FeatureDtype = "float32",
    fingerprint: str = "a",
    dim: int = 3,
    size: int = 4,
) -> FeatureWriter:
    return FeatureWriter(folder, num_rows, dim, dtype, size, fingerprint)


def fill(target: FeatureWriter, values: np.ndarray) -> None:
    for shard in target.missing_shards():
        kept = target.rows_of(shard)
        target.write_shard(shard, values[kept.start : kept.stop])


def store(folder: Path, values: np.ndarray, dtype: FeatureDtype = "float32") -> FeatureStore:
    target = writer(folder, len(values), dtype)
    fill(target, values)
    return target.finish()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_was_written_is_read_back_as_float32(tmp_path: Path, dtype: FeatureDtype) -> None:
    values = rows(10)
    opened = store(tmp_path, values, dtype)
    assert (len(opened), opened.dim, opened.dtype, opened.fingerprint) == (10, 3, dtype, "a")
    assert opened.read(0, 10).dtype == np.float32
    np.testing.assert_array_equal(opened.read(0, 10), values)
    assert np.load(shard_path(tmp_path, 0)).dtype == dtype


def test_every_range_is_read_across_shards(tmp_path: Path) -> None:
    values = rows(10)
    opened = store(tmp_path, values)
    for start in range(11):
        for stop in range(start, 11):
            np.testing.assert_array_equal(opened.read(start, stop), values[start:stop])


def test_gathered_rows_come_in_the_order_asked_for_with_repeats(tmp_path: Path) -> None:
    values, indices = rows(10), np.array([9, 0, 4, 4, 3, 8])
    opened = store(tmp_path, values)
    np.testing.assert_array_equal(opened.gather(indices), values[indices])
    assert opened.gather(np.array([], dtype=np.int64)).shape == (0, 3)


def test_chunks_cover_all_rows_once_in_order(tmp_path: Path) -> None:
    values = rows(10)
    chunks = list(store(tmp_path, values).chunks(3))
    assert [start for start, _ in chunks] == [0, 3, 6, 9]
    np.testing.assert_array_equal(np.concatenate([chunk for _, chunk in chunks]), values)


def test_chunks_can_begin_later(tmp_path: Path) -> None:
    values = rows(10)
    chunks = list(store(tmp_path, values).chunks(3, 6))
    np.testing.assert_array_equal(np.concatenate([chunk for _, chunk in chunks]), values[6:])


@pytest.mark.parametrize("ask", [lambda s: s.read(0, 11), lambda s: s.read(-1, 2), lambda s: s.gather(np.array([-1]))])
def test_rows_outside_the_store_are_refused(tmp_path: Path, ask) -> None:
    with pytest.raises(IndexError, match="store of 10 rows"):
        ask(store(tmp_path, rows(10)))


def test_a_store_survives_pickling(tmp_path: Path) -> None:
    values = rows(10)
    opened = store(tmp_path, values)
    opened.read(0, 5)
    pickled = pickle.dumps(opened)
    assert len(pickled) < 2000
    np.testing.assert_array_equal(pickle.loads(pickled).read(0, 10), values)


def test_a_continued_writer_writes_only_what_is_missing(tmp_path: Path) -> None:
    values = rows(10)
    first = writer(tmp_path)
    first.write_shard(1, values[4:8])
    written = shard_path(tmp_path, 1).stat().st_mtime_ns
    second = writer(tmp_path)
    assert second.missing_shards() == [0, 2]
    fill(second, values)
    np.testing.assert_array_equal(second.finish().read(0, 10), values)
    assert shard_path(tmp_path, 1).stat().st_mtime_ns == written


@pytest.mark.parametrize(
    "change",
    [{"fingerprint": "b"}, {"dtype": "float16"}, {"dim": 4}, {"size": 3}, {"num_rows": 9}],
    ids=lambda change: next(iter(change)),
)
def test_shards_made_with_another_setting_do_not_count(tmp_path: Path, change) -> None:
    fill(writer(tmp_path), rows(10))
    changed = writer(tmp_path, **change)
    # A shorter table only changes the shard that became shorter.
    expected = [2] if change == {"num_rows": 9} else list(range(changed.num_shards))
    assert changed.missing_shards() == expected


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b[:40], lambda b: b"", lambda b: b + b"x", lambda b: b"?" * 200]
)
def test_a_damaged_shard_is_missing_for_the_writer_and_an_error_for_the_reader(tmp_path: Path, damage) -> None:
    store(tmp_path, rows(10))
    path = shard_path(tmp_path, 1)
    path.write_bytes(damage(path.read_bytes()))
    assert writer(tmp_path).missing_shards() == [1]
    with pytest.raises(LussError, match=r"shard-00001\.npy.*run the extraction again"):
        FeatureStore.open(tmp_path)


def test_a_pickle_in_place_of_a_shard_is_never_loaded(tmp_path: Path) -> None:
    store(tmp_path, rows(10))
    np.save(shard_path(tmp_path, 0), np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(LussError, match="shard-00000"):
        FeatureStore.open(tmp_path)


def test_an_unfinished_folder_is_no_store(tmp_path: Path) -> None:
    fill(writer(tmp_path), rows(10))
    with pytest.raises(LussError, match="no finished feature store"):
        FeatureStore.open(tmp_path)


def test_finishing_with_missing_shards_is_refused(tmp_path: Path) -> None:
    target = writer(tmp_path)
    target.write_shard(0, rows(4))
    with pytest.raises(LussError, match=r"2 of 3 feature shards are missing .*first: 1"):
        target.finish()
    assert not (tmp_path / "store.json").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"num_rows": 10}', "DIM", "DTYPE"])
def test_a_damaged_index_is_an_error_with_the_fix(tmp_path: Path, text: str) -> None:
    store(tmp_path, rows(10))
    index = json.loads((tmp_path / "store.json").read_text())
    text = {"DIM": json.dumps({**index, "dim": "3"}), "DTYPE": json.dumps({**index, "dtype": "int8"})}.get(text, text)
    (tmp_path / "store.json").write_text(text)
    with pytest.raises(LussError, match=r"store\.json.*again"):
        FeatureStore.open(tmp_path)


def test_a_value_that_is_not_finite_is_refused_with_its_row(tmp_path: Path) -> None:
    values = rows(4)
    values[2, 1] = np.nan
    with pytest.raises(LussError, match="row 6 is NaN"):
        writer(tmp_path).write_shard(1, values)
    assert not shard_path(tmp_path, 1).exists()


def test_a_value_too_large_for_float16_is_refused(tmp_path: Path) -> None:
    values = rows(4)
    values[3, 0] = 1e6
    with pytest.raises(LussError, match=r"row 3 is .*too large for float16"):
        writer(tmp_path, dtype="float16").write_shard(0, values)


def test_a_shard_of_the_wrong_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"shard 2 takes \(2, 3\)"):
        writer(tmp_path).write_shard(2, rows(4))


@pytest.mark.parametrize(
    ("name", "change"), [("num_rows", {"num_rows": 0}), ("dim", {"dim": 0}), ("float16", {"dtype": "int8"})]
)
def test_settings_out_of_range_are_refused(tmp_path: Path, name: str, change) -> None:
    with pytest.raises(LussError, match=name):
        writer(tmp_path, **change)


def test_finishing_clears_leftovers_of_killed_writers_and_of_larger_stores(tmp_path: Path) -> None:
    fill(writer(tmp_path, num_rows=20), rows(20))
    (tmp_path / ".shard-00000.npy.123.partial").write_bytes(b"half")
    target = writer(tmp_path)
    fill(target, rows(10))
    target.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "shard-00000.npy", "shard-00001.npy", "shard-00002.npy", "store.json",
    ]  # fmt: skip


def write_forever(folder: Path) -> None:
    target = FeatureWriter(folder, 4_000_000, 64, "float32", 20_000, "a")
    for shard in range(target.num_shards):
        target.write_shard(shard, np.full((20_000, 64), shard, dtype=np.float32))


def test_a_killed_writer_leaves_only_whole_shards(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=write_forever, args=(tmp_path,))
    process.start()
    deadline = time.monotonic() + 20
    while not shard_path(tmp_path, 3).exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    target = FeatureWriter(tmp_path, 4_000_000, 64, "float32", 20_000, "a")
    whole = sorted(set(range(target.num_shards)) - set(target.missing_shards()))
    assert len(whole) >= 4
    assert len(whole) == len(list(tmp_path.glob("shard-*.npy")))
    for shard in whole:
        assert (np.load(shard_path(tmp_path, shard)) == shard).all()


def write_some(folder: Path, values: np.ndarray, shards: list[int]) -> None:
    target = FeatureWriter(folder, len(values), values.shape[1], "float32", 16, "a")
    for shard in shards:
        kept = target.rows_of(shard)
        target.write_shard(shard, values[kept.start : kept.stop])


def test_several_processes_fill_one_store_even_when_they_overlap(tmp_path: Path) -> None:
    values = rows(200)
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=write_some, args=(tmp_path, values, list(range(first, last))))
        for first, last in [(0, 8), (5, 13), (0, 13)]
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    opened = FeatureWriter(tmp_path, 200, 3, "float32", 16, "a").finish()
    np.testing.assert_array_equal(opened.read(0, 200), values)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.EIO])
def test_a_shard_that_was_merely_not_opened_is_neither_missing_nor_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    store(tmp_path, rows(10))

    def refuse(path: Path, **options: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr("numpy.lib.format.open_memmap", refuse)
    for look in (writer(tmp_path).missing_shards, lambda: FeatureStore.open(tmp_path)):
        with pytest.raises(LussError, match=r"shard-00000\.npy") as caught:
            look()
        assert "run the extraction again" not in str(caught.value)
