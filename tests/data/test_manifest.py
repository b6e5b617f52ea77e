"""The manifest of a folder of images."""

import csv
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from nasty_folder import add_image, nasty_folder
from PIL import Image

from luss.data import manifest as manifest_module
from luss.data.images import Header, UnreadableImage
from luss.data.manifest import Manifest, ManifestSummary, build_manifest
from luss.data.skipped import SkippedFiles
from luss.data.walk import find_images
from luss.errors import LussError
from luss.progress import Interrupted, StopFlag


def build(root: Path, out: Path, split: str = "train", **options: Any) -> Manifest:
    build_manifest(root, out, split, skipped=SkippedFiles(out / "skipped.csv"), **options)
    return Manifest.open(out, split)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """30 images in nested folders, each of another size."""
    root = tmp_path / "photos"
    for i in range(30):
        add_image(root / ["", "a", "a/b", "z"][i % 4] / f"{i}.png", (i + 1, 2 * i + 1))
    return root


def test_every_kind_of_file_a_folder_may_hold_is_listed_or_skipped_with_a_reason(tmp_path: Path) -> None:
    root, out = tmp_path / "root", tmp_path / "out"
    good, bad = nasty_folder(root)
    manifest = build(root, out, verify="full")
    assert {name: manifest.size(i) for i, name in enumerate(manifest.names())} == good
    with open(out / "skipped.csv", encoding="utf-8", newline="") as file:
        rows = {Path(row["path"]).name: row["reason"] for row in csv.DictReader(file)}
    assert rows.keys() == bad.keys()
    assert all(reason in rows[name] and rows[name] for name, reason in bad.items())


def test_header_checks_find_all_but_truncated_pixels(tmp_path: Path) -> None:
    good, bad = nasty_folder(tmp_path / "root")
    manifest = build(tmp_path / "root", tmp_path / "out")
    assert set(manifest.names()) == {*good, "bad truncated.jpg"}
    assert SkippedFiles(tmp_path / "out" / "skipped.csv").count == len(bad) - 1


def test_an_image_of_more_pixels_than_memory_is_meant_for_is_skipped_with_a_line(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    add_image(photos / "a.jpg")
    # 59 kB, and 2.3 GB to read.
    Image.new("1", (22_000, 22_000)).save(photos / "huge.png")
    skipped = SkippedFiles(tmp_path / "skipped.csv")
    summary = build_manifest(photos, tmp_path, "train", skipped=skipped)
    assert summary == ManifestSummary(1, 1)
    line = skipped.path.read_text(encoding="utf-8").splitlines()[1]
    assert line == f'{photos / "huge.png"},"22000 x 22000 pixels, above the limit of 200,000,000 pixels"'


def test_images_are_sorted_by_the_components_of_their_paths(tmp_path: Path) -> None:
    for name in ["b.png", "a/z.png", "a.png", "a b.png", "B.png", "a/b/c.png", "a-b/c.png"]:
        add_image(tmp_path / "root" / name)
    names = list(build(tmp_path / "root", tmp_path / "out").names())
    assert names == ["B.png", "a/b/c.png", "a/z.png", "a b.png", "a-b/c.png", "a.png", "b.png"]
    assert names == sorted(names, key=lambda name: name.split("/"))


def test_a_row_tells_name_path_and_size(photos: Path, tmp_path: Path) -> None:
    manifest = build(photos, tmp_path / "out")
    rows = {manifest.name(i): i for i in range(len(manifest))}
    i = rows["a/b/6.png"]
    assert manifest.path(i) == photos / "a/b/6.png"
    assert manifest.size(i) == (7, 13)


def test_names_agree_with_the_single_rows(photos: Path, tmp_path: Path) -> None:
    manifest = build(photos, tmp_path / "out")
    assert list(manifest.names()) == [manifest.name(i) for i in range(30)]


def test_two_iterators_over_the_names_do_not_disturb_each_other(photos: Path, tmp_path: Path) -> None:
    manifest = build(photos, tmp_path / "out")
    assert all(a == b for a, b in zip(manifest.names(), manifest.names(), strict=True))


@pytest.mark.parametrize("index", [-1, 30])
def test_an_id_out_of_range_is_an_index_error(photos: Path, tmp_path: Path, index: int) -> None:
    with pytest.raises(IndexError):
        build(photos, tmp_path / "out").name(index)


def test_the_table_is_text_with_one_line_an_image(photos: Path, tmp_path: Path) -> None:
    build(photos, tmp_path / "out")
    lines = (tmp_path / "out" / "train.tsv").read_text().splitlines()
    assert lines[0].split("\t") == ["id", "width", "height", "bytes", "path"]
    assert lines[1].split("\t") == ["0", "1", "1", str((photos / "0.png").stat().st_size), "0.png"]
    assert len(lines) == 31


@pytest.mark.parametrize(
    "name", ["tab\there.png", "line\nbreak.png", "back\\slash \\n.png", "bell\a.png", " lead.png", b"caf\xe9.png"]
)
def test_a_name_with_any_character_survives_in_one_line(tmp_path: Path, name: str | bytes) -> None:
    text = os.fsdecode(name)
    add_image(tmp_path / "a.png").rename(add_image(tmp_path / "root" / "b.png").with_name(text))
    manifest = build(tmp_path / "root", tmp_path / "out")
    assert sorted(manifest.names()) == sorted([text, "b.png"])
    assert len((tmp_path / "out" / "train.tsv").read_text().splitlines()) == 3
    assert all(manifest.path(i).exists() for i in range(2))


def test_a_root_whose_own_name_is_not_utf8_survives(tmp_path: Path) -> None:
    root = tmp_path / os.fsdecode(b"caf\xe9")
    add_image(root / "a.png")
    assert build(root, tmp_path / "out").image_root == root


def test_the_bytes_do_not_depend_on_the_number_of_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_module, "_CHUNK", 2)
    nasty_folder(tmp_path / "root")
    for workers in (1, 4):
        build(tmp_path / "root", tmp_path / f"out{workers}", workers=workers)
    assert files_of(tmp_path / "out1") == files_of(tmp_path / "out4")


def test_building_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    nasty_folder(tmp_path / "root")
    build(tmp_path / "root", tmp_path / "out")
    before = files_of(tmp_path / "out")
    build(tmp_path / "root", tmp_path / "out")
    assert files_of(tmp_path / "out") == before


def test_the_summary_counts_images_and_skipped_files(tmp_path: Path) -> None:
    good, bad = nasty_folder(tmp_path / "root")
    skipped = SkippedFiles(tmp_path / "skipped.csv")
    skipped.add(Path("/elsewhere/x.jpg"), "from another split")
    summary = build_manifest(tmp_path / "root", tmp_path / "out", "train", skipped=skipped, verify="full")
    assert summary == ManifestSummary(num_images=len(good), num_skipped=len(bad))


def test_a_repaired_file_leaves_the_skipped_list_when_the_manifest_is_built_again(tmp_path: Path) -> None:
    add_image(tmp_path / "root" / "a.png")
    (tmp_path / "root" / "b.png").touch()
    build(tmp_path / "root", tmp_path / "out")
    add_image(tmp_path / "root" / "b.png")
    assert len(build(tmp_path / "root", tmp_path / "out")) == 2
    assert SkippedFiles(tmp_path / "out" / "skipped.csv").count == 0


def test_progress_counts_all_files_looked_at(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_module, "_CHUNK", 8)
    (photos / "bad.png").touch()
    seen: list[int] = []
    build(photos, tmp_path / "out", on_progress=seen.append)
    assert seen == [8, 16, 24, 31]


def test_a_stopped_build_leaves_no_manifest(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_module, "_CHUNK", 8)
    stop, seen = StopFlag(), []

    def on_progress(num_files: int) -> None:
        seen.append(num_files)
        stop.set("SIGTERM received")

    with pytest.raises(Interrupted, match="SIGTERM received"):
        build(photos, tmp_path / "out", stop=stop, on_progress=on_progress)
    assert seen == [8]
    assert list((tmp_path / "out").iterdir()) == []


KILLED_BUILD = """
import os, signal, sys
from pathlib import Path
from luss.data import manifest
from luss.data.skipped import SkippedFiles
root, out, moment = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
manifest._CHUNK = 8
def die(*args):
    os.kill(os.getpid(), signal.SIGKILL)
def die_at_the_rename(source, target, count=[0], rename=os.replace):
    count[0] += 1
    die() if count[0] == moment else rename(source, target)
if moment:
    os.replace = die_at_the_rename
manifest.build_manifest(root, out, "train", skipped=SkippedFiles(out / "skipped.csv"),
                        on_progress=lambda n: die() if n > 16 and not moment else None)
"""


@pytest.mark.parametrize("moment", [0, 1, 2, 3], ids=["while measuring", "1st rename", "2nd rename", "3rd rename"])
def test_a_killed_build_leaves_nothing_that_counts_and_a_new_build_repairs_it(
    photos: Path, tmp_path: Path, moment: int
) -> None:
    out = tmp_path / "out"
    build(photos, out)
    add_image(photos / "a" / "new.png")
    command = [sys.executable, "-c", KILLED_BUILD, str(photos), str(out), str(moment)]
    assert subprocess.run(command, timeout=60).returncode == -signal.SIGKILL
    with pytest.raises(LussError, match="no complete manifest of split 'train'"):
        Manifest.open(out, "train")
    assert len(build(photos, out)) == 31


def test_files_that_do_not_belong_together_are_refused(photos: Path, tmp_path: Path) -> None:
    build(photos, tmp_path / "out")
    table = tmp_path / "out" / "train.tsv"
    table.write_bytes(table.read_bytes()[:-10])
    with pytest.raises(LussError, match=r"train\.tsv .* do not belong .* --force manifest"):
        Manifest.open(tmp_path / "out", "train")
    table.unlink()
    with pytest.raises(LussError, match=r"cannot be read .*train\.tsv.* --force manifest"):
        Manifest.open(tmp_path / "out", "train")


def test_offsets_in_the_form_of_a_pickle_are_refused(photos: Path, tmp_path: Path) -> None:
    build(photos, tmp_path / "out")
    np.save(tmp_path / "out" / "train.offsets.npy", np.array([{}] * 30, dtype=object), allow_pickle=True)
    with pytest.raises(LussError, match="cannot be read"):
        Manifest.open(tmp_path / "out", "train")


def test_a_folder_without_images_names_the_folder_and_the_suffixes(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a.txt").touch()
    with pytest.raises(LussError, match=r"root holds no images.*\.jpeg \.jpf \.jpg .*\.png"):
        build(tmp_path / "root", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_of_unreadable_images_names_the_list_of_reasons(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a.png").touch()
    with pytest.raises(LussError, match=r"none of the 1 image files.*skipped\.csv"):
        build(tmp_path / "root", tmp_path / "out")


def test_an_image_root_that_is_no_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(LussError, match=r"nowhere is not a folder.*data\.root"):
        build(tmp_path / "nowhere", tmp_path / "out")


def test_links_in_a_circle_end_the_walk(tmp_path: Path) -> None:
    add_image(tmp_path / "a" / "b" / "x.png")
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a" / "self")
    assert list(find_images(tmp_path)) == ["a/b/x.png"]


def test_a_folder_that_cannot_be_listed_stops_the_listing_and_leaves_no_manifest(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def refuse(folder: str) -> Any:
        if folder.endswith("/z"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(LussError, match="photos/z: Permission denied"):
        build(photos, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_pictures_of_unread_formats_are_listed_and_counted_by_their_ending_and_count_for_no_limit(
    photos: Path, tmp_path: Path
) -> None:
    for name in ("a.NEF", "b.nef", "c.jxl", "notes.txt"):
        (photos / name).write_bytes(b"something")
    skipped = SkippedFiles(tmp_path / "skipped.csv")
    summary = build_manifest(photos, tmp_path / "out", "train", skipped=skipped)
    assert (summary.num_images, summary.num_skipped, summary.unread) == (30, 0, {".nef": 2, ".jxl": 1})
    assert "3 pictures are in formats that are not read here and are left out (.nef 2, .jxl 1)" in summary.sentences[0]
    text = (tmp_path / "skipped.csv").read_text()
    assert 'a.NEF,"a raw file' in text
    assert "notes.txt" not in text


def test_results_of_luss_in_the_folder_of_images_are_left_out_and_said(photos: Path, tmp_path: Path) -> None:
    add_image(photos / "out" / "masks" / "0.png")
    (photos / "out" / "export.json").touch()
    summary = build_manifest(photos, tmp_path / "out", "train", skipped=SkippedFiles(tmp_path / "skipped.csv"))
    assert summary.num_images == 30
    assert f"{photos}/out" in summary.sentences[0]


def test_a_file_that_is_read_with_a_note_is_in_the_list_and_not_skipped(photos: Path, tmp_path: Path) -> None:
    image = add_image(photos / "a" / "long.jpg", (80, 60))
    image.write_bytes(image.read_bytes()[:-2])
    skipped = SkippedFiles(tmp_path / "skipped.csv")
    summary = build_manifest(photos, tmp_path / "out", "train", skipped=skipped, verify="full")
    assert (summary.num_images, summary.num_skipped, skipped.count) == (31, 0, 0)
    assert not skipped.lists("a/long.jpg")
    assert "a/long.jpg,read all the same: image file is truncated" in (tmp_path / "skipped.csv").read_text()


def test_the_digest_is_that_of_names_and_sizes_and_not_of_where_they_lie(photos: Path, tmp_path: Path) -> None:
    before = build(photos, tmp_path / "out").digest(30)
    photos.rename(tmp_path / "elsewhere")
    assert build(tmp_path / "elsewhere", tmp_path / "out2").digest(30) == before
    # As many pixels, another file.
    add_image(tmp_path / "elsewhere" / "0.png", (1, 1), mode="L")
    assert build(tmp_path / "elsewhere", tmp_path / "out3").digest(30) != before


def test_a_manifest_of_earlier_versions_is_read(photos: Path, tmp_path: Path) -> None:
    sizes = dict(zip((new := build(photos, tmp_path / "out")).names(), map(new.size, range(30)), strict=True))
    lines = [line.split("\t") for line in (tmp_path / "out" / "train.tsv").read_text().splitlines(keepends=True)]
    old = ["\t".join([*line[:3], line[4]]).encode() for line in lines]
    (tmp_path / "out" / "train.tsv").write_bytes(b"".join(old))
    starts = np.cumsum([len(line) for line in old], dtype=np.uint64)
    np.save(tmp_path / "out" / "train.offsets.npy", starts[:-1])
    facts = json.loads((tmp_path / "out" / "train.json").read_text())
    (tmp_path / "out" / "train.json").write_text(json.dumps({**facts, "num_bytes": int(starts[-1])}))
    manifest = Manifest.open(tmp_path / "out", "train")
    assert {manifest.name(i): manifest.size(i) for i in range(30)} == sizes
    assert list(manifest.names()) == list(sizes)
    assert manifest.listed(3).num_bytes is None


def test_damaged_rows_and_offsets_are_named_by_file_and_line_with_the_remedy(photos: Path, tmp_path: Path) -> None:
    build(photos, tmp_path / "out")
    table, offsets = tmp_path / "out" / "train.tsv", tmp_path / "out" / "train.offsets.npy"
    whole, starts = table.read_bytes(), np.load(offsets)
    random, reasons = np.random.default_rng(0), set()
    for _ in range(150):
        bad = np.frombuffer(whole, np.uint8).copy()
        bad[random.integers(len(bad), size=3)] = random.integers(0, 256, 3)
        table.write_bytes(bad.tobytes())
        np.save(offsets, np.where(random.random(30) < 0.1, random.integers(0, 2**63, 30, np.uint64), starts))
        try:
            manifest = Manifest.open(tmp_path / "out", "train")
            list(manifest.names())
            for index in range(30):
                manifest.listed(index)
                manifest.name(index)
            manifest.digest(20)
        except LussError as error:
            reasons.add(str(error))
    assert all("--force manifest" in reason or "leads out of" in reason for reason in reasons)
    assert any(f"{table}, line" in reason for reason in reasons)
    assert any(f"{offsets} is damaged" in reason for reason in reasons)


def test_splits_share_a_folder(photos: Path, tmp_path: Path) -> None:
    assert len(build(photos, tmp_path / "out", "train")) == 30
    assert len(build(photos / "a", tmp_path / "out", "train-semi")) == 15
    assert len(Manifest.open(tmp_path / "out", "train")) == 30


def ask(manifest: Manifest) -> tuple[int, str, tuple[int, int]]:
    return len(manifest), manifest.name(29), manifest.size(29)


def test_a_pickled_manifest_opens_its_files_anew_and_is_small(photos: Path, tmp_path: Path) -> None:
    manifest = build(photos, tmp_path / "out")
    expected = ask(manifest)
    data = pickle.dumps(manifest)
    assert len(data) < 2000
    assert ask(pickle.loads(data)) == expected


# Python 3.12 warns about fork in a process that has threads, as the test runner has.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_manifest_serves_forked_and_spawned_workers(photos: Path, tmp_path: Path, method: str) -> None:
    manifest = build(photos, tmp_path / "out")
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(ask, (manifest,)) == ask(manifest)
        pool.close()
        pool.join()


class ManyNames:
    """The file names of a large flat folder in no order, made up while they are read (200,000 take 11 s to trace)."""

    number = 40_000

    def __enter__(self) -> Iterator[Any]:
        class Entry:
            def __init__(self, number: int) -> None:
                self.name = f"ILSVRC2012_{number * 7919 % ManyNames.number:08}.JPEG"

            def is_dir(self) -> bool:
                return False

        return map(Entry, range(self.number))

    def __exit__(self, *error: object) -> None:
        pass


def measure_memory(folder: Path) -> tuple[int, int, int, int, str]:
    """Peak bytes while building and while reading, names read, length, last name; in a process of its own."""
    found = {True: UnreadableImage(folder / "x", "no such file"), False: Header((500, 375), 10_000)}
    with (
        mock.patch.object(os, "scandir", lambda folder: ManyNames()),  # noqa: PT008  (a new one each time)
        mock.patch.object(manifest_module, "_measure", lambda path, *rest: found[path.name.endswith("7777.JPEG")]),
    ):
        tracemalloc.start()
        build_manifest(folder, folder / "out", "train", skipped=SkippedFiles(folder / "s.csv"), workers=2)
        building = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        manifest = Manifest.open(folder / "out", "train")
        num_names = sum(1 for _ in manifest.names())
        last = manifest.name(len(manifest) - 1)
        reading = tracemalloc.get_traced_memory()[1] - before
    return building, reading, num_names, len(manifest), last


def test_memory_is_one_name_a_file_while_building_and_flat_while_reading(tmp_path: Path) -> None:
    # Threads and garbage of other tests would be counted too: a fresh process has none.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        building, reading, num_names, length, last = pool.submit(measure_memory, tmp_path).result()
    assert num_names == length == ManyNames.number - 4
    assert last == "ILSVRC2012_00039999.JPEG"
    # 81 bytes are the name in the list; pathlib interns it, in a table that doubles now and then. 1.2 million files: under 300 MB.
    assert building / ManyNames.number < 250
    assert reading < 200_000
