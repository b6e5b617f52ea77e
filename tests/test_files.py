import errno
import io
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest

from luss import files
from luss.errors import LussError
from luss.files import (
    checksum,
    create_text,
    link_or_copy,
    read_json,
    read_record,
    read_user_text,
    remove_dead,
    remove_leftovers,
    replacing,
    temporary_beside,
    write_json,
    write_text,
)

DISK_FULL = OSError(errno.ENOSPC, "No space left on device")


def everything_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_texts_of_people_are_read_whatever_system_wrote_them(tmp_path: Path, encoding: str, end: str) -> None:
    path = tmp_path / "names.json"
    path.write_bytes(end.join(['{"3":', '"größe 猫"}']).encode(encoding))
    assert read_json(path) == {"3": "größe 猫"}
    assert read_user_text(path) == '{"3":\n"größe 猫"}'


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16-le", "utf-16-be"])
def test_a_text_in_letters_that_nobody_can_know_is_refused_with_its_line(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "names.json"
    path.write_bytes('{"3":\n"gr\u00f6\u00dfe"}'.encode(encoding))
    line = 2 if encoding == "latin-1" else 1
    for read in (read_json, read_user_text):
        with pytest.raises(LussError, match=rf"names\.json, line {line}, is not UTF-8 text"):
            read(path)


def test_json_keeps_names_that_are_not_utf8_and_stays_valid_text(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"root": "caf\udce9", "other": "größe"})
    assert read_json(tmp_path / "x.json") == {"root": "caf\udce9", "other": "größe"}
    assert "größe" in (tmp_path / "x.json").read_text(encoding="utf-8")


def test_a_file_appears_under_its_name_only_when_it_is_complete(tmp_path: Path) -> None:
    with replacing(tmp_path / "product") as temporary:
        temporary.write_text("new", encoding="utf-8")
        assert not (tmp_path / "product").exists()
    assert (tmp_path / "product").read_text(encoding="utf-8") == "new"
    assert everything_in(tmp_path) == ["product"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "product", "old")
    with pytest.raises(UnicodeEncodeError), replacing(tmp_path / "product") as temporary:
        temporary.write_text(100_000 * "half" + "\udc80", encoding="utf-8")
    assert (tmp_path / "product").read_text(encoding="utf-8") == "old"
    assert everything_in(tmp_path) == ["product"]


def test_a_writer_that_is_killed_leaves_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "product", "old")
    script = (
        "import os, signal, sys; from pathlib import Path; from luss.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path / "product")], check=False).returncode == -9
    assert (tmp_path / "product").read_text(encoding="utf-8") == "old"


def test_the_content_reaches_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    sync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (order.append("sync"), sync(descriptor))[1])
    monkeypatch.setattr(os, "replace", lambda *names: (order.append("rename"), rename(*names))[1])
    write_text(tmp_path / "product", "x")
    assert order == ["sync", "rename"]


def test_the_folder_is_made_when_it_is_absent(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "product", "x")
    assert (tmp_path / "a" / "b" / "product").is_file()


@pytest.mark.parametrize("name", ["x" * 250, "ü" * 125])
def test_a_name_of_nearly_the_longest_length_can_be_written(tmp_path: Path, name: str) -> None:
    write_text(tmp_path / name, "x")
    assert everything_in(tmp_path) == [name]


def test_a_full_disk_is_told_with_its_folder_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise DISK_FULL

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(LussError) as caught:
        write_text(tmp_path / "product", "x")
    assert f"the disk that holds {tmp_path} is full" in str(caught.value)
    assert "run the same command again" in str(caught.value)
    assert everything_in(tmp_path) == []


# torch.save and numpy.save hide the system's error: what they say alone could mean anything.
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
        OSError("5 requested and 3 written"),
    ],
)
def test_an_error_that_hides_its_cause_is_told_as_a_full_disk_only_where_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    with pytest.raises(type(error)) as caught, replacing(tmp_path / "product"):
        raise error
    assert caught.value is error

    def refuse(descriptor: int) -> None:
        raise DISK_FULL

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(LussError, match="is full"), replacing(tmp_path / "product"):
        raise error
    assert everything_in(tmp_path) == []


def test_numpy_says_how_much_it_wrote_when_a_write_is_cut_short() -> None:
    # The text that `replacing` must look behind: it has no error number.
    class Full(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: object) -> int:
            raise OSError("5 requested and 3 written")

    with pytest.raises(OSError, match="requested") as caught:
        np.save(Full(), np.zeros(5))
    assert caught.value.errno is None


def test_json_is_written_readably_and_read_back(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None], "a": "größe"}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    assert "größe" in (tmp_path / "x.json").read_text(encoding="utf-8")
    assert list(json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))) == ["b", "a"]


def test_absent_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(LussError, match=r"x\.json does not exist"):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe"])
def test_damaged_json_is_named_with_the_fix(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(LussError, match=r"x\.json is not valid JSON.*delete it"):
        read_json(tmp_path / "x.json")


def test_of_many_who_create_a_file_one_succeeds_and_the_others_leave_it(tmp_path: Path) -> None:
    together = Barrier(8)

    def create(number: int) -> bool:
        together.wait()
        return create_text(tmp_path / "folder" / "file", str(number))

    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(create, range(8)))
    assert created.count(True) == 1
    assert (tmp_path / "folder" / "file").read_text() == str(created.index(True))
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["file"]


def test_leftovers_are_removed_for_the_files_named_and_for_no_others(tmp_path: Path) -> None:
    names = ["a.png", "a.b.png", "x" * 250]
    for name in names:
        with replacing(tmp_path / name) as temporary:
            temporary.write_text("whole")
        # As a killed process leaves it.
        temporary.write_text("half")
    remove_leftovers([tmp_path / names[0], tmp_path / names[2], tmp_path / "absent" / "b.png"])
    assert everything_in(tmp_path) == sorted([*names, temporary_beside(tmp_path / "a.b.png").name])


def test_a_written_file_has_the_rights_that_the_umask_leaves_whatever_the_library_gave_it(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("made by Python", encoding="utf-8")
    with replacing(tmp_path / "written") as temporary:
        temporary.write_text("x", encoding="utf-8")
        temporary.chmod(0o600)
    assert (tmp_path / "written").stat().st_mode == plain.stat().st_mode


# exFAT, FUSE and network file systems: each has its own word for having no hard links.
NO_LINKS = [errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK]


@pytest.mark.parametrize("number", NO_LINKS)
def test_of_many_who_create_a_file_where_there_are_no_links_one_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*names: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    test_of_many_who_create_a_file_one_succeeds_and_the_others_leave_it(tmp_path)
    assert not create_text(tmp_path / "folder" / "file", "late")


def test_a_claim_that_a_killed_process_has_left_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*names: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(files, "_CLAIM_SECONDS", 0.001)
    (tmp_path / ".file.claim.partial").touch()
    assert create_text(tmp_path / "file", "text")
    assert everything_in(tmp_path) == ["file"]


def test_a_link_becomes_a_copy_where_there_are_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "a", "x")
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").samefile(tmp_path / "b")

    def refuse(*names: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    link_or_copy(tmp_path / "a", tmp_path / "c")
    assert (tmp_path / "c").read_text() == "x"


def test_what_dead_processes_left_is_removed_and_what_may_be_wanted_stays(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from luss.files import temporary_beside\n"
        "folder = Path(sys.argv[1])\n"
        "temporary_beside(folder / 'dead').write_text('half'); temporary_beside(folder / 'dead-2', 'w1').write_text('half')\n"
        "temporary_beside(folder / 'folder').mkdir(); (temporary_beside(folder / 'folder') / 'x').touch()\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    left = next(path.name for path in tmp_path.glob(".dead.*"))
    own = temporary_beside(tmp_path / "own")
    elsewhere = tmp_path / left.replace(left.split(".")[2].split("-")[0], "0" * 8)
    # Of an earlier version, whose names say a number alone.
    earlier = tmp_path / ".earlier.1.partial"
    for path in (own, elsewhere, earlier, tmp_path / "product"):
        path.write_text("wanted")
    remove_dead(tmp_path)
    remove_dead(tmp_path / "absent")
    assert everything_in(tmp_path) == sorted([own.name, elsewhere.name, earlier.name, "product"])


def test_what_dead_processes_left_below_a_folder_is_found_where_that_is_asked_for(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from luss.files import temporary_beside\n"
        "temporary_beside(Path(sys.argv[1])).write_text('half')\n"
    )
    (tmp_path / "a" / "b").mkdir(parents=True)
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "a" / "b" / "dead")], check=True)
    remove_dead(tmp_path)
    assert len(everything_in(tmp_path / "a" / "b")) == 1
    remove_dead(tmp_path, "**/*")
    assert everything_in(tmp_path / "a" / "b") == []


@pytest.mark.parametrize("content", ["[]", "null", "3", '"text"', "{}", '{"id": null, "size": 1}', '{"id": "x", "size": "1"}',
                                     '{"id": "x", "size": true}', '{"id": "x", "size": 1'])  # fmt: skip
def test_a_record_of_another_form_is_refused_with_its_file_and_the_remedy(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content, encoding="utf-8")
    with pytest.raises(LussError, match=r"x\.json is (damaged|not valid JSON) .*: mend it"):
        read_record(tmp_path / "x.json", {"id": str, "size": float}, remedy="mend it")


def test_a_record_of_the_right_form_is_read_whatever_else_it_holds(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"id": "x", "size": 1, "more": None})
    fields: dict[str, files.Kind] = {"id": str, "size": float, "more": (str, type(None))}
    assert read_record(tmp_path / "x.json", fields)["size"] == 1


def test_a_checksum_differs_where_one_bit_does(tmp_path: Path) -> None:
    content = bytearray(os.urandom(600_000))
    (tmp_path / "x").write_bytes(content)
    before = checksum(tmp_path / "x")
    assert len(before) == 32
    assert checksum(tmp_path / "x") == before
    content[500_000] ^= 1
    (tmp_path / "x").write_bytes(content)
    assert checksum(tmp_path / "x") != before
