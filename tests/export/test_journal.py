"""The list of finished images: what a kill in the middle of a line leaves, and what counts when a name comes twice."""

from pathlib import Path

import pytest

from luss.errors import LussError
from luss.export.journal import Journal


def filled(path: Path, names: list[str]) -> Path:
    with Journal(path) as journal:
        for number, name in enumerate(names):
            journal.append(name, {"number": number, "text": name})
    return path


def test_what_was_written_is_found_again(tmp_path: Path) -> None:
    names = [f"dog/{i}.jpg" for i in range(50)] + ["été \n ü.jpg", "bytes-\udcff.jpg"]
    with Journal(filled(tmp_path / "journal", names)) as journal:
        for number, name in enumerate(names):
            assert journal.find(name) == {"number": number, "text": name}
        assert journal.find("dog/50.jpg") is None


def test_an_empty_journal_knows_nothing(tmp_path: Path) -> None:
    with Journal(tmp_path / "new" / "journal") as journal:
        assert journal.find("a.jpg") is None


def test_the_last_line_of_a_name_counts(tmp_path: Path) -> None:
    with Journal(filled(tmp_path / "journal", ["a", "b", "a", "c", "a"])) as journal:
        found = [journal.find(name) for name in "abc"]
    assert [record and record["number"] for record in found] == [4, 1, 3]


def test_a_line_is_known_after_a_refresh_and_older_ones_stay_so(tmp_path: Path) -> None:
    with Journal(filled(tmp_path / "journal", ["a"])) as journal:
        journal.append("b", {"number": 7})
        assert journal.find("b") is None
        journal.append("c", {"number": 8})
        journal.refresh()
        assert journal.find("b") == {"number": 7}
        assert journal.find("c") == {"number": 8}
        assert journal.find("a") == {"number": 0, "text": "a"}


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_line_cut_off_by_a_kill_is_dropped_and_the_next_one_is_whole(tmp_path: Path, cut: int) -> None:
    path = filled(tmp_path / "journal", ["a", "b"])
    path.write_bytes(path.read_bytes()[:-cut])
    with Journal(path) as journal:
        assert journal.find("a") is not None
        assert journal.find("b") is None
        journal.append("b", {"number": 9})
    with Journal(path) as journal:
        assert journal.find("b") == {"number": 9}


def test_another_file_is_no_journal(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("some notes of mine\n")
    with pytest.raises(LussError, match="is damaged"):
        Journal(tmp_path / "journal")
