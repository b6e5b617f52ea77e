"""What keeps worker processes from working, in sentences that name the cause and the remedy. Imports no torch: it may be loaded in every worker."""

import contextlib
import re
import shutil
import signal
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import BrokenExecutor
from multiprocessing.process import BaseProcess

from luss.errors import LussError

_SHARED = "/dev/shm"
# What the systems' and torch's errors say of each cause; torch gives many of them as text alone.
_CAUSES = {
    "shared memory": r"shared memory|\bshm\b|bus error|semaphore|no space left|not implemented|read-only|permission denied|no such file",
    "socket": r"AF_UNIX path too long",
    "files": r"too many open files|ancdata",
    "processes": r"start new thread|temporarily unavailable|cannot allocate memory",
}


@contextlib.contextmanager
def starting_workers(workers: int, setting: str, *, alone: int = 0) -> Iterator[None]:
    """Around the start of processes.

    Args:
        workers: How many.
        setting: What a person sets to change that.
        alone: The value of the setting that needs none.

    Raises:
        LussError: The system refuses; names the cause and the remedy.
    """
    try:
        yield
    except BrokenExecutor:
        # They were started, and one has died since.
        raise
    except (OSError, RuntimeError) as error:
        raise LussError(sentence(str(error), workers, setting, alone)) from error


def sentence(reason: str, workers: int, setting: str, alone: int = 0) -> str:
    """What keeps workers from working, as an error's text tells it, and what helps; the other arguments are those of `starting_workers`."""
    cause = next((cause for cause, words in _CAUSES.items() if re.search(words, reason, re.IGNORECASE)), "")
    fewer = f"or set {setting} to {alone} (now {workers})"
    if cause == "shared memory":
        return (
            f"worker processes cannot use the shared memory {_SHARED}{_shared_size()}, through which they hand over images ({reason}): "
            f"enlarge it (docker run --shm-size=8g; mount -o remount,size=8g {_SHARED}), {fewer}"
        )
    if cause == "socket":
        return f"worker processes cannot open a socket in {tempfile.gettempdir()}, whose name is too long for one: set TMPDIR=/tmp, {fewer}"
    if cause == "files":
        return f"too many files are open to hear from worker processes ({reason}): raise the limit with ulimit -n 4096, {fewer}"
    if cause == "processes":
        return (
            f"the system starts no more processes or threads ({reason}): lower {setting} (now {workers}; {alone} needs none), or raise the limit "
            "(ulimit -u, or that of the container)"
        )
    return f"worker processes cannot hand over what they read ({reason}): set {setting} to {alone} (now {workers})"


def _shared_size() -> str:
    try:
        usage = shutil.disk_usage(_SHARED)
    except OSError:
        return ""
    return f" of {usage.total >> 20} MB"


def obituary(workers: Iterable[BaseProcess], number: int, setting: str) -> str:
    """Why a worker has ended, as its exit code tells."""
    codes = {worker.exitcode for worker in workers}
    if -signal.SIGBUS in codes:
        return sentence("bus error", number, setting)
    if -signal.SIGKILL in codes:
        return (
            f"a worker process that reads images was killed, most often for want of memory: lower {setting} (now {number}) or give the job "
            "more memory, and run the same command again, it continues"
        )
    ended = sorted(code for code in codes if code)
    return (
        f"a worker process that reads images has ended (exit code {', '.join(map(str, ended)) or 'unknown'}; what it printed stands above): "
        f"run the same command again, it continues, or set {setting} to 0 (now {number})"
    )
