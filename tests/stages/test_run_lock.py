"""One process at a time on a run's folder."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from running import Launcher

from luss.errors import LussError
from luss.progress import Interrupted, StopFlag
from stages.running import lock
from stages.running.lock import listing_lock, living_shards, run_lock, shard_lock, stage_lock


def write_lock(
    folder: Path, *, host: str, pid: int, started: float = 0.0, age: float = 0.0, name: str = ".lock"
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps({"host": host, "pid": pid, "started": started}), encoding="utf-8")
    touched = time.time() - age
    os.utime(folder / name, (touched, touched))


def owner(folder: Path) -> int:
    return int(json.loads((folder / ".lock").read_text(encoding="utf-8"))["pid"])


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
    write_lock(tmp_path, host=socket.gethostname(), pid=dead_pid, started=time.time())
    with run_lock(tmp_path):
        assert owner(tmp_path) == os.getpid()


def test_a_pid_that_another_program_uses_by_now_does_not_hold_the_lock(tmp_path: Path) -> None:
    write_lock(tmp_path, host=socket.gethostname(), pid=os.getpid(), started=psutil.Process().create_time() - 1000)
    with run_lock(tmp_path):
        assert (
            abs(
                json.loads((tmp_path / ".lock").read_text(encoding="utf-8"))["started"] - psutil.Process().create_time()
            )
            < 1
        )


def test_a_process_that_ended_but_was_not_collected_does_not_hold_the_lock(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = psutil.Process(process.pid).create_time()
    write_lock(tmp_path, host=socket.gethostname(), pid=process.pid, started=started)
    with pytest.raises(LussError, match="is in use"), run_lock(tmp_path):
        pass
    process.kill()
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    with run_lock(tmp_path):
        assert owner(tmp_path) == os.getpid()
    process.communicate()


def test_another_host_holds_its_lock_while_its_heartbeat_is_fresh(tmp_path: Path) -> None:
    write_lock(tmp_path, host="elsewhere", pid=17, age=60)
    with pytest.raises(LussError, match="is in use by process 17 on elsewhere"), run_lock(tmp_path):
        pass
    assert owner(tmp_path) == 17


def test_another_host_loses_its_lock_when_its_heartbeat_has_stopped(tmp_path: Path) -> None:
    write_lock(tmp_path, host="elsewhere", pid=17, age=600)
    with run_lock(tmp_path):
        assert owner(tmp_path) == os.getpid()


def test_the_heart_beats_while_the_lock_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_HEARTBEAT_SECONDS", 0.01)
    with run_lock(tmp_path):
        os.utime(tmp_path / ".lock", (0, 0))
        limit = time.monotonic() + 30
        while (tmp_path / ".lock").stat().st_mtime == 0:
            assert time.monotonic() < limit
            time.sleep(0.01)


@pytest.mark.parametrize("content", ["", "{", "[]", "17", '{"host": "elsewhere"}'])
def test_a_lock_that_cannot_be_read_is_nobodys(tmp_path: Path, content: str) -> None:
    (tmp_path / ".lock").write_text(content, encoding="utf-8")
    with run_lock(tmp_path):
        assert owner(tmp_path) == os.getpid()


def test_a_lock_that_was_taken_over_is_not_removed_by_its_old_owner(tmp_path: Path) -> None:
    with run_lock(tmp_path):
        write_lock(tmp_path, host="elsewhere", pid=17)
    assert owner(tmp_path) == 17


def test_a_job_waits_for_the_lock_that_a_dead_machine_has_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lock(tmp_path, host="elsewhere", pid=17, age=60)
    monkeypatch.setattr(lock, "_DEAD_AFTER_SECONDS", 60.5)
    with run_lock(tmp_path, waiting="for the dead"):
        assert owner(tmp_path) == os.getpid()


def test_a_job_is_refused_when_the_other_machine_shows_that_it_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lock(tmp_path, host="elsewhere", pid=17, age=60)
    # The other's heart beats while this process waits for the first time.
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: os.utime(tmp_path / ".lock"))
    with (
        pytest.raises(LussError, match="is in use by process 17 on elsewhere"),
        run_lock(tmp_path, waiting="for the dead"),
    ):
        pass


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
    host = socket.gethostname()
    write_lock(tmp_path, host=host, pid=dead_pid, started=time.time(), name=".lock.predict.shard-00003")
    assert living_shards(tmp_path, "predict") == []
    with stage_lock(tmp_path, "predict"):
        pass
    write_lock(tmp_path, host=host, pid=dead_pid, started=time.time(), name=".lock.predict")
    with shard_lock(tmp_path, "predict", 3):
        assert living_shards(tmp_path, "predict") == [3]


def test_a_heart_that_lost_its_lock_stops_beating(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_HEARTBEAT_SECONDS", 0.01)
    with run_lock(tmp_path):
        write_lock(tmp_path, host="elsewhere", pid=17)
        time.sleep(0.05)
        os.utime(tmp_path / ".lock", (1, 1))
        time.sleep(0.05)
        assert (tmp_path / ".lock").stat().st_mtime == 1
