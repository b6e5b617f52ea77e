"""The folder of a stage: the files that frame its work, and what they say about it."""

import json
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from luss.config import to_yaml
from luss.errors import LussError
from luss.files import TEMPORARY_SUFFIX, create_text, read_json, write_json, write_text
from stages.base import CHECKPOINTS, AnyStage, StagePlace
from stages.running.lock import refuse_living_shards, remove_dead_shard_locks
from stages.sharded import SHARDS

DONE = "DONE.json"
STARTED = "STARTED.json"
PROGRESS = "progress.json"
SUPERSEDED = "superseded"
_MASKS = "masks"
NOT_PRODUCTS = {
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
"""What lies in a stage's folder and is no part of its result that is checked."""

_LIBRARIES = ("luss", "torch", "timm", "numpy", "faiss-cpu", "faiss-gpu", "scikit-learn", "h5py", "pillow")


def read_done(folder: Path) -> dict[str, Any]:
    """The record of a stage that is done; empty where it is not."""
    return dict(read_json(folder / DONE)) if (folder / DONE).is_file() else {}


def done_record(run_folder: Path, stage: str) -> dict[str, Any]:
    """The record of a stage that is done.

    Raises:
        LussError: It is not.
    """
    record = read_done(run_folder / stage)
    if not record:
        raise LussError(f"{stage} is not done in {run_folder}: run it first (luss run CONFIG.yaml --until {stage})")
    return record


def read_progress(folder: Path) -> dict[str, Any]:
    """How far a stage has come; empty where nothing tells."""
    try:
        return dict(read_json(folder / PROGRESS))
    except LussError:
        return {}


def work_of_shards(folder: Path) -> tuple[float, int]:
    """Seconds that makers of single shards have spent in a stage, and the most memory in MB that one has taken."""
    seconds, memory = 0.0, 0
    for path in sorted((folder / SHARDS).glob("*.json")):
        try:
            note = read_json(path)
        except LussError as error:
            # Makers that live take their notes away: of progress at a shard's end, of a shard that they make again.
            if isinstance(error.__cause__, FileNotFoundError):
                continue
            raise
        seconds += float(note.get("seconds", 0.0))
        memory = max(memory, int(note.get("peak_memory_mb", 0)))
    return seconds, memory


@dataclass
class StageFolder:
    """The files that frame a stage's work: configuration, start and done records."""

    stage: AnyStage
    place: StagePlace

    def _record(self) -> dict[str, Any]:
        return {
            "stage": self.stage.name,
            "version": self.stage.version,
            "fingerprint": self.place.fingerprint,
            "settings": self.stage.settings(self.place.run),
            "extra": self.stage.extra_identity(self.place.run_folder)[0],
            "inputs": {need.name: need.id_for(self.stage, read_done(self.place.of(need))) for need in self.stage.needs},
        }

    def begin(self) -> None:
        """Marks the stage as started, and clears away what killed processes left of files that they were writing.

        Only for who holds the run: nobody else may write into the stage.
        """
        self.place.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.place.folder / "config.yaml", to_yaml(self.place.run))
        if not self._create_started():
            self._remove_leftovers()

    def begin_shard(self) -> str:
        """Marks the stage as started unless another process has done so; many may do it at once.

        Returns:
            A word that changes when the stage is moved aside and started anew.

        Raises:
            LussError: The stage was moved aside or ended in this moment.
        """
        create_text(self.place.folder / "config.yaml", to_yaml(self.place.run))
        self._create_started()
        return self.start_id()

    def start_id(self) -> str:
        """The word that `begin_shard` has returned; another one, or none, when the stage was moved aside meanwhile."""
        return str(read_json(self.place.folder / STARTED).get("start", ""))

    def _create_started(self) -> bool:
        record = {**self._record(), "start": uuid.uuid4().hex}
        return create_text(self.place.folder / STARTED, json.dumps(record, indent=1, ensure_ascii=False) + "\n")

    def _remove_leftovers(self) -> None:
        """But not among masks, which are many: who makes a shard of them clears its own."""
        for path in [self.place.folder, *self.place.folder.iterdir()]:
            if path.is_dir() and path.name != _MASKS:
                find = path.glob if path == self.place.folder else path.rglob
                for left in find(f".*{TEMPORARY_SUFFIX}"):
                    left.unlink(missing_ok=True)

    def seconds_before(self) -> float:
        """Work time of earlier, interrupted tries."""
        return float(read_progress(self.place.folder).get("seconds", 0.0))

    def set_aside(self) -> Path:
        """Moves the whole stage folder to `superseded/`, where it stays until somebody deletes it.

        Raises:
            LussError: A living process makes a shard of it.
        """
        refuse_living_shards(self.place.run_folder, self.stage.name)
        name = f"{self.stage.name}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"
        target = self.place.run_folder / SUPERSEDED / name
        target.parent.mkdir(parents=True, exist_ok=True)
        self.place.folder.rename(target)
        return target

    def finish(self, figures: dict[str, Any], *, seconds: float, peak_memory_mb: int) -> None:
        """Writes `DONE.json`: from now on the stage is done.

        Args:
            figures: What the stage returned.
            seconds: Work time of this process and its earlier tries; that of makers of single shards is added.
            peak_memory_mb: Of this process.
        """
        self._remove_leftovers()
        folder = self.place.folder
        shard_seconds, shard_memory_mb = work_of_shards(folder)
        record = {
            **self._record(),
            "id": self.stage.result_id(figures),
            "products": {p.relative_to(folder).as_posix(): p.stat().st_size for p in sorted(_products(folder))},
            "figures": figures,
            "seconds": round(seconds + shard_seconds, 1),
            "peak_memory_mb": max(peak_memory_mb, shard_memory_mb),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "libraries": {name: _installed(name) for name in _LIBRARIES if _installed(name)},
        }
        write_json(folder / DONE, record)
        # Only now: a process killed before would have to begin again.
        for name in (CHECKPOINTS, SHARDS):
            shutil.rmtree(folder / name, ignore_errors=True)
        remove_dead_shard_locks(self.place.run_folder, self.stage.name)
        for name in (STARTED, PROGRESS):
            (folder / name).unlink(missing_ok=True)


def _products(folder: Path) -> Iterator[Path]:
    """The files that a result consists of, but for masks: they are as many as the images, and no stage but evaluate reads them."""
    for path in folder.iterdir():
        if path.is_dir() and path.name not in NOT_PRODUCTS:
            yield from (inner for inner in path.rglob("*") if inner.is_file())
        elif path.is_file() and path.name not in NOT_PRODUCTS:
            yield path


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
