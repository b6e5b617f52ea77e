"""In which state the stages of a run are, found from what is on disk and the present settings."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from luss.config import load_stored_config
from luss.errors import LussError
from luss.progress import StopFlag
from luss.settings import RunSettings
from stages.base import AnyStage, StagePlace, fingerprint
from stages.pipeline import MANIFEST
from stages.running.fitting import lowered, without_absent
from stages.running.folder import (
    DONE,
    NOT_PRODUCTS,
    PROGRESS,
    STARTED,
    read_done,
    read_progress,
    read_started,
    work_of_shards,
)
from stages.running.lock import listing_lock, living_shards
from stages.sharded import SHARDS, ShardedStage, ShardPlan


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


class States:
    """One look at a run: every stage is looked at when it is first asked for, and remembered.

    What happens on disk afterwards is seen by another look.

    Attributes:
        run: The settings, fitted to the images that are listed (`stages.running.fitting`).
        run_folder: The run's folder.
    """

    def __init__(self, run: RunSettings, run_folder: Path | None = None) -> None:
        """Looks at the manifest alone yet; `run_folder`: the run's folder, where it is not `run.output`."""
        self.run_folder = run_folder or Path(run.output)
        self.run = without_absent(run, self.run_folder)
        self._states: dict[str, StageState] = {}
        self._done: dict[str, dict[str, Any]] = {}
        self._damaged: dict[str, LussError] = {}
        self._fingerprints: dict[str, str] = {}
        if self.of(MANIFEST).kind == "done":
            self.run = lowered(self.run, self.run_folder)

    def of(self, stage: AnyStage) -> StageState:
        """The state of a stage."""
        if stage.name not in self._states:
            self._states[stage.name] = self._look(stage)
        return self._states[stage.name]

    def kind(self, stage: AnyStage) -> str:
        """`of` without details, which for a stage of many shards take long to find."""
        folder = self.run_folder / stage.name
        if stage.name in self._states or self.done(stage) or not (folder / STARTED).is_file():
            return self.of(stage).kind
        return "stale" if self._stale_reason(stage, self._started(stage)) else "partial"

    def done(self, stage: AnyStage) -> dict[str, Any]:
        """The record of a stage that has come to its end, with whatever settings; empty for others."""
        if stage.name not in self._done:
            self._done[stage.name] = self._read(stage, read_done)
        return self._done[stage.name]

    def refuse_damaged(self, stage: AnyStage) -> None:
        """Makes sure that a stage's records can be read: its result would be moved aside, for a copied file at best.

        Raises:
            LussError: One cannot.
        """
        self.of(stage)
        if stage.name in self._damaged:
            raise self._damaged[stage.name]

    def _started(self, stage: AnyStage) -> dict[str, Any]:
        return self._read(stage, read_started)

    def _read(self, stage: AnyStage, read: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        """A record; empty where it is damaged, which `_stale_reason` says."""
        try:
            return read(self.run_folder / stage.name)
        except LussError as error:
            self._damaged[stage.name] = error
            return {}

    def fingerprint(self, stage: AnyStage) -> str:
        """See `stages.base.fingerprint`."""
        return fingerprint(stage, self.run, self._fingerprints)

    def place(self, stage: AnyStage, stop: StopFlag | None = None) -> StagePlace:
        """Where a stage stands; `stop` ends what it may have to wait for."""
        # Not `stop or`: a flag that nobody has set is false.
        stop = StopFlag() if stop is None else stop
        listing = partial(listing_lock, self.run_folder, stop=stop)
        folder = self.run_folder / stage.name
        return StagePlace(self.run, self.run_folder, folder, self.fingerprint(stage), listing, stop)

    def check(self, name: str, needs: Sequence[AnyStage]) -> None:
        """Makes sure that the stages `needs` are done; `name` is who needs them.

        Raises:
            LussError: One is not; says why.
        """
        for need in needs:
            state = self.of(need)
            if state.kind != "done":
                detail = f" ({state.detail})" if state.detail else ""
                raise LussError(
                    f"{name} needs {need.name}, which is {state.kind}{detail} in {self.run_folder}: run {need.name} first"
                )

    def num_shards(self, stage: AnyStage) -> int:
        """How many independent pieces a stage has: the width of a job array; 1 for a stage that is not sharded.

        Raises:
            LussError: The number follows from the images, and the manifest is not done.
        """
        return len(self._plan(stage).ranges) if isinstance(stage, ShardedStage) else 1

    def missing_shards(self, stage: AnyStage) -> list[int]:
        """Numbers of the pieces that are not on disk, ascending; all of them where what is on disk is stale.

        Raises:
            LussError: As `num_shards`.
        """
        if not isinstance(stage, ShardedStage):
            return [] if self.done(stage) else [0]
        kind = self.kind(stage)
        if kind == "done":
            return []
        return self._plan(stage).missing() if kind == "partial" else list(range(self.num_shards(stage)))

    def _plan(self, stage: ShardedStage[Any]) -> ShardPlan:
        self.check(stage.name, [stage.manifest])
        return stage.plan(self.place(stage))

    def _look(self, stage: AnyStage) -> StageState:
        folder, record = self.run_folder / stage.name, self.done(stage)
        if record:
            changed = (folder / DONE).stat().st_mtime
            reason = self._stale_reason(stage, record) or _damage(folder, record)
            return StageState("stale" if reason else "done", reason, float(record["seconds"]), changed)
        if stage.name in self._damaged:
            return StageState("stale", str(self._damaged[stage.name]), 0.0, (folder / DONE).stat().st_mtime)
        if not (folder / STARTED).is_file():
            return StageState("missing")
        progress = read_progress(folder / PROGRESS)
        seconds = float(progress.get("seconds", 0.0)) + work_of_shards(folder)[0]
        changed = float(progress.get("updated", (folder / STARTED).stat().st_mtime))
        reason = self._stale_reason(stage, self._started(stage))
        if reason:
            return StageState("stale", reason, seconds, changed)
        if isinstance(stage, ShardedStage):
            notes = folder / SHARDS
            # When a shard was last begun or made.
            changed = max(changed, notes.stat().st_mtime) if notes.is_dir() else changed
            return StageState("partial", self._shards_detail(stage), seconds, changed)
        detail = f"{progress['unit']} {progress['done']} of {progress['total']}" if "total" in progress else "started"
        return StageState("partial", detail, seconds, changed)

    def _shards_detail(self, stage: ShardedStage[Any]) -> str:
        try:
            plan = self._plan(stage)
            total = len(plan.ranges)
            detail = f"{total - len(plan.missing())} of {total} shards"
        except LussError as error:
            # Where the data or the disk is not at hand there is more to see than this.
            return f"its shards cannot be counted: {error}"
        working = living_shards(self.run_folder, stage.name)
        return f"{detail}, {len(working)} at work" if working else detail

    def _stale_reason(self, stage: AnyStage, record: dict[str, Any]) -> str:
        if stage.name in self._damaged:
            return str(self._damaged[stage.name])
        if record["version"] != stage.version:
            return f"made by version {record['version']} of the stage, now {stage.version}"
        before, now = record["settings"], json.loads(json.dumps(stage.settings(self.run)))
        if not now.keys() <= before.keys():
            before = self._defaults_then(stage) | before
        for key in sorted({*before, *now}):
            if before.get(key, _DEFAULT) != now.get(key, _DEFAULT):
                return f"{key}: {_shown(before, key)} -> {_shown(now, key)}"
        for need in stage.needs:
            state = self.of(need)
            if state.kind == "stale":
                return f"{need.name} is stale ({state.detail})"
            identity = need.id_for(stage, self.done(need))
            if identity != record["inputs"].get(need.name):
                return f"{need.name} was run again" if identity else f"{need.name} is not done"
        extra, reason = stage.extra_identity(self.run_folder)
        return reason if record.get("extra", "") != extra else ""

    def _defaults_then(self, stage: AnyStage) -> dict[str, Any]:
        """What its record leaves out because an earlier version had it as the default, and this one has not."""
        try:
            stored = load_stored_config(self.run_folder / stage.name / "config.yaml")
        except LussError:
            return {}
        return dict(json.loads(json.dumps(stage.settings(stored))))


_DEFAULT = object()


def _shown(settings: dict[str, Any], key: str) -> str:
    return repr(settings[key]) if key in settings else "default"


def _damage(folder: Path, record: dict[str, Any]) -> str:
    for name, size in record["products"].items():
        path = folder / name
        if name in NOT_PRODUCTS:
            continue
        if not path.is_file():
            return f"its product {name} is missing"
        if path.stat().st_size != size:
            return f"its product {name} has changed size"
    return ""
