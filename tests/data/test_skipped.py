"""The list of files a stage had to skip."""

import csv
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luss.data.skipped import SkippedFiles, escape_path, unescape_path
from luss.errors import LussError


@given(st.text(st.characters(exclude_categories=["Cs"])).map(lambda s: s.encode()) | st.binary())
def test_escaping_is_undone_exactly_and_leaves_one_plain_line(name: bytes) -> None:
    path = os.fsdecode(name)
    escaped = escape_path(path)
    assert unescape_path(escaped) == path
    assert not set(escaped) & set("\t\n\r\0")
    assert escaped.encode().decode() == escaped


def test_skipped_files_are_listed_once_however_often_a_stage_resumes(tmp_path: Path) -> None:
    for _ in range(2):
        skipped = SkippedFiles(tmp_path / "skipped.csv")
        skipped.add(Path("a.jpg"), "empty file")
        skipped.add(Path("a.jpg"), "another reason")
        skipped.add(Path("b.jpg"), "truncated")
    assert skipped.count == 2
    assert (tmp_path / "skipped.csv").read_text() == "path,reason\na.jpg,empty file\nb.jpg,truncated\n"


def test_no_skipped_files_leave_no_list(tmp_path: Path) -> None:
    assert SkippedFiles(tmp_path / "skipped.csv").count == 0
    assert not (tmp_path / "skipped.csv").exists()


@pytest.mark.parametrize("name", ['comma, "quote".jpg', "line\nbreak.jpg", b"caf\xe9.jpg", "größe 猫.jpg", " pad .jpg"])
def test_any_path_is_quoted_so_that_a_csv_reader_gives_it_back(tmp_path: Path, name: str | bytes) -> None:
    path = Path(os.fsdecode(name))
    SkippedFiles(tmp_path / "skipped.csv").add(path, 'reason with "quotes",\n and a second line')
    with open(tmp_path / "skipped.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert [unescape_path(row[0]) for row in rows[1:]] == [str(path)]
    again = SkippedFiles(tmp_path / "skipped.csv")
    again.add(path, "another reason")
    assert again.count == 1
    assert len((tmp_path / "skipped.csv").read_text().splitlines()) == 2


def test_a_list_cut_off_by_a_kill_at_any_byte_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "skipped.csv"
    whole = b'path,reason\na.jpg,empty file\n"b, c.jpg",empty file\n'
    for num_bytes in range(len(whole)):
        path.write_bytes(whole[:num_bytes])
        for name in ("a.jpg", "b, c.jpg"):
            SkippedFiles(path).add(Path(name), "empty file")
        assert path.read_bytes() == whole


def test_a_csv_that_is_no_such_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "skipped.csv").write_text("name,size,date\nx,1,2\n")
    with pytest.raises(LussError, match=r"skipped\.csv is not a list of skipped files.*delete"):
        SkippedFiles(tmp_path / "skipped.csv")


def test_forgetting_a_folder_keeps_what_lies_beside_it(tmp_path: Path) -> None:
    skipped = SkippedFiles(tmp_path / "skipped.csv")
    for name in ("/d/train/a.jpg", "/d/train", "/d/train-semi/a.jpg", "/d/x.jpg"):
        skipped.add(Path(name), "empty file")
    skipped.forget(Path("/d/train"))
    assert (tmp_path / "skipped.csv").read_text().splitlines()[1:] == [
        "/d/train-semi/a.jpg,empty file",
        "/d/x.jpg,empty file",
    ]
    assert skipped.count == SkippedFiles(tmp_path / "skipped.csv").count == 2


def test_too_many_skipped_files_are_refused_with_count_share_list_and_key(tmp_path: Path) -> None:
    skipped = SkippedFiles(tmp_path / "skipped.csv")
    for i in range(3):
        skipped.add(Path(f"{i}.jpg"), "empty file")
    skipped.check(total=100, max_share=0.03)
    with pytest.raises(LussError, match=r"3 of 100 .*3\.0%.*data\.max_skipped_share=0\.02.*skipped\.csv"):
        skipped.check(total=100, max_share=0.02)
    with pytest.raises(LussError, match=r"data\.max_skipped_share"):
        skipped.check(total=0, max_share=0.5)


@pytest.mark.parametrize("total", [30, 60, 100, 300])
def test_the_word_that_goes_on_without_the_skipped_files_is_enough(tmp_path: Path, total: int) -> None:
    skipped = SkippedFiles(tmp_path / "skipped.csv")
    for i in range(29):
        skipped.add(Path(f"{i}.jpg"), "empty file")
    with pytest.raises(LussError) as caught:
        skipped.check(total, max_share=0.01)
    share = float(str(caught.value).rpartition("or go on without them: data.max_skipped_share=")[2])
    skipped.check(total, max_share=share)
    assert share <= 29 / total + 0.02


def test_a_full_disk_is_said_in_words(tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full on this system")
    (tmp_path / "skipped.csv").symlink_to("/dev/full")
    skipped = SkippedFiles(tmp_path / "elsewhere.csv")
    skipped.path = tmp_path / "skipped.csv"
    with pytest.raises(LussError, match="full"):
        skipped.add(Path("a.jpg"), "empty file")


def test_lists_of_several_processes_become_one_without_repeats(tmp_path: Path) -> None:
    own = SkippedFiles(tmp_path / "skipped.csv")
    own.add(Path("a.jpg"), "empty file")
    for name, paths in (("one.csv", ["b.jpg", "a.jpg"]), ("two.csv", ["c\n.jpg", "b.jpg"])):
        for path in paths:
            SkippedFiles(tmp_path / name).add(Path(path), f"from {name}")
    own.absorb([tmp_path / "one.csv", tmp_path / "two.csv"])
    assert own.count == 3
    assert (tmp_path / "skipped.csv").read_text().splitlines() == [
        "path,reason",
        "a.jpg,empty file",
        "b.jpg,from one.csv",
        "c\\n.jpg,from two.csv",
    ]
    own.add(Path("b.jpg"), "again")
    assert SkippedFiles(tmp_path / "skipped.csv").count == 3


def test_a_list_that_is_cleared_is_gone(tmp_path: Path) -> None:
    skipped = SkippedFiles(tmp_path / "skipped.csv")
    skipped.clear()
    skipped.add(Path("a.jpg"), "empty file")
    skipped.clear()
    assert skipped.count == 0
    assert not (tmp_path / "skipped.csv").exists()
