"""The same time for every learner: how fast each pretrains on this machine, and how many epochs its minutes are."""

import copy
import platform
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from luss.data.skipped import SkippedFiles
from luss.device import resolve_device
from luss.progress import Interrupted, StopFlag
from luss.settings import RunSettings
from stages.base import StageContext, fingerprint
from stages.pipeline import PRETRAIN
from stages.running.process import begin_piece
from stages.running.state import States

TEMPORARY = ".calibration-"
"""How the folders of measurements begin, in that of the comparison; a killed one may stay."""

# Of the budget, at least, and at most: seconds that are measured. The warm-up before them is half as long.
_SHARE, _LEAST, _MOST = 0.03, 1.0, 30.0
_LINE_STEPS = 5
_MANY = 10**6
_MEASURED = "measured"


def speed_key(run: RunSettings) -> str:
    """Identity of everything that decides how fast a run pretrains: not its seed, nor how long it does."""
    other = copy.deepcopy(run)
    other.seed, other.pretrain.epochs = 0, 1
    return f"{fingerprint(PRETRAIN, other)}-{run.device}"


def measure(run: RunSettings, minutes: float, folder: Path, stop: StopFlag) -> dict[str, Any]:
    """Pretrains for some seconds and says how many epochs `minutes` are; the manifest of the run is done, nothing of the run is changed.

    Args:
        run: The run.
        minutes: The budget.
        folder: Where a temporary folder may be made.
        stop: Ends the measurement.

    Returns:
        images_per_second; epochs, 1 or more; minutes, those that the epochs will take; machine.

    Raises:
        Interrupted: A stop was asked for.
        LussError: The pretraining cannot be.
    """
    other = copy.deepcopy(run)
    settings = other.pretrain
    settings.epochs = settings.checkpoint_epochs = _MANY
    settings.checkpoint_minutes = float(_MANY)
    settings.log_every = min(settings.log_every, _LINE_STEPS)
    meter = _Meter(min(max(_SHARE * 60 * minutes, _LEAST), _MOST), stop)
    device = resolve_device(run.device)
    begin_piece(run.seed)
    with TemporaryDirectory(prefix=TEMPORARY, dir=folder) as temporary:
        place = replace(States(run).place(PRETRAIN, stop), run=other, folder=Path(temporary) / PRETRAIN.name)
        skipped = SkippedFiles(Path(temporary) / "skipped.csv")
        place.folder.mkdir()
        try:
            PRETRAIN.run(StageContext(**vars(place), device=device, reporter=meter, skipped=skipped))
        except Interrupted:
            if stop.reason != _MEASURED:
                raise
            stop.set("")
    rate = meter.steps_per_second * settings.batch_size
    an_epoch = meter.total / _MANY * settings.batch_size / rate
    epochs = max(1, round(60 * minutes / an_epoch))
    return {
        "images_per_second": round(rate, 2),
        "epochs": epochs,
        "minutes": round(epochs * an_epoch / 60, 2),
        "machine": f"{platform.node()} ({device.type})",
    }


class _Meter:
    """A reporter that takes times at the lines of the log and asks for a stop when it has enough of them."""

    def __init__(self, seconds: float, stop: StopFlag) -> None:
        self.seconds, self.stop = seconds, stop
        self.total = 0
        self.steps_per_second = 0.0
        self._began = time.perf_counter()
        self._first: tuple[float, float] | None = None

    def start(self, unit: str, total: int, done: int) -> None:
        self.total = total

    def advance(self, done: int, **figures: float) -> None:
        """Times are taken where the figures are on this side of the device."""

    def metrics(self, values: Mapping[str, float]) -> None:
        now, step = time.perf_counter(), values["step"]
        if self._first is None:
            # The first step sets up what the others have.
            if step > 0 and now - self._began >= self.seconds / 2:
                self._first = step, now
        elif now - self._first[1] >= self.seconds:
            self.steps_per_second = (step - self._first[0]) / (now - self._first[1])
            # A reason that is there already is a person's.
            if not self.stop.reason:
                self.stop.set(_MEASURED)

    def rewind(self, step: int) -> None:
        """There is no log."""

    def message(self, text: str) -> None:
        """The real training says it again."""

    def warn(self, text: str) -> None:
        """The real training says it again."""
