"""What one piece of work finds in its process: a fresh start of every random generator, and of the measured memory."""

import contextlib
import random
from pathlib import Path

import numpy as np
import psutil
import torch


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
