"""One process at a time on a run's folder."""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from luss.errors import LussError

_HEARTBEAT_SECONDS = 20.0
# A lock of another host counts as dead when its owner has not touched it for this long.
_DEAD_AFTER_SECONDS = 180.0


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Holds `<folder>/.lock`, with this host and process in it, and touches it while it is held.

    A lock left by a dead process is taken over: on the same host at once, from another host when its heartbeat has stopped.

    Raises:
        LussError: Another living process holds it; names its host and pid.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    own = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()})
    while not _try_create(path, own):
        owner = _living_owner(path)
        if owner:
            raise LussError(
                f"the run {folder} is in use by process {owner['pid']} on {owner['host']}: wait for it, or stop it "
                f"(kill {owner['pid']}); it continues where it was when started again"
            )
        _remove_dead(path)
    done = threading.Event()
    threading.Thread(target=_beat, args=(path, done), daemon=True).start()
    try:
        yield
    finally:
        done.set()
        with contextlib.suppress(OSError):
            if path.read_text(encoding="utf-8") == own:
                path.unlink()


def _try_create(path: Path, content: str) -> bool:
    # Linking a finished file is atomic and never shows an empty lock, on NFS too.
    temporary = path.with_name(f".lock.{socket.gethostname()}.{os.getpid()}")
    temporary.write_text(content, encoding="utf-8")
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


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


def _beat(path: Path, done: threading.Event) -> None:
    while not done.wait(_HEARTBEAT_SECONDS):
        with contextlib.suppress(OSError):
            os.utime(path)
