"""What one piece of work finds in its process: a fresh start of every random generator, and of the measured memory; files enough to open."""

import contextlib
import random
import resource
from pathlib import Path

import numpy as np
import psutil
import torch

from luss.errors import LussError

# What a process has open, and what each of its loader workers adds: pipes, and a descriptor for every tensor on its way.
_FILES, _FILES_A_WORKER = 32, 16
_ENOUGH_FILES = 1 << 16


def allow_open_files(stage: str, workers: int) -> None:
    """Raises the number of files that this process may have open; a loader worker that may open no more would be waited for without end.

    Raises:
        LussError: The system allows fewer than `stage` with so many workers may need.
    """
    needed = _FILES + _FILES_A_WORKER * workers if workers else 0
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Infinity is a negative number.
    enough = min(hard, _ENOUGH_FILES) if hard >= 0 else _ENOUGH_FILES
    if enough < needed:
        raise LussError(
            f"{stage} with {stage}.workers={workers} may have {needed} files open, but this process may have {hard}: allow more with "
            f"`ulimit -n {needed}`, or lower {stage}.workers"
        )
    if 0 <= soft < enough:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))


def begin_piece(seed: int) -> None:
    """Seeds every generator and forgets the peak of memory."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (libraries may use the global generator)
    torch.manual_seed(seed)
    # Linux resets the high-water mark on this write; elsewhere the figure is that of the whole process.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory_mb() -> int:
    """Peak resident memory of this process since `begin_piece`, in MB."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.split("VmHWM:")[1].split()[0]) // 1024
    except (OSError, IndexError, ValueError):
        return int(psutil.Process().memory_info().rss) >> 20
