"""One process at a time on a run's folder."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from filelock import OwnerRecord, SoftFileLease
from filelock._identity import host_name, process_start_token
from filelock._marker import encode_marker
from running import Launcher

from luss.errors import LussError
from luss.progress import Interrupted, StopFlag
from stages.running import lock
from stages.running.lock import listing_lock, living_shards, run_lock, shard_lock, stage_lock


def write_lock(folder: Path, *, host: str, pid: int, start: int = 0, age: float = 0.0, name: str = ".lock") -> None:
    """Puts a lock in the place of another, as its owner would have made it."""
    folder.mkdir(parents=True, exist_ok=True)
    record = OwnerRecord(pid=pid, hostname=host, mode="lease", token="0", lease_duration=120.0, start=start)
    (folder / "new").write_bytes(encode_marker(record))
    touched = time.time() - age
    os.utime(folder / "new", (touched, touched))
    (folder / "new").rename(folder / name)


def owner(folder: Path) -> int | None:
    return SoftFileLease(folder / ".lock").pid


def own_start(pid: int | None = None) -> int:
    return process_start_token(pid or os.getpid()) or 0


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five looks without a beat are silence."""
    monkeypatch.setattr(lock, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(lock, "_SILENCE_SECONDS", 0.05)
    monkeypatch.setattr(lock, "_NAMELESS_SECONDS", 0.05)
    monkeypatch.setattr(lock, "_BEAT_SECONDS", 0.01)


@pytest.fixture
def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_second_process_is_refused_with_the_host_and_the_pid_of_the_first(
    luss: Launcher, config: Path, finished: Path
) -> None:
    with run_lock(finished):
        outcome = luss("run", str(config), f"output={finished}")
    assert outcome.code == 2
    assert f"is in use by process {os.getpid()} on {socket.gethostname()}" in outcome.output
    assert luss("run", str(config), f"output={finished}").code == 0


def test_looking_at_a_run_is_allowed_while_it_is_held(luss: Launcher, config: Path, finished: Path) -> None:
    with run_lock(finished):
        assert luss("status", str(finished)).code == 0
        assert luss("run", str(config), f"output={finished}", "--dry-run").code == 0


def test_a_lock_is_gone_when_its_owner_is_done_and_also_when_it_fails(tmp_path: Path) -> None:
    with run_lock(tmp_path):
        assert owner(tmp_path) == os.getpid()
    assert not (tmp_path / ".lock").exists()
    with pytest.raises(KeyError), run_lock(tmp_path):
        raise KeyError
    assert not (tmp_path / ".lock").exists()


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path, dead_pid: int) -> None:
    write_lock(tmp_path, host=host_name(), pid=dead_pid, start=own_start())
    with run_lock(tmp_path):
        assert owner(tmp_path) == os.getpid()
    assert not list(tmp_path.iterdir())


def test_a_pid_that_another_program_uses_by_now_does_not_hold_the_lock(tmp_path: Path) -> None:
    write_lock(tmp_path, host=host_name(), pid=os.getpid(), start=own_start() - 1000)
    with run_lock(tmp_path):
        held = SoftFileLease(tmp_path / ".lock").owner
        assert held is not None
        assert held.start == own_start()


def test_a_process_that_ended_but_was_not_collected_does_not_hold_the_lock(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    write_lock(tmp_path, host=host_name(), pid=process.pid, start=own_start(process.pid))
    with pytest.raises(LussError, match=rf"is in use .* stop it \(kill {process.pid}\)"), run_lock(tmp_path):
        pass
    process.kill()
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    with run_lock(tmp_path):
        assert owner(tmp_path) == os.getpid()
    process.communicate()


# The same name on another machine or after another start of this one; the same machine from inside another container.
@pytest.mark.parametrize(("mark", "boot"), [("", 1), ("?pidns-f0000123", 0)])
def test_a_process_that_this_one_cannot_see_is_not_believed_dead(
    tmp_path: Path, dead_pid: int, mark: str, boot: int
) -> None:
    write_lock(tmp_path, host=host_name() + mark, pid=dead_pid, start=own_start() + (boot << 64))
    said = f"by process {dead_pid} on {socket.gethostname()}: wait for it, or stop it there"
    with pytest.raises(LussError, match=said) as raised, run_lock(tmp_path):
        pass
    assert "kill" not in str(raised.value)
    assert owner(tmp_path) == dead_pid


def test_another_host_holds_its_lock_while_its_heartbeat_is_fresh(tmp_path: Path) -> None:
    write_lock(tmp_path, host="elsewhere", pid=17, age=60)
    said = "is in use by process 17 on elsewhere: .* try again in 2 min: its lock is then taken over"
    with pytest.raises(LussError, match=said), run_lock(tmp_path):
        pass
    assert owner(tmp_path) == 17


# A day in the future: by a clock that is wrong.
@pytest.mark.parametrize("age", [600, -86400])
def test_another_host_loses_its_lock_when_no_beat_of_its_heart_is_seen(tmp_path: Path, short: None, age: float) -> None:
    write_lock(tmp_path, host="elsewhere", pid=17, age=age)
    with run_lock(tmp_path):
        assert owner(tmp_path) == os.getpid()


@pytest.mark.parametrize("waiting", ["never", "for the dead"])
def test_a_living_run_keeps_its_lock_however_wrong_its_clock_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waiting: lock.Waiting
) -> None:
    write_lock(tmp_path, host="elsewhere", pid=17, age=600)
    # The other's heart beats while this process waits for the first time.
    late = time.time() - 580
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: os.utime(tmp_path / ".lock", (late, late)))
    with pytest.raises(LussError, match="is in use by process 17 on elsewhere"), run_lock(tmp_path, waiting=waiting):
        pass
    assert owner(tmp_path) == 17


def test_the_heart_beats_while_the_lock_is_held(tmp_path: Path, short: None) -> None:
    with run_lock(tmp_path):
        os.utime(tmp_path / ".lock", (0, 0))
        limit = time.monotonic() + 30
        while (tmp_path / ".lock").stat().st_mtime == 0:
            assert time.monotonic() < limit
            time.sleep(0.01)


@pytest.mark.parametrize("content", ["", "{", "filelock/2\npid=17\n"])
def test_a_lock_that_names_nobody_for_some_time_is_nobodys(tmp_path: Path, short: None, content: str) -> None:
    (tmp_path / ".lock").write_text(content, encoding="utf-8")
    with run_lock(tmp_path):
        assert owner(tmp_path) == os.getpid()


def test_a_lock_that_is_being_written_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".lock").touch()
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: write_lock(tmp_path, host="elsewhere", pid=17))
    with pytest.raises(LussError, match="process 17 on elsewhere"), run_lock(tmp_path):
        pass


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with (
        pytest.raises(LussError, match=r"\.lock cannot be made .*: move away what is in its place"),
        run_lock(tmp_path),
    ):
        pass


def test_a_lock_that_was_taken_over_is_not_removed_by_its_old_owner(tmp_path: Path) -> None:
    with run_lock(tmp_path):
        write_lock(tmp_path, host="elsewhere", pid=17)
    assert owner(tmp_path) == 17


def test_who_takes_a_dead_ones_lock_too_late_leaves_the_new_owner_its_own(tmp_path: Path, dead_pid: int) -> None:
    write_lock(tmp_path, host=host_name(), pid=dead_pid, start=own_start())
    late = lock._Watch(tmp_path / ".lock")
    assert late.look() == "dead"
    with run_lock(tmp_path):
        late.remove()
        assert owner(tmp_path) == os.getpid()


def test_of_many_that_find_a_lock_dead_one_holds_it_at_a_time(tmp_path: Path, dead_pid: int) -> None:
    write_lock(tmp_path, host=host_name(), pid=dead_pid, start=own_start())
    code = """
import os, sys, time
from pathlib import Path
from stages.running.lock import listing_lock
folder = Path(sys.argv[1])
for _ in range(20):
    with listing_lock(folder):
        (folder / "held").touch(exist_ok=False)
        (folder / "held").unlink()
"""
    (tmp_path / ".lock").rename(tmp_path / ".lock.listing")
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]


def test_a_job_waits_for_the_lock_that_a_dead_machine_has_left(tmp_path: Path, short: None) -> None:
    write_lock(tmp_path, host="elsewhere", pid=17)
    with run_lock(tmp_path, waiting="for the dead"):
        assert owner(tmp_path) == os.getpid()


def test_a_job_that_waits_for_a_lock_can_be_stopped(tmp_path: Path) -> None:
    write_lock(tmp_path, host="elsewhere", pid=17)
    stop = StopFlag()
    stop.set("SIGTERM received")
    with pytest.raises(Interrupted, match="SIGTERM"), run_lock(tmp_path, waiting="for the dead", stop=stop):
        pass
    assert owner(tmp_path) == 17


def test_who_lists_images_is_waited_for(tmp_path: Path) -> None:
    order = []
    began = threading.Event()

    def first() -> None:
        with listing_lock(tmp_path):
            began.set()
            time.sleep(0.05)
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    began.wait()
    with listing_lock(tmp_path):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


def test_shards_exclude_each_other_one_by_one_and_the_whole_stage(tmp_path: Path) -> None:
    with shard_lock(tmp_path, "predict", 3), shard_lock(tmp_path, "predict", 12):
        assert living_shards(tmp_path, "predict") == [3, 12]
        assert living_shards(tmp_path, "pseudo_labels") == []
        with (
            pytest.raises(LussError, match=r"shard 3 of predict in .* is being made"),
            shard_lock(tmp_path, "predict", 3),
        ):
            pass
        with (
            pytest.raises(LussError, match=r"shard (3|12) of predict in .* is being made"),
            stage_lock(tmp_path, "predict"),
        ):
            pass
        with stage_lock(tmp_path, "pseudo_labels"):
            pass
    assert living_shards(tmp_path, "predict") == []
    with stage_lock(tmp_path, "predict"):
        with pytest.raises(LussError, match=r"predict in .* is being run"), shard_lock(tmp_path, "predict", 3):
            pass
        with shard_lock(tmp_path, "pseudo_labels", 3):
            pass
    assert not list(tmp_path.glob(".lock*"))


def test_the_dead_hold_neither_a_shard_nor_the_stage(tmp_path: Path, dead_pid: int) -> None:
    dead = {"host": host_name(), "pid": dead_pid, "start": own_start()}
    write_lock(tmp_path, **dead, name=".lock.predict.shard-00003")
    assert living_shards(tmp_path, "predict") == []
    with stage_lock(tmp_path, "predict"):
        pass
    write_lock(tmp_path, **dead, name=".lock.predict")
    with shard_lock(tmp_path, "predict", 3):
        assert living_shards(tmp_path, "predict") == [3]
    assert not list(tmp_path.iterdir())


def test_shards_of_a_dead_machine_are_waited_for_together(tmp_path: Path, short: None) -> None:
    for shard in range(20):
        write_lock(tmp_path, host="elsewhere", pid=17, age=600, name=f".lock.predict.shard-{shard:05d}")
    began = time.monotonic()
    with stage_lock(tmp_path, "predict"):
        assert time.monotonic() - began < 5
        assert [path.name for path in tmp_path.iterdir()] == [".lock.predict"]
