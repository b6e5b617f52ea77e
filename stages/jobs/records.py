"""Which jobs were submitted for a run: one small file a stage, so that submitting again submits only what is missing."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from luss.errors import LussError
from luss.files import read_record, write_json

JOBS = "jobs"

Kind = Literal["stage", "shards", "join"]
"""A whole stage; pieces of it; what makes a stage of its finished pieces."""


@dataclass
class Job:
    """A submitted job or job array.

    Attributes:
        id: The scheduler's number; of a local job, its process.
        kind: What it makes.
        shards: The pieces of each task; several tasks make an array. Empty but for "shards".
        cluster: "slurm" or "local".
        started: When a local process began, seconds since the epoch: its number may be used again.
    """

    id: str
    kind: Kind
    shards: list[list[int]] = field(default_factory=list)
    cluster: str = "slurm"
    started: float = 0.0

    def task_ids(self) -> list[str]:
        """The scheduler's name of every task."""
        return [f"{self.id}_{task}" for task in range(len(self.shards))] if len(self.shards) > 1 else [self.id]

    def shards_of(self, task_id: str) -> list[int]:
        """The pieces that a task makes."""
        return self.shards[int(task_id.partition("_")[2] or 0)] if self.shards else []


@dataclass
class StageJobs:
    """The jobs of one stage, in the order of submission.

    Attributes:
        stage: Its name.
        fingerprint: Of the stage when they were submitted.
        command: What to type to submit again.
        jobs: Only those since the last time that none was left.
    """

    stage: str
    fingerprint: str
    command: str
    jobs: list[Job] = field(default_factory=list)

    def task_ids(self) -> list[str]:
        """The scheduler's name of every task of every job."""
        return [task for job in self.jobs for task in job.task_ids()]


def jobs_folder(run_folder: Path) -> Path:
    """Where records, submitted files and logs of jobs lie."""
    return run_folder / JOBS


def log_files(run_folder: Path, stage: str, task_id: str) -> list[Path]:
    """The output of a task, one file a process."""
    found = (jobs_folder(run_folder) / stage).glob(f"{task_id}_*_log.out")
    return sorted(found, key=lambda path: int(path.name.removeprefix(f"{task_id}_").partition("_")[0]))


def read_jobs(run_folder: Path, stage: str) -> StageJobs | None:
    """The record of a stage; None when it was never submitted.

    Raises:
        LussError: The file is not a record.
    """
    path = jobs_folder(run_folder) / f"{stage}.json"
    if not path.is_file():
        return None
    remedy = "delete it once its jobs have ended (squeue --me, scancel)"
    found = read_record(path, {"stage": str, "fingerprint": str, "command": str, "jobs": list}, remedy=remedy)
    try:
        return StageJobs(**{**found, "jobs": [_job(job) for job in found["jobs"]]})
    except (TypeError, ValueError) as error:
        raise LussError(f"{path} is not a record of jobs ({error}): {remedy}") from error


def _job(entry: Any) -> Job:
    """A job as it was written.

    Raises:
        TypeError: An entry is of another type, or there is another one.
        ValueError: An entry has a value that cannot be.
    """
    job = Job(**entry)
    texts = (job.id, job.kind, job.cluster)
    if not all(isinstance(text, str) for text in texts) or not isinstance(job.started, int | float):
        raise TypeError(f"the job {entry}")
    if not job.id.isdecimal() or job.kind not in get_args(Kind) or job.cluster not in ("slurm", "local"):
        raise ValueError(f"the job {entry}")
    if not all(isinstance(shard, int) for shards in job.shards for shard in shards):
        raise TypeError(f"the shards of the job {job.id}")
    return job


def write_jobs(run_folder: Path, record: StageJobs) -> None:
    """Writes a stage's record."""
    write_json(jobs_folder(run_folder) / f"{record.stage}.json", asdict(record))


def job_name(run_folder: Path, stage: str) -> str:
    """The name of a stage's jobs, which tells the runs of one user apart."""
    key = hashlib.sha256(str(run_folder.resolve()).encode()).hexdigest()[:8]
    return f"luss-{stage}-{key}"


def spread(shards: Sequence[int], num_tasks: int) -> list[list[int]]:
    """Deals pieces to at most `num_tasks` tasks, as evenly as can be, neighbours together.

    Example:
        >>> from stages.jobs.records import spread
        >>> spread([0, 1, 2, 5, 6], 2)
        [[0, 1, 2], [5, 6]]
    """
    parts = np.array_split(np.array(shards, dtype=int), max(1, min(num_tasks, len(shards))))
    return [part.tolist() for part in parts if len(part)]
