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
import re
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from filelock import OwnerRecord, SoftFileLease, Timeout

from luss.errors import LussError
from luss.files import temporary_beside
from luss.liveness import lives
from luss.progress import StopFlag
from luss.refusals import refuse

_BEAT_SECONDS = 20.0
# A lock of another machine whose heart stands still for so long is taken over. The contender counts its own looks: no two clocks are compared,
# and time in which it could not look (a hanging file server, a suspended machine) does not count.
_SILENCE_SECONDS = 120.0
# The same for a lock that names no owner: it is being written, or its maker was killed before it had written its name.
_NAMELESS_SECONDS = 3.0
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
    return _lock(folder / ".lock", f"the run {folder} is in use", waiting, stop)


def submission_lock(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Holds the submission of a run's jobs, which may happen while one of them works.

    Raises:
        LussError: Another living process submits jobs of the run.
    """
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
    with _lock(folder / f".lock.{stage}.shard-{shard:05d}", what, "for the dead", stop):
        for watch in _living([folder / f".lock.{stage}"]).values():
            raise watch.held(f"{stage} in {folder} is being run")
        yield


def listing_lock(folder: Path, *, stop: StopFlag | None = None) -> contextlib.AbstractContextManager[None]:
    """Holds the listing of the splits of a run; waits while another process lists.

    Raises:
        Interrupted: `stop` was set while waiting.
    """
    return _lock(folder / ".lock.listing", f"images are being listed in {folder}", "for the end", stop)


def living_shards(folder: Path, stage: str) -> list[int]:
    """The shards of a stage that living processes make at this moment, ascending."""
    return sorted(shard for path, shard in _shard_locks(folder, stage).items() if _Watch(path).look() == "alive")


def refuse_living_shards(folder: Path, stage: str) -> None:
    """Makes sure that nobody makes a shard of a stage.

    Raises:
        LussError: Somebody does; names shard, host and pid.
    """
    shards = _shard_locks(folder, stage)
    for path, watch in _living(shards).items():
        raise watch.held(f"shard {shards[path]} of {stage} in {folder} is being made")


def remove_dead_shard_locks(folder: Path, stage: str) -> None:
    """Removes the locks of shards whose makers were killed."""
    _living(_shard_locks(folder, stage))


def _shard_locks(folder: Path, stage: str) -> dict[Path, int]:
    """The locks of shards that there are, with the shards' numbers."""
    numbers = {path: path.name.removeprefix(f".lock.{stage}.shard-") for path in folder.glob(f".lock.{stage}.shard-*")}
    return {path: int(number) for path, number in numbers.items() if re.fullmatch(r"\d+", number)}


@contextlib.contextmanager
def _lock(path: Path, what: str, waiting: Waiting, stop: StopFlag | None) -> Iterator[None]:
    """Holds a lock file. One left by a dead process is taken over: on this machine at once, from another when its heart has stopped."""
    lease = _Lease(path, lease_duration=_SILENCE_SECONDS, heartbeat_interval=_BEAT_SECONDS)
    watch = _Watch(path, patient=waiting != "never")
    while not _take(lease, path):
        state = watch.look()
        if state == "dead":
            watch.remove()
        elif state == "alive" and waiting != "for the end":
            raise watch.held(what)
        elif state != "free":
            if stop is not None:
                stop.check()
            time.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        lease.release()


class _Lease(SoftFileLease):
    """A lock file as filelock makes it, keeps it fresh and gives it back; `_Watch` says whose is taken over.

    filelock's own takeover exchanges two names, which NFS and SMB refuse; it believes dead who has this machine's name but runs on
    another, and waits forever for one who was killed before it had written its name.
    """

    def _try_break_stale_lock(self) -> None:
        return


def _take(lease: SoftFileLease, path: Path) -> bool:
    _check_place(path)
    try:
        lease.acquire(blocking=False)
    except Timeout:
        return False
    except OSError as error:
        # Another user's lock, which that user alone may write.
        if isinstance(error, PermissionError) and path.is_file():
            return False
        refuse(error, path)
        raise
    return True


def _check_place(path: Path) -> None:
    if path.is_dir():
        raise LussError(
            f"the lock {path} cannot be made (a folder is there): move away what is in its place and run again"
        )


def _living(paths: Iterable[Path]) -> "dict[Path, _Watch]":
    """Those locks that living processes hold; dead ones' are removed. Where only silence tells, it is waited for."""
    watches = [_Watch(path) for path in paths]
    while "silent" in (states := [watch.look() for watch in watches]) and "alive" not in states:
        time.sleep(_POLL_SECONDS)
    for watch, state in zip(watches, states, strict=True):
        if state == "dead":
            watch.remove()
    return {watch.path: watch for watch, state in zip(watches, states, strict=True) if state == "alive"}


class _Watch:
    """What a process learns of a lock's owner by looking again and again."""

    def __init__(self, path: Path, *, patient: bool = False) -> None:
        self.path, self._patient, self._looks = path, patient, 0
        self._owner: OwnerRecord | None = None
        self._beat: tuple[int, int] | None = None

    def look(self) -> Literal["free", "dead", "silent", "alive"]:
        """Looks once, to be repeated after `_POLL_SECONDS`; "silent" = the owner may live or not.

        Raises:
            LussError: The lock is a folder.
        """
        _check_place(self.path)
        try:
            # Read before its time is asked for: a file server's client then fetches a new one.
            self._owner = SoftFileLease(self.path).owner
            before, self._beat = self._beat, _beat_of(self.path)
        except FileNotFoundError:
            return "free"
        self._looks = self._looks + 1 if self._beat == before else 0
        silent_for = self._looks * _POLL_SECONDS
        if self._owner is None:
            return "dead" if silent_for >= _NAMELESS_SECONDS else "silent"
        if (found := _lives(self._owner)) is not None:
            return "alive" if found else "dead"
        if silent_for >= _SILENCE_SECONDS:
            return "dead"
        # Two clocks are compared only for who does not want to wait, and prove nothing: one that seems long silent is watched.
        seems_fresh = abs(time.time() - self._beat[1] / 1e9) < _SILENCE_SECONDS
        return "alive" if before not in (None, self._beat) or (seems_fresh and not self._patient) else "silent"

    def remove(self) -> None:
        """Removes the lock that was found dead, and no other."""
        # A temporary name: should this process be killed now, the next one removes what it leaves.
        aside = temporary_beside(self.path, uuid.uuid4().hex)
        with contextlib.suppress(FileNotFoundError):
            if _beat_of(self.path) == self._beat:
                # Of several that found it dead, one gets it. Who gets instead what a new owner made at this moment gives it back.
                self.path.rename(aside)
                if _beat_of(aside) == self._beat:
                    aside.unlink()
                else:
                    aside.rename(self.path)

    def held(self, what: str) -> LussError:
        """The refusal that names the owner."""
        assert self._owner is not None
        pid, host = self._owner.pid, self._owner.hostname.partition("?")[0]
        text = f"{what} by process {pid} on {host}: wait for it, or stop it"
        if _lives(self._owner) is not None:
            return LussError(f"{text} (kill {pid}); it continues where it was when started again")
        return LussError(
            f"{text} there; it continues where it was when started again. If it has died without a word, try again in "
            f"{_SILENCE_SECONDS / 60:g} min: its lock is then taken over"
        )


def _beat_of(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def _lives(owner: OwnerRecord) -> bool | None:
    return lives(owner.hostname, owner.pid, owner.start or 0)
