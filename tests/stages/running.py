"""Starting `luss` in processes of its own, and ending them at chosen moments.

The processes are forked from a server that has imported everything, which saves some four seconds a start. A fault strikes at an event
that Python announces (`sys.audit`), so that a test kills at the same instruction every time, however slow the machine is.
"""

import contextlib
import hashlib
import json
import multiprocessing
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGCONT, SIGKILL, Signals
from typing import Any, Literal

import h5py
import numpy as np
import psutil
from fork_server import CONTEXT, start_server

from stages.pipeline import PROTOCOLS

ORDER = [stage.name for stage in PROTOCOLS["unsupervised"].stages]
TIMEOUT_SECONDS = 300.0
Screen = Literal["file", "ended pipe", "closed terminal", "full disk"]
"""Where standard output goes: all but a file refuse it."""
# Where the time went, which no two runs share.
_TIMINGS = ("images_per_second", "data_wait")


@dataclass(frozen=True)
class Fault:
    """What happens to a process when it is about to rename, open or link a file.

    Attributes:
        event: Name of the audit event: "os.rename" (raised before a finished temporary file gets its name), "open", "os.link". "writing" is
            everything that changes a disk.
        path: What the path of the file contains; of the new name for a rename.
        count: At which of such events, from 1.
        signal: Sent to the process itself. None: from then on the disk is full.
        refusal: In place of all that: number of the error with which every such event is refused.
    """

    event: str
    path: str
    count: int = 1
    signal: Signals | None = SIGKILL
    refusal: int = 0


@dataclass(frozen=True)
class Outcome:
    """How a process ended: its exit code (-9 when killed) and what it printed."""

    code: int
    output: str


@dataclass
class Launcher:
    """Runs `luss` in processes of its own; their output goes to files in `folder`."""

    folder: Path
    started: int = field(default=0)

    def __call__(self, *arguments: str, fault: Fault | None = None, screen: Screen = "file") -> Outcome:
        """Runs `luss` and waits for its end."""
        return self._wait([self._start(arguments, fault, {}, screen)])[0]

    def together(self, number: int, stage: str, *arguments: str, fault: Fault | None = None) -> list[Outcome]:
        """Runs `python -m stages <stage>` in several processes as torchrun does; the fault strikes the last one."""
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        ranks = [
            {
                "STAGE": stage,
                "RANK": str(rank),
                "WORLD_SIZE": str(number),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
            for rank in range(number)
        ]
        return self._wait([self._start(arguments, fault if rank is ranks[-1] else None, rank) for rank in ranks])

    def side_by_side(self, *starts: tuple[str, Sequence[str]]) -> list[Outcome]:
        """Runs `python -m stages <stage> ARGUMENTS` for each pair at the same time, without any tie between the processes."""
        return self._wait([self._start(arguments, None, {"STAGE": stage}) for stage, arguments in starts])

    def stage(self, stage: str, *arguments: str, fault: Fault | None = None) -> Outcome:
        """Runs `python -m stages <stage>` and waits for its end."""
        return self._wait([self._start(arguments, fault, {"STAGE": stage})])[0]

    @contextlib.contextmanager
    def halted(self, stage: str, *arguments: str, at: Fault) -> Iterator[list[Outcome]]:
        """Runs `python -m stages <stage>` up to a fault whose signal is SIGSTOP; after the block it goes on, and how it ended is in the list."""
        process, log = self._start(arguments, at, {"STAGE": stage})
        outcomes: list[Outcome] = []
        limit = time.monotonic() + TIMEOUT_SECONDS
        try:
            while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
                assert process.is_alive(), log.read_text(encoding="utf-8")
                assert time.monotonic() < limit, f"{at} never came"
                time.sleep(0.005)
            yield outcomes
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, SIGCONT)
            outcomes += self._wait([(process, log)])

    def _start(
        self, arguments: Sequence[str], fault: Fault | None, environment: dict[str, str], screen: Screen = "file"
    ) -> tuple[Any, Path]:
        self.started += 1
        log = self.folder / f"{self.started:03d}.txt"
        process = CONTEXT.Process(target=_child, args=(list(arguments), log, fault, environment, screen))
        start_server()
        process.start()
        return process, log

    def _wait(self, started: list[tuple[Any, Path]]) -> list[Outcome]:
        for process, _ in started:
            process.join(TIMEOUT_SECONDS)
            if process.exitcode is None:
                process.kill()
                process.join()
        return [Outcome(process.exitcode, log.read_text(encoding="utf-8")) for process, log in started]


def _child(
    arguments: Sequence[str], log: Path, fault: Fault | None, environment: dict[str, str], screen: Screen
) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 2)
    os.dup2(descriptor if screen == "file" else _lost_screen(screen), 1)
    os.environ.update(environment)
    # The server hands down its own way of starting processes; loader workers shall start as they do for everybody.
    multiprocessing.set_start_method("fork", force=True)
    from stages.cli import main
    from stages.commands import stage

    if fault is not None:
        _install(fault)
    if "STAGE" in environment:
        sys.exit(stage.main([environment["STAGE"], *arguments]))
    sys.exit(main(arguments))


def _lost_screen(screen: Screen) -> int:
    """A descriptor that refuses what is written."""
    if screen == "full disk":
        return os.open("/dev/full", os.O_WRONLY)
    other, own = os.pipe() if screen == "ended pipe" else os.openpty()
    os.close(other)
    return own


def _install(fault: Fault) -> None:
    process, seen = os.getpid(), 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if fault.event == "writing":
            event = "writing" if _writes(event, arguments) else event
        if event != fault.event or os.getpid() != process:
            return
        if fault.path not in str(arguments[1 if event in ("os.rename", "os.link") else 0]):
            return
        if fault.refusal:
            raise OSError(fault.refusal, os.strerror(fault.refusal), str(arguments[0]))
        seen += 1
        if seen != fault.count:
            return
        if fault.signal is not None:
            os.kill(process, fault.signal)
        else:
            _fill_the_disk()

    sys.addaudithook(hook)


def _writes(event: str, arguments: tuple[Any, ...]) -> bool:
    if event == "open":
        return bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate")


def _fill_the_disk() -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    os.fsync = refuse  # type: ignore[assignment]


def copy_until(finished: Path, folder: Path, stage: str) -> Path:
    """A copy, in a folder, of a finished run without a stage and those after it."""
    run = folder / "run"
    for name in ORDER[: ORDER.index(stage)]:
        shutil.copytree(finished / name, run / name)
    return run


def results(run: Path) -> dict[str, Any]:
    """Everything a run has made, in a form that is equal when the bits are: file name to digest, loss lines, or values."""
    found: dict[str, Any] = {}
    for pattern in (
        "*/*.safetensors",
        "*/*.npy",
        "*/features/*.npy",
        "*/layout/*.npy",
        "*/manifest/*.tsv",
        "predict/masks/**/*.png",
        "*/*.png",
    ):
        for path in run.glob(pattern):
            found[path.relative_to(run).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    for path in run.glob("*/labels/labels.h5"):
        found |= _arrays(path, path.relative_to(run).as_posix())
    for name in ("pretrain", "pixel_attention", "cluster", "finetune"):
        found[f"{name}/metrics"] = losses(run / name)
    for path in [
        *run.glob("evaluate/metrics.json"),
        *run.glob("pseudo_labels/threshold.json"),
        *run.glob("cluster/cluster.json"),
    ]:
        found[path.relative_to(run).as_posix()] = json.loads(path.read_text(encoding="utf-8"))
    return found


def losses(stage: Path) -> list[dict[str, float]]:
    """The lines of a stage's `metrics.jsonl` without timings."""
    path = stage / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [{name: value for name, value in json.loads(line).items() if name not in _TIMINGS} for line in lines]


def _arrays(path: Path, prefix: str) -> dict[str, str]:
    with h5py.File(path, "r") as file:
        return {f"{prefix}:{name}": hashlib.sha256(np.asarray(file[name][:]).astype(bytes if name == "path" else None)).hexdigest()
                for name in file}  # fmt: skip
