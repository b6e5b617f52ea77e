"""One process at a time on a run's folder."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from running import Launcher

from luss.errors import LussError
from stages import lock
from stages.lock import run_lock


def write_lock(folder: Path, *, host: str, pid: int, started: float = 0.0, age: float = 0.0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".lock").write_text(json.dumps({"host": host, "pid": pid, "started": started}), encoding="utf-8")
    touched = time.time() - age
    os.utime(folder / ".lock", (touched, touched))


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
