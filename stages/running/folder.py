"""The folder of a stage: the files that frame its work, and what they say about it."""

import contextlib
import json
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from luss.config import RUN_CONFIG, to_yaml
from luss.errors import LussError
from luss.files import (
    Kind,
    checksum,
    create_text,
    read_record,
    remove_dead,
    remove_partials,
    write_json,
    write_text,
)
from stages.base import CHECKPOINTS, MASKS, AnyStage, StagePlace
from stages.running.lock import refuse_living_shards, remove_dead_shard_locks
from stages.sharded import CHECKSUMS, SHARDS

DONE = "DONE.json"
STARTED = "STARTED.json"
PROGRESS = "progress.json"
SUPERSEDED = "superseded"
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
    MASKS,
}
"""What lies in a stage's folder and is no part of its result that is checked."""

_LIBRARIES = ("luss", "torch", "timm", "numpy", "faiss-cpu", "faiss-gpu", "scikit-learn", "h5py", "pillow")


_PROGRESS_FIELDS: dict[str, Kind] = {"unit": str, "done": int, "total": int, "seconds": float, "updated": float}
_IDENTITY: dict[str, Kind] = {"version": int, "settings": dict, "inputs": dict}
_DONE_FIELDS: dict[str, Kind] = {
    **_IDENTITY,
    "id": str,
    "fingerprint": str,
    "products": dict,
    "figures": dict,
    "seconds": float,
    "finished": str,
}


def read_done(folder: Path) -> dict[str, Any]:
    """The record of a stage that is done; empty where it is not.

    Raises:
        LussError: It is damaged.
    """
    path = folder / DONE
    if not path.is_file():
        return {}
    remedy = f"put a sound copy in its place, or make the stage anew: luss run CONFIG --force {folder.name}"
    record = read_record(path, _DONE_FIELDS, remedy=remedy)
    if not all(isinstance(size, int) for size in record["products"].values()):
        raise LussError(f"{path} is damaged (the sizes of products are no numbers): {remedy}")
    return record


def read_started(folder: Path) -> dict[str, Any]:
    """The record of a stage that has begun.

    Raises:
        LussError: There is none, or it is damaged.
    """
    remedy = f"begin the stage anew: luss run CONFIG --force {folder.name}"
    return read_record(folder / STARTED, _IDENTITY, remedy=remedy)


def done_record(run_folder: Path, stage: str) -> dict[str, Any]:
    """The record of a stage that is done.

    Raises:
        LussError: It is not.
    """
    record = read_done(run_folder / stage)
    if not record:
        raise LussError(f"{stage} is not done in {run_folder}: run it first (luss run CONFIG.yaml --until {stage})")
    return record


def read_progress(path: Path) -> dict[str, Any]:
    """How far a stage, or the maker of a shard, has come; empty where nothing tells."""
    try:
        return read_record(path, _PROGRESS_FIELDS)
    except LussError:
        return {}


def work_of_shards(folder: Path) -> tuple[float, int]:
    """Seconds that makers of single shards have spent in a stage, and the most memory in MB that one has taken."""
    seconds, memory = 0.0, 0
    for path in sorted((folder / SHARDS).glob("*.json")):
        try:
            note = read_record(path)
        except LussError as error:
            # Makers that live take their notes away: of progress at a shard's end, of a shard that they make again.
            if isinstance(error.__cause__, FileNotFoundError):
                continue
            raise
        seconds += _number(note, "seconds")
        memory = max(memory, int(_number(note, "peak_memory_mb")))
    return seconds, memory


def _number(note: dict[str, Any], entry: str) -> float:
    value = note.get(entry)
    return value if isinstance(value, int | float) else 0


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
        write_text(self.place.run_folder / RUN_CONFIG, to_yaml(self.place.run))
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
        if self._create_started():
            write_text(self.place.run_folder / RUN_CONFIG, to_yaml(self.place.run))
        return self.start_id()

    def start_id(self) -> str:
        """The word that `begin_shard` has returned; another one, or none, when the stage was moved aside meanwhile."""
        return str(read_started(self.place.folder).get("start", ""))

    def _create_started(self) -> bool:
        record = {**self._record(), "start": uuid.uuid4().hex}
        return create_text(self.place.folder / STARTED, json.dumps(record, indent=1, ensure_ascii=False) + "\n")

    def _remove_leftovers(self) -> None:
        """But not among masks, which are many: who makes a shard of them clears its own."""
        remove_partials(self.place.folder)
        for path in self.place.folder.iterdir():
            if path.is_dir() and path.name != MASKS:
                remove_partials(path, "**/*")

    def seconds_before(self) -> float:
        """Work time of earlier, interrupted tries."""
        return float(read_progress(self.place.folder / PROGRESS).get("seconds", 0.0))

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
        products = {path.relative_to(folder).as_posix(): path for path in sorted(_products(folder))}
        noted = _noted_checksums(folder)
        record = {
            **self._record(),
            "id": self.stage.result_id(figures),
            "products": {name: path.stat().st_size for name, path in products.items()},
            CHECKSUMS: {name: noted.get(name) or checksum(path) for name, path in products.items()},
            "figures": figures,
            "seconds": round(seconds + shard_seconds, 1),
            "peak_memory_mb": max(peak_memory_mb, shard_memory_mb),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "libraries": {name: _installed(name) for name in _LIBRARIES if _installed(name)},
        }
        write_json(folder / DONE, record)
        # Only now: a process killed before would have to begin again.
        self.tidy()

    def tidy(self) -> None:
        """Removes what a finished stage no longer needs, such as a process has left that was killed at its very end."""
        folder = self.place.folder
        for name in (CHECKPOINTS, SHARDS):
            shutil.rmtree(folder / name, ignore_errors=True)
        remove_dead_shard_locks(self.place.run_folder, self.stage.name)
        remove_dead(folder)
        for name in (STARTED, PROGRESS):
            # A disk that is read-only keeps them: nobody reads them any more.
            with contextlib.suppress(OSError):
                (folder / name).unlink()


def _noted_checksums(folder: Path) -> dict[str, str]:
    """Those that the makers of shards took."""
    found: dict[str, str] = {}
    for path in (folder / SHARDS).glob("*.json"):
        noted = read_record(path).get(CHECKSUMS)
        found |= noted if isinstance(noted, dict) else {}
    return found


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
