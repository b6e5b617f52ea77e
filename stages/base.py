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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from luss.config import to_yaml
from luss.data.skipped import SkippedFiles
from luss.errors import LussError
from luss.files import TEMPORARY_SUFFIX, create_text, read_json, write_json, write_text
from luss.progress import Reporter, StopFlag
from luss.settings import RunSettings
from luss.settings.fields import changing_settings
from stages.running.lock import living_shards, refuse_living_shards, remove_dead_shard_locks

DONE = "DONE.json"
STARTED = "STARTED.json"
PROGRESS = "progress.json"
SUPERSEDED = "superseded"
# What a stage needs to go on, and nobody after its end.
CHECKPOINTS = "checkpoints"
# Notes of those who make a stage's shards, see `stages.sharded`.
SHARDS = "shards"
_MASKS = "masks"
_NOT_PRODUCTS = {
    DONE,
    STARTED,
    PROGRESS,
    "metrics.jsonl",
    "config.yaml",
    # Grows when a split that is evaluated later is listed.
    "skipped.csv",
    "log",
    "tensorboard",
    CHECKPOINTS,
    SHARDS,
    _MASKS,
}
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
        skipped: The stage's list of unreadable images; of this process, where several work together.
        confirm: Raises unless what is made still belongs to the stage; asked before a shard is written.
    """

    run: RunSettings
    run_folder: Path
    folder: Path
    device: torch.device
    reporter: Reporter
    stop: StopFlag
    skipped: SkippedFiles
    confirm: Callable[[], None] = lambda: None

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
    # Whether it consists of pieces that processes without any tie make one by one (see `stages.sharded`).
    sharded: ClassVar[bool] = False

    def settings(self, run: RunSettings) -> dict[str, Any]:
        """The settings that can change this stage's result and differ from their defaults, by dotted key."""
        own = getattr(run, self.name, None)
        found = (
            {f"{self.name}.{key}": value for key, value in changing_settings(own).items()} if own is not None else {}
        )
        if self.seeded and run.seed:
            found["seed"] = run.seed
        return found

    def extra_identity(self, run_folder: Path) -> tuple[str, str]:
        """What decides the result besides settings and needed stages, such as edits of a finished product.

        Returns:
            Its identity, empty where there is nothing of the kind, and what to say where it has changed.
        """
        return "", ""

    def num_shards(self, run: RunSettings, run_folder: Path) -> int:
        """How many independent pieces the stage has: the width of a job array; 1 for a stage that is not `sharded`.

        Raises:
            LussError: The number follows from the images, and the manifest is not done.
        """
        return 1

    def missing_shards(self, run: RunSettings, run_folder: Path) -> list[int]:
        """Numbers of the pieces that are not on disk, ascending; all of them where what is on disk is stale.

        Raises:
            LussError: As `num_shards`.
        """
        return [] if (run_folder / self.name / DONE).is_file() else [0]

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
    """Identity of a stage's result: its name, version, changing settings, extra identity, and the fingerprints of what it needs."""
    needs = {need: fingerprint(stages[need], run, stages) for need in stage.needs}
    extra = stage.extra_identity(Path(run.output))[0]
    content = json.dumps(
        [stage.name, stage.version, stage.settings(run), needs, *([extra] if extra else [])], sort_keys=True
    )
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def stage_state(stage: Stage, run: RunSettings, run_folder: Path, stages: Mapping[str, Stage]) -> StageState:
    """Finds a stage's state from its folder and the present settings."""
    folder = run_folder / stage.name
    if (folder / DONE).is_file():
        record = read_json(folder / DONE)
        changed = (folder / DONE).stat().st_mtime
        reason = _stale_reason(stage, run, run_folder, stages, record) or _damage(folder, record)
        return StageState("stale" if reason else "done", reason, float(record["seconds"]), changed)
    if (folder / STARTED).is_file():
        done = _read_progress(folder)
        seconds = float(done.get("seconds", 0.0)) + work_of_shards(folder)[0]
        changed = float(done.get("updated", (folder / STARTED).stat().st_mtime))
        reason = _stale_reason(stage, run, run_folder, stages, read_json(folder / STARTED))
        if reason:
            return StageState("stale", reason, seconds, changed)
        if stage.sharded:
            return StageState("partial", _shards_detail(stage, run, run_folder), seconds, _changed(folder, changed))
        detail = f"{done['unit']} {done['done']} of {done['total']}" if "total" in done else "started"
        return StageState("partial", detail, seconds, changed)
    return StageState("missing")


def stage_kind(stage: Stage, run: RunSettings, run_folder: Path, stages: Mapping[str, Stage]) -> str:
    """`stage_state` without details, which for a stage of many shards take long to find."""
    folder = run_folder / stage.name
    if (folder / DONE).is_file() or not (folder / STARTED).is_file():
        return stage_state(stage, run, run_folder, stages).kind
    return "stale" if _stale_reason(stage, run, run_folder, stages, read_json(folder / STARTED)) else "partial"


def check_needs(
    name: str, needs: Sequence[str], run: RunSettings, run_folder: Path, stages: Mapping[str, Stage]
) -> None:
    """Makes sure that stages are done.

    Args:
        name: The stage that needs them.
        needs: Their names.
        run: Settings.
        run_folder: The run's folder.
        stages: All stages.

    Raises:
        LussError: One is not; says why.
    """
    for need in needs:
        state = stage_state(stages[need], run, run_folder, stages)
        if state.kind != "done":
            detail = f" ({state.detail})" if state.detail else ""
            raise LussError(f"{name} needs {need}, which is {state.kind}{detail} in {run_folder}: run {need} first")


def _shards_detail(stage: Stage, run: RunSettings, run_folder: Path) -> str:
    total = stage.num_shards(run, run_folder)
    detail = f"{total - len(stage.missing_shards(run, run_folder))} of {total} shards"
    working = living_shards(run_folder, stage.name)
    return f"{detail}, {len(working)} at work" if working else detail


def _changed(folder: Path, changed: float) -> float:
    """When a shard was last begun or made, or `changed`."""
    notes = folder / SHARDS
    return max(changed, notes.stat().st_mtime) if notes.is_dir() else changed


def work_of_shards(folder: Path) -> tuple[float, int]:
    """Seconds that makers of single shards have spent in a stage, and the most memory in MB that one has taken."""
    seconds, memory = 0.0, 0
    for path in sorted((folder / SHARDS).glob("*.json")):
        note = read_json(path)
        seconds += float(note.get("seconds", 0.0))
        memory = max(memory, int(note.get("peak_memory_mb", 0)))
    return seconds, memory


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
    extra, reason = stage.extra_identity(run_folder)
    return reason if record.get("extra", "") != extra else ""


_DEFAULT = object()


def _shown(settings: dict[str, Any], key: str) -> str:
    return repr(settings[key]) if key in settings else "default"


def _identity(folder: Path) -> str | None:
    return str(read_json(folder / DONE)["id"]) if (folder / DONE).is_file() else None


def _damage(folder: Path, record: dict[str, Any]) -> str:
    for name, size in record["products"].items():
        path = folder / name
        if name in _NOT_PRODUCTS:
            continue
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
            "extra": self.stage.extra_identity(self.run_folder)[0],
            "inputs": {need: _identity(self.run_folder / need) for need in self.stage.needs},
        }

    def begin(self) -> None:
        """Marks the stage as started, and clears away what killed processes left of files that they were writing.

        Only for who holds the run: nobody else may write into the stage.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "config.yaml", to_yaml(self.run))
        if not self._create_started():
            self._remove_leftovers()

    def begin_shard(self) -> str:
        """Marks the stage as started unless another process has done so; many may do it at once.

        Returns:
            A word that changes when the stage is moved aside and started anew.

        Raises:
            LussError: The stage was moved aside or ended in this moment.
        """
        create_text(self.folder / "config.yaml", to_yaml(self.run))
        self._create_started()
        return self.start_id()

    def start_id(self) -> str:
        """The word that `begin_shard` has returned; another one, or none, when the stage was moved aside meanwhile."""
        return str(read_json(self.folder / STARTED).get("start", ""))

    def _create_started(self) -> bool:
        record = {**self._record(), "start": uuid.uuid4().hex}
        return create_text(self.folder / STARTED, json.dumps(record, indent=1, ensure_ascii=False) + "\n")

    def _remove_leftovers(self) -> None:
        """But not among masks, which are many: who makes a shard of them clears its own."""
        for path in [self.folder, *self.folder.iterdir()]:
            if path.is_dir() and path.name != _MASKS:
                lefts = (
                    path.glob(f".*{TEMPORARY_SUFFIX}") if path == self.folder else path.rglob(f".*{TEMPORARY_SUFFIX}")
                )
                for left in lefts:
                    left.unlink(missing_ok=True)

    def seconds_before(self) -> float:
        """Work time of earlier, interrupted tries."""
        return float(_read_progress(self.folder).get("seconds", 0.0))

    def set_aside(self) -> Path:
        """Moves the whole stage folder to `superseded/`, where it stays until somebody deletes it.

        Raises:
            LussError: A living process makes a shard of it.
        """
        refuse_living_shards(self.run_folder, self.stage.name)
        target = (
            self.run_folder / SUPERSEDED / f"{self.stage.name}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        self.folder.rename(target)
        return target

    def finish(self, figures: dict[str, Any], *, seconds: float, peak_memory_mb: int) -> None:
        """Writes `DONE.json`: from now on the stage is done.

        Args:
            figures: What the stage returned.
            seconds: Work time of this process and its earlier tries; that of makers of single shards is added.
            peak_memory_mb: Of this process.
        """
        self._remove_leftovers()
        work = work_of_shards(self.folder)
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
                "seconds": round(seconds + work[0], 1),
                "peak_memory_mb": max(peak_memory_mb, work[1]),
                "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "libraries": {name: _installed(name) for name in _LIBRARIES if _installed(name)},
            },
        )
        # Only now: a process killed before would have to begin again.
        for name in (CHECKPOINTS, SHARDS):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        remove_dead_shard_locks(self.run_folder, self.stage.name)
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
