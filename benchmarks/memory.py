"""Resident memory of this process, in MB."""

import contextlib
from pathlib import Path

import psutil


def resident_mb() -> float:
    """What is resident now."""
    return float(psutil.Process().memory_info().rss) / 2**20


def reset_peak() -> None:
    """Makes `peak_mb` begin anew, on Linux."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_mb() -> float:
    """The most that was resident since the last reset; what is resident now where there is no such record."""
    with contextlib.suppress(OSError, IndexError):
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    return resident_mb()
