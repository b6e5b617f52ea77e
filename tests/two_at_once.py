"""Computes something on one process and on two that belong together.

A script of tests ends with `if __name__ == "__main__": as_process(measure)`; `on_two` starts it twice and calls the same function here.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from luss import processes

Measure = Callable[[Path], dict[str, Any]]


class Results(NamedTuple):
    """What a function gave: alone, and on each of two processes."""

    alone: dict[str, Any]
    together: list[dict[str, Any]]


def on_two(script: Path, measure: Measure, folder: Path) -> Results:
    """Runs `measure` here and, as `script` says, on two processes; all get folders of their own or share one below `folder`."""
    together, alone = folder / "together", folder / "alone"
    together.mkdir()
    alone.mkdir()
    # Helpers lie beside the script, and the package where this process found it.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", str(script), str(together)]
    both = [
        subprocess.Popen([*command, str(rank), "2"], env=environment, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    one = measure(alone)
    errors = [process.communicate(timeout=180)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], "\n".join(errors)
    return Results(one, [torch.load(together / f"{rank}.pt", weights_only=False) for rank in range(2)])


def join(folder: Path, rank: int, world_size: int) -> None:
    """Makes this process, of one thread, one of several that meet in a folder."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=(folder / "rendezvous").as_uri(),
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=120),
    )


def as_process(measure: Measure) -> None:
    """Is one of two processes: `python SCRIPT FOLDER RANK WORLD_SIZE` writes FOLDER/RANK.pt."""
    target, rank, world_size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    join(target, rank, world_size)
    torch.save(measure(target), target / f"{rank}.pt")
    processes.stop()
