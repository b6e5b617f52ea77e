"""Stops a process in the middle of a training step until a test lets it go on.

Python imports this module when it starts and its folder is on PYTHONPATH. With LUSS_GATE set, a process that is about to read its 25th
picture writes GATE.START.RANK.waiting and waits for GATE.START; START counts how often the scheduler has started the job again.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

_PICTURES = 25
_LIMIT_SECONDS = 300.0


def _install(gate: str) -> None:
    start = os.environ.get("SLURM_RESTART_COUNT", "0") or "0"
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event != "open" or not str(arguments[0]).endswith((".jpg", ".png")):
            return
        seen += 1
        if seen != _PICTURES:
            return
        Path(f"{gate}.{start}.{os.environ['SLURM_PROCID']}.waiting").write_text(str(os.getpid()))
        end = time.monotonic() + _LIMIT_SECONDS
        while not Path(f"{gate}.{start}").exists() and time.monotonic() < end:
            time.sleep(0.05)

    sys.addaudithook(hook)


if os.environ.get("LUSS_GATE") and "SLURM_PROCID" in os.environ:
    _install(os.environ["LUSS_GATE"])
