"""Who works on what: one process at a time on a run's folder, and on each shard of a stage.

A lock is a file in the run's folder that names its owner's host and process; the owner touches it while it lives. It is not kept inside a
stage's folder, which is moved aside when its result is stale.

    .lock                        somebody runs stages (`run_stages`)
    .lock.STAGE                  somebody runs this sharded stage: no shard may begin
    .lock.STAGE.shard-00003      somebody makes this shard: the stage may neither be run nor moved aside
    .lock.submission             somebody submits jobs (`luss submit`)
    .lock.listing                somebody lists the images of a split; others wait
"""

import contextlib
import fcntl
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import psutil

from luss.errors import LussError
from luss.files import TEMPORARY_SUFFIX, create_text
from luss.progress import StopFlag

_HEARTBEAT_SECONDS = 20.0
# A lock of another host counts as dead when its owner has not touched it for this long.
_DEAD_AFTER_SECONDS = 180.0
_POLL_SECONDS = 0.2

Waiting = Literal["never", "for the dead", "for the end"]
"""What to do about an owner: refuse at once; refuse unless it may be dead, which for another host only time tells; wait for its end."""


def run_lock(
    folder: Path, *, waiting: Waiting = "never", stop: StopFlag | None = None
) -> contextlib.AbstractContextManager[None]:
    """Holds a run for the stages to be run one after the other.

    Args:
        folder: The run's folder; made when absent.
        waiting: "for the dead" is for jobs that a scheduler starts again on another machine.
        stop: Ends the waiting.

    Raises:
        LussError: Another living process holds it; names its host and pid.
        Interrupted: `stop` was set while waiting.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"..lock*{TEMPORARY_SUFFIX}"):
        _remove_old(left)
    return _lock(folder / ".lock", f"the run {folder} is in use", waiting, stop)


def submission_lock(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Holds the submission of a run's jobs, which may happen while one of them works.

    Raises:
        LussError: Another living process submits jobs of the run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return _lock(folder / ".lock.submission", f"jobs of {folder} are being submitted", "never", None)


@contextlib.contextmanager
def stage_lock(folder: Path, stage: str) -> Iterator[None]:
    """Holds a sharded stage against those who make its shards.

    Raises:
        LussError: A living process makes one of its shards, or holds the stage.
    """
    with _lock(folder / f".lock.{stage}", f"{stage} in {folder} is being run", "never", None):
        # After taking the lock, as they look for it after taking theirs: of two who meet, at least one sees the other.
        refuse_living_shards(folder, stage)
        yield


@contextlib.contextmanager
def shard_lock(folder: Path, stage: str, shard: int, *, stop: StopFlag | None = None) -> Iterator[None]:
    """Holds one shard of a stage. A lock left by a dead process on another machine is waited for.

    Raises:
        LussError: Another living process makes this shard, or runs the whole stage.
        Interrupted: `stop` was set while waiting.
    """
    what = f"shard {shard} of {stage} in {folder} is being made"
    with _lock(folder / f"{_shard_prefix(stage)}{shard:05d}", what, "for the dead", stop):
        if owner := _living_owner(folder / f".lock.{stage}"):
            raise _held(f"{stage} in {folder} is being run", owner)
        yield


def listing_lock(folder: Path, *, stop: StopFlag | None = None) -> contextlib.AbstractContextManager[None]:
    """Holds the listing of the splits of a run; waits while another process lists.

    Raises:
        Interrupted: `stop` was set while waiting.
    """
    return _lock(folder / ".lock.listing", f"images are being listed in {folder}", "for the end", stop)


def living_shards(folder: Path, stage: str) -> list[int]:
    """The shards of a stage that living processes make at this moment, ascending."""
    return sorted(shard for shard, _ in _living_shards(folder, stage))


def refuse_living_shards(folder: Path, stage: str) -> None:
    """Makes sure that nobody makes a shard of a stage.

    Raises:
        LussError: Somebody does; names shard, host and pid.
    """
    for shard, owner in _living_shards(folder, stage):
        raise _held(f"shard {shard} of {stage} in {folder} is being made", owner)


def remove_dead_shard_locks(folder: Path, stage: str) -> None:
    """Removes the locks of shards whose makers were killed."""
    for path in folder.glob(f"{_shard_prefix(stage)}*"):
        if _living_owner(path) is None:
            _remove_dead(path)


def _shard_prefix(stage: str) -> str:
    return f".lock.{stage}.shard-"


def _living_shards(folder: Path, stage: str) -> Iterator[tuple[int, dict[str, object]]]:
    for path in folder.glob(f"{_shard_prefix(stage)}*"):
        number = re.fullmatch(r"\d+", path.name.removeprefix(_shard_prefix(stage)))
        if number and (owner := _living_owner(path)):
            yield int(number[0]), owner


@contextlib.contextmanager
def _lock(path: Path, what: str, waiting: Waiting, stop: StopFlag | None) -> Iterator[None]:
    """Holds a lock file. One left by a dead process is taken over: on the same host at once, from another host when its heart has stopped."""
    own = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()})
    first_beat = _beat_of(path)
    while not create_text(path, own):
        owner = _living_owner(path)
        if owner is None:
            _remove_dead(path)
            continue
        may_be_dead = owner["host"] != socket.gethostname() and _beat_of(path) == first_beat
        if waiting == "never" or (waiting == "for the dead" and not may_be_dead):
            raise _held(what, owner)
        if stop is not None:
            stop.check()
        time.sleep(_POLL_SECONDS)
    done = threading.Event()
    threading.Thread(target=_beat, args=(path, own, done), daemon=True).start()
    try:
        yield
    finally:
        done.set()
        if _content(path) == own:
            path.unlink(missing_ok=True)


def _held(what: str, owner: dict[str, object]) -> LussError:
    return LussError(
        f"{what} by process {owner['pid']} on {owner['host']}: wait for it, or stop it "
        f"(kill {owner['pid']}); it continues where it was when started again"
    )


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _beat_of(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _living_owner(path: Path) -> dict[str, object] | None:
    try:
        age = time.time() - path.stat().st_mtime
        owner: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
        owner = {key: owner[key] for key in ("host", "pid", "started")}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if owner.get("host") != socket.gethostname():
        return owner if age < _DEAD_AFTER_SECONDS else None
    try:
        process = psutil.Process(int(str(owner["pid"])))
        # A pid can be used again by another program: its start time tells.
        alive = (
            abs(process.create_time() - float(str(owner["started"]))) < 2 and process.status() != psutil.STATUS_ZOMBIE
        )
    except (psutil.Error, ValueError):
        return None
    return owner if alive else None


def _remove_dead(path: Path) -> None:
    """Removes a lock without a living owner; the guard keeps a second taker from removing the first one's new lock."""
    with open(path.with_name(".lock.guard"), "w", encoding="utf-8") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if _living_owner(path) is None:
            path.unlink(missing_ok=True)


def _remove_old(left: Path) -> None:
    """Removes what a process left that was killed while it took a lock, which takes no minute."""
    with contextlib.suppress(OSError):
        if time.time() - left.stat().st_mtime > _DEAD_AFTER_SECONDS:
            left.unlink()


def _beat(path: Path, own: str, done: threading.Event) -> None:
    while not done.wait(_HEARTBEAT_SECONDS):
        # Not the lock of one who has taken it over.
        if _content(path) != own:
            return
        with contextlib.suppress(OSError):
            os.utime(path)
