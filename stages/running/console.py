"""What a person sees while a stage runs: a progress bar on a terminal, plain lines in a log; and what is kept of it on disk."""

import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from luss.files import keep_lines, write_json
from stages.running.folder import PROGRESS
from stages.running.screen import Console

_PLAIN_SECONDS = 20.0
_HEARTBEAT_SECONDS = 5.0
_HIDDEN = {"code_entropy", "prediction_entropy", "used_prototypes", "feature_rank"}


class ConsoleReporter:
    """Reports one stage to the screen, `log/`, `metrics.jsonl`, `progress.json`, and TensorBoard where it is installed."""

    def __init__(
        self,
        stage: str,
        folder: Path,
        *,
        console: Console | None = None,
        seconds_before: float = 0.0,
        quiet: bool = False,
        progress: Path | None = None,
    ) -> None:
        """Begins the log.

        Args:
            stage: Its name, for the screen.
            folder: The stage's folder.
            console: Where to print; None = standard output.
            seconds_before: Work time of earlier tries.
            quiet: Write nothing at all, as on all ranks but the first.
            progress: Where the position is kept; None = `progress.json` in the folder.
        """
        self.stage, self.folder, self.quiet = stage, folder, quiet
        self.progress = progress or folder / PROGRESS
        self.console = console or Console()
        self.began = time.monotonic() - seconds_before
        self.unit, self.total, self.done = "", 0, 0
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._log: IO[str] | None = None
        self._board: Any = None
        self._last_plain = self._last_heartbeat = 0.0
        self._first_done, self._first_time = 0, time.monotonic()
        if not quiet:
            (folder / "log").mkdir(parents=True, exist_ok=True)
            # Processes of other machines may have the same number.
            name = f"{time.strftime('%Y%m%d-%H%M%S')}-{socket.gethostname()}-{os.getpid()}.log"
            self._log = open(folder / "log" / name, "a", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115  (lives with the reporter)

    def seconds(self) -> float:
        """Work time so far, earlier tries included."""
        return time.monotonic() - self.began

    def start(self, unit: str, total: int, done: int) -> None:
        """A piece of work begins; see `luss.progress.Reporter`."""
        self._stop_bar()
        self.unit, self.total, self.done = unit, total, done
        self._first_done, self._first_time = done, time.monotonic()
        if not self.quiet and self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}", markup=False), console=self.console,
            )  # fmt: skip
            self._task = self._bar.add_task(self.stage, total=total, completed=done, figures="")
            self._bar.start()
        self._heartbeat(force=True)

    def advance(self, done: int, **figures: float) -> None:
        """`done` units are finished now."""
        self.done = done
        text = _figures(figures)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, figures=text)
        now = time.monotonic()
        if now - self._last_plain >= _PLAIN_SECONDS or done == self.total:
            self._last_plain = now
            rate = (done - self._first_done) / max(now - self._first_time, 1e-9)
            left = f", {duration((self.total - done) / rate)} left" if rate > 0 and done < self.total else ""
            line = f"{self.stage}: {self.unit} {done} of {self.total}{left}{', ' + text if text else ''}"
            self._write(line, screen=self._bar is None)
        self._heartbeat()

    def metrics(self, values: Mapping[str, float]) -> None:
        """One line of `metrics.jsonl`, and of TensorBoard."""
        if self.quiet:
            return
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(dict(values)) + "\n")
        if "step" in values:
            self._tensorboard(values)

    def _tensorboard(self, values: Mapping[str, float]) -> None:
        if self._board is None:
            try:
                from torch.utils.tensorboard import SummaryWriter

                self._board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=int(values["step"]))
            # It takes no folder whose name is not UTF-8.
            except (ImportError, UnicodeEncodeError):
                self._board = False
        if self._board:
            for name, value in values.items():
                if name not in ("step", "epoch"):
                    self._board.add_scalar(name, value, int(values["step"]))

    def rewind(self, step: int) -> None:
        """Drops metric lines from `step` on (written after the checkpoint that is continued), and a half-written last line."""
        if not self.quiet:
            keep_lines(self.folder / "metrics.jsonl", lambda line: line.get("step", -1) < step)

    def message(self, text: str) -> None:
        """A line for the screen and the log."""
        self._write(text, screen=True)

    def warn(self, text: str) -> None:
        """A line that stands out."""
        self._write(f"warning: {text}", screen=True, style="yellow")

    def close(self) -> None:
        """Ends bars and files."""
        self._stop_bar()
        self._heartbeat(force=True)
        if self._log is not None:
            self._log.close()
            self._log = None
        if self._board:
            self._board.close()

    def _stop_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None

    def _write(self, line: str, *, screen: bool, style: str = "") -> None:
        if self.quiet:
            return
        if self._log is not None:
            self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
        if screen:
            self.console.print(line, style=style or None)

    def _heartbeat(self, *, force: bool = False) -> None:
        now = time.monotonic()
        if self.quiet or not self.total or (not force and now - self._last_heartbeat < _HEARTBEAT_SECONDS):
            return
        self._last_heartbeat = now
        record = {"unit": self.unit, "done": self.done, "total": self.total}
        write_json(self.progress, record | {"seconds": round(self.seconds(), 1), "updated": time.time()})


def _figures(figures: Mapping[str, float]) -> str:
    parts = []
    for name, value in figures.items():
        if name == "images_per_second":
            parts.append(f"{value:.0f} images/s")
        elif name == "data_wait":
            parts.append(f"{100 * value:.0f} % waiting for data")
        elif name not in _HIDDEN:
            parts.append(f"{name} {value:.3f}")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Seconds as 45 s, 12 min or 3 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
