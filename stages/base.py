"""What a stage is, what identifies its result, and in which state it is on disk.

A stage's folder holds `config.yaml`, its products, `metrics.jsonl`, `log/`, and `DONE.json`, which is written last. All state is found on
disk. Half a file never counts: products are written to temporary names and renamed (`luss.files`).
"""

import hashlib
import json
import shutil
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from luss.config import changing_settings, to_yaml
from luss.data.skipped import SkippedFiles
from luss.errors import LussError
from luss.files import TEMPORARY_SUFFIX, read_json, write_json, write_text
from luss.progress import Reporter, StopFlag
from luss.settings import RunSettings

DONE = "DONE.json"
STARTED = "STARTED.json"
PROGRESS = "progress.json"
SUPERSEDED = "superseded"
# What a stage needs to go on, and nobody after its end.
CHECKPOINTS = "checkpoints"
_NOT_PRODUCTS = {DONE, STARTED, PROGRESS, "metrics.jsonl", "config.yaml", "log", "tensorboard", CHECKPOINTS, "masks"}
_LIBRARIES = ("luss", "torch", "timm", "numpy", "faiss-cpu", "faiss-gpu", "scikit-learn", "h5py", "pillow")


@dataclass
class StageContext:
    """What a stage works with.

    Attributes:
        run: All settings.
        run_folder: The run's folder.
        folder: The stage's own folder.
        device: Where to compute.
        reporter: Where news go.
        stop: Asked between steps, shards and batches.
        skipped: The stage's list of unreadable images.
    """

    run: RunSettings
    run_folder: Path
    folder: Path
    device: torch.device
    reporter: Reporter
    stop: StopFlag
    skipped: SkippedFiles

    def of(self, stage: str) -> Path:
        """The folder of another stage of the run."""
        return self.run_folder / stage


class Stage(ABC):
    """One job of the pipeline. Subclasses wire library pieces to files."""

    name: ClassVar[str]
    # Raised when the meaning of a product changes: old results become stale.
    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ()
    # Whether the result depends on the run's seed.
    seeded: ClassVar[bool] = False
    # Whether several processes (torchrun) work on it together.
    distributed: ClassVar[bool] = False

    def settings(self, run: RunSettings) -> dict[str, Any]:
        """The settings that can change this stage's result and differ from their defaults, by dotted key."""
        own = getattr(run, self.name, None)
        found = (
            {f"{self.name}.{key}": value for key, value in changing_settings(own).items()} if own is not None else {}
        )
        if self.seeded and run.seed:
            found["seed"] = run.seed
        return found

    def shards(self, run: RunSettings) -> int:
        """How many independent pieces the stage has: the width of a job array."""
        return 1

    @abstractmethod
    def run(self, context: StageContext) -> dict[str, Any]:
        """Does the work, continuing what is on disk.

        Returns:
            Figures for `DONE.json` and the screen.

        Raises:
            Interrupted: A stop was asked for; the next run continues.
            LussError: Something the user can mend.
        """


@dataclass(frozen=True)
class StageState:
    """State of a stage on disk.

    Attributes:
        kind: missing, partial, done or stale.
        detail: Progress of a partial stage, or why a stage is stale.
        seconds: Work time so far.
        changed: When it last changed, seconds since the epoch; 0 when missing.
    """

    kind: Literal["missing", "partial", "done", "stale"]
    detail: str = ""
    seconds: float = 0.0
    changed: float = 0.0


def fingerprint(stage: Stage, run: RunSettings, stages: Mapping[str, Stage]) -> str:
    """Identity of a stage's result: its name, version, changing settings, and the fingerprints of what it needs."""
    needs = {need: fingerprint(stages[need], run, stages) for need in stage.needs}
    content = json.dumps([stage.name, stage.version, stage.settings(run), needs], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def stage_state(stage: Stage, run: RunSettings, run_folder: Path, stages: Mapping[str, Stage]) -> StageState:
    """Finds a stage's state from its folder and the present settings."""
    folder = run_folder / stage.name
    if (folder / DONE).is_file():
        record = read_json(folder / DONE)
        changed = (folder / DONE).stat().st_mtime
        reason = _stale_reason(stage, run, run_folder, stages, record) or _damage(folder, record)
        if reason:
            return StageState("stale", reason, float(record["seconds"]), changed)
        return StageState("done", "", float(record["seconds"]), changed)
    if (folder / STARTED).is_file():
        record = read_json(folder / STARTED)
        done = _read_progress(folder)
        seconds, changed = (
            float(done.get("seconds", 0.0)),
            float(done.get("updated", (folder / STARTED).stat().st_mtime)),
        )
        reason = _stale_reason(stage, run, run_folder, stages, record)
        if reason:
            return StageState("stale", reason, seconds, changed)
        detail = f"{done['unit']} {done['done']} of {done['total']}" if "total" in done else "started"
        return StageState("partial", detail, seconds, changed)
    return StageState("missing")


def _stale_reason(
    stage: Stage, run: RunSettings, run_folder: Path, stages: Mapping[str, Stage], record: dict[str, Any]
) -> str:
    if record["version"] != stage.version:
        return f"made by version {record['version']} of the stage, now {stage.version}"
    before, now = record["settings"], json.loads(json.dumps(stage.settings(run)))
    for key in sorted({*before, *now}):
        if before.get(key, _DEFAULT) != now.get(key, _DEFAULT):
            return f"{key}: {_shown(before, key)} -> {_shown(now, key)}"
    for need in stage.needs:
        state = stage_state(stages[need], run, run_folder, stages)
        if state.kind == "stale":
            return f"{need} is stale ({state.detail})"
        identity = _identity(run_folder / need)
        if identity != record["inputs"].get(need):
            return f"{need} was run again" if identity else f"{need} is not done"
    return ""


_DEFAULT = object()


def _shown(settings: dict[str, Any], key: str) -> str:
    return repr(settings[key]) if key in settings else "default"


def _identity(folder: Path) -> str | None:
    return str(read_json(folder / DONE)["id"]) if (folder / DONE).is_file() else None


def _damage(folder: Path, record: dict[str, Any]) -> str:
    for name, size in record["products"].items():
        path = folder / name
        if not path.is_file():
            return f"its product {name} is missing"
        if path.stat().st_size != size:
            return f"its product {name} has changed size"
    return ""


def _read_progress(folder: Path) -> dict[str, Any]:
    try:
        return dict(read_json(folder / PROGRESS))
    except LussError:
        return {}


@dataclass
class StageFolder:
    """The files that frame a stage's work: configuration, start and done records."""

    stage: Stage
    run: RunSettings
    run_folder: Path
    stages: Mapping[str, Stage]
    started: float = field(default_factory=time.monotonic)

    @property
    def folder(self) -> Path:
        """The stage's folder."""
        return self.run_folder / self.stage.name

    def _record(self) -> dict[str, Any]:
        return {
            "stage": self.stage.name,
            "version": self.stage.version,
            "fingerprint": fingerprint(self.stage, self.run, self.stages),
            "settings": self.stage.settings(self.run),
            "inputs": {need: _identity(self.run_folder / need) for need in self.stage.needs},
        }

    def begin(self) -> None:
        """Moves a stale or finished result aside, then marks the stage as started. Nothing is deleted."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "config.yaml", to_yaml(self.run))
        if not (self.folder / STARTED).is_file():
            write_json(self.folder / STARTED, self._record())

    def seconds_before(self) -> float:
        """Work time of earlier, interrupted tries."""
        return float(_read_progress(self.folder).get("seconds", 0.0))

    def set_aside(self) -> Path:
        """Moves the whole stage folder to `superseded/`, where it stays until somebody deletes it."""
        target = (
            self.run_folder / SUPERSEDED / f"{self.stage.name}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        self.folder.rename(target)
        return target

    def finish(self, figures: dict[str, Any], *, seconds: float, peak_memory_mb: int) -> None:
        """Writes `DONE.json`: from now on the stage is done."""
        for leftover in self.folder.rglob(f".*{TEMPORARY_SUFFIX}"):  # of tries that were killed
            leftover.unlink(missing_ok=True)
        products = {
            path.relative_to(self.folder).as_posix(): path.stat().st_size for path in sorted(_products(self.folder))
        }
        write_json(
            self.folder / DONE,
            {
                **self._record(),
                "id": uuid.uuid4().hex,
                "products": products,
                "figures": figures,
                "seconds": round(seconds, 1),
                "peak_memory_mb": peak_memory_mb,
                "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "libraries": {name: _installed(name) for name in _LIBRARIES if _installed(name)},
            },
        )
        # Only now: a process killed before would have to begin again.
        shutil.rmtree(self.folder / CHECKPOINTS, ignore_errors=True)
        (self.folder / STARTED).unlink(missing_ok=True)
        (self.folder / PROGRESS).unlink(missing_ok=True)


def _products(folder: Path) -> Iterator[Path]:
    """The files that a result consists of, but for masks: they are as many as the images, and no stage but evaluate reads them."""
    for path in folder.iterdir():
        if path.is_dir() and path.name not in _NOT_PRODUCTS:
            yield from (inner for inner in path.rglob("*") if inner.is_file())
        elif path.is_file() and path.name not in _NOT_PRODUCTS:
            yield path


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
