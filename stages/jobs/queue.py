"""What a scheduler knows about jobs, beside what is on disk: waiting, running, or how they ended."""

import contextlib
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from luss.errors import LussError
from stages.jobs.reasons import is_final, meaning
from stages.jobs.records import Job, StageJobs, job_name, read_jobs
from stages.running.state import StageState

_TIMEOUT_SECONDS = 60
_KNOWS_NOTHING = "Invalid job id|accounting storage is disabled|slurmdbd|sacct: command not found"
# SLURM's words, as long as they differ from ours.
_WORDS = {
    "COMPLETING": "running", "CONFIGURING": "running", "STAGE_OUT": "running", "RESIZING": "running", "SIGNALING": "running",
    "SUSPENDED": "pending", "STOPPED": "pending", "PENDING": "pending", "RUNNING": "running",
    "REQUEUED": "requeued", "REQUEUE_HOLD": "requeued", "REQUEUE_FED": "requeued", "SPECIAL_EXIT": "requeued",
    "PREEMPTED": "preempted", "COMPLETED": "completed", "CANCELLED": "cancelled", "REVOKED": "cancelled",
    "OUT_OF_MEMORY": "out of memory", "TIMEOUT": "timed out", "DEADLINE": "timed out",
    "FAILED": "failed", "NODE_FAIL": "node failed", "BOOT_FAIL": "node failed",
}  # fmt: skip
ALIVE = ("running", "requeued", "pending")
_BAD = ("out of memory", "timed out", "failed", "node failed", "preempted", "cancelled", "gone")
_ORDER = ("running", "requeued", "pending", *_BAD, "completed")


@dataclass(frozen=True)
class TaskState:
    """State of a task in the queue.

    Attributes:
        kind: One of running, pending, requeued, completed, failed, out of memory, timed out, node failed, preempted, cancelled, and
            gone: the scheduler has forgotten it.
        detail: Why it waits, or how it ended.
    """

    kind: str
    detail: str = ""

    @property
    def alive(self) -> bool:
        """Whether it will still work."""
        return self.kind in ALIVE


def task_states(jobs: Iterable[Job]) -> dict[str, TaskState]:
    """The state of every task of the jobs, by the scheduler's name.

    Raises:
        LussError: There are jobs of a SLURM that does not answer from here.
    """
    jobs = list(jobs)
    found = {job.id: _local_state(job) for job in jobs if job.cluster == "local"}
    tasks = [task for job in jobs if job.cluster == "slurm" for task in job.task_ids()]
    if not tasks:
        return found
    ids = ",".join(sorted({task.partition("_")[0] for task in tasks}, key=int))
    queue = parse_squeue(
        _ask("squeue", "-h", "-r", "-t", "all", "-j", ids, "-O", "JobArrayID:|,State:|,Reason:|,RestartCnt:|")
    )
    # What was finished some minutes ago has left the queue; sacct says nothing where the cluster keeps no accounts.
    if any(task not in queue for task in tasks):
        queue = {**parse_sacct(_ask("sacct", "-n", "-P", "-j", ids, "-o", "JobID,State,ExitCode")), **queue}
    return found | {task: queue.get(task, TaskState("gone")) for task in tasks}


def parse_squeue(text: str) -> dict[str, TaskState]:
    """Reads `squeue -h -r -O "JobArrayID:|,State:|,Reason:|,RestartCnt:|"`."""
    found = {}
    for line in text.splitlines():
        fields = [part.strip() for part in line.split("|")]
        if len(fields) < 4:
            continue
        task, state, reason, restarts = fields[:4]
        kind = _kind(state)
        if kind == "pending" and reason == "DependencyNeverSatisfied":
            # Its predecessor failed, and SLURM is about to remove it.
            kind, reason = "cancelled", ""
        if kind == "pending" and restarts not in ("", "0"):
            kind = "requeued"
        found[task] = TaskState(kind, reason if kind in ("pending", "requeued") and reason != "None" else "")
    return found


def parse_sacct(text: str) -> dict[str, TaskState]:
    """Reads `sacct -n -P -o JobID,State,ExitCode`, steps included: memory is often exceeded by a step of a job that "failed"."""
    found: dict[str, TaskState] = {}
    for line in text.splitlines():
        job, _, rest = line.partition("|")
        state, _, code = rest.partition("|")
        name, _, step = job.partition(".")
        for task in _expand(name):
            kind = _kind(state)
            if not step:
                found[task] = TaskState(kind, f"exit code {code}" if kind == "failed" else "")
            elif kind == "out of memory" and task in found:
                found[task] = TaskState(kind)
    return found


def _kind(state: str) -> str:
    return _WORDS.get(state.split(" ")[0].rstrip("+"), "failed")


def _expand(name: str) -> Iterator[str]:
    """The tasks that sacct puts in one line, such as 6_[2-4,7%2]."""
    match = re.fullmatch(r"(\d+)_\[([\d,:-]+)(?:%\d+)?\]", name)
    if match is None:
        yield name
        return
    for part in match[2].split(","):
        first, _, last = part.partition("-")
        yield from (f"{match[1]}_{task}" for task in range(int(first), int(last or first) + 1))


def unrecorded(run_folder: Path, stages: Sequence[str], records: Iterable[StageJobs]) -> list[str]:
    """Jobs in SLURM's queue that carry the run's name but stand in no record: their submission was killed half way."""
    known = {job.id for record in records for job in record.jobs}
    names = ",".join(job_name(run_folder, stage) for stage in stages)
    found = _ask("squeue", "-h", f"--name={names}", "-o", "%A|%F")
    return sorted({line.split("|")[1] for line in found.splitlines() if "|" in line} - known)


def has_slurm() -> bool:
    """Whether SLURM's commands are here."""
    return shutil.which("squeue") is not None


def cancel_run(run_folder: Path, stages: Sequence[str]) -> list[str]:
    """Ends everything that is queued or running for a run: jobs that stand in no record too.

    Returns:
        The jobs, by the scheduler's name.

    Raises:
        LussError: SLURM refuses.
    """
    queue = view_queue(run_folder, stages)
    alive = [task for stage in queue.records for task in queue.alive(stage)]
    local = {job.id for record in queue.records.values() for job in record.jobs if job.cluster == "local"}
    for task in local.intersection(alive):
        with contextlib.suppress(psutil.Error):
            psutil.Process(int(task)).terminate()
    slurm = [task for task in alive if task not in local]
    jobs = [job for record in queue.records.values() for job in record.jobs]
    # A run that has only ever worked on this machine has nothing to ask a scheduler, which may be down.
    if has_slurm() and not (jobs and all(job.cluster != "slurm" for job in jobs)):
        slurm += unrecorded(run_folder, stages, queue.records.values())
    if slurm:
        cancel_tasks(slurm)
    return [*sorted(local.intersection(alive)), *slurm]


def cancel_tasks(ids: Sequence[str]) -> None:
    """Cancels jobs of SLURM.

    Raises:
        LussError: SLURM refuses.
    """
    slurm("scancel", *ids)


def is_preempted(job_id: str) -> bool:
    """Whether SLURM has told a job to leave for another one, which it starts again later only if the job does not end by itself."""
    match = re.search(r"PreemptTime=(\S+)", _ask("scontrol", "show", "job", "-o", job_id))
    return match is not None and match[1] not in ("None", "N/A", "Unknown")


def _ask(*command: str) -> str:
    """The answer of one of SLURM's commands; empty where it knows nothing of what it was asked for.

    Raises:
        LussError: SLURM is not here, or does not answer.
    """
    try:
        return slurm(*command)
    except LussError as error:
        if not re.search(_KNOWS_NOTHING, str(error), re.IGNORECASE):
            raise
        return ""


def slurm(*command: str) -> str:
    """What one of SLURM's commands prints.

    Raises:
        LussError: It is not here, does not answer, or refuses.
    """
    if shutil.which(command[0]) is None:
        raise LussError(f"{command[0]} is not here: run this where SLURM's commands are, on a login node")
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise LussError(f"{command[0]} has not answered for {_TIMEOUT_SECONDS} s: try again later") from error
    if done.returncode:
        raise LussError(f"{' '.join(command[:2])} failed: {done.stderr.strip()}")
    return done.stdout


def _local_state(job: Job) -> TaskState:
    try:
        process = psutil.Process(int(job.id))
        alive = abs(process.create_time() - job.started) < 2 and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, ValueError):
        alive = False
    return TaskState("running" if alive else "gone")


def summary(states: Sequence[TaskState]) -> str:
    """Shortly, as in a table: "running", or "running 3, pending 10 (Resources)"."""
    counts = Counter(state.kind for state in states)
    parts = []
    for kind in _ORDER:
        if counts[kind]:
            details = sorted({state.detail for state in states if state.kind == kind and state.detail})
            number = f" {counts[kind]}" if len(states) > 1 else ""
            parts.append(f"{kind}{number}" + (f" ({', '.join(details)})" if details else ""))
    return ", ".join(parts)


def why_waiting(queue: "QueueView") -> list[str]:
    """A sentence for each reason why jobs wait, such as "Priority (pretrain): other jobs come before it"."""
    stages: dict[str, list[str]] = {}
    for stage in queue.records:
        for reason in sorted({state.detail for state in queue.of(stage).values() if state.alive and state.detail}):
            stages.setdefault(reason, []).append(stage)
    return [f"{reason} ({', '.join(names)}): {words}" for reason, names in stages.items() if (words := meaning(reason))]


@dataclass(frozen=True)
class QueueView:
    """The jobs of a run and their states."""

    records: dict[str, StageJobs]
    states: dict[str, TaskState]

    def of(self, stage: str) -> dict[str, TaskState]:
        """The tasks of a stage."""
        record = self.records.get(stage)
        return {task: self.states[task] for task in record.task_ids()} if record else {}

    def alive(self, stage: str) -> list[str]:
        """The tasks of a stage that will still work."""
        return [task for task, state in self.of(stage).items() if state.alive]


def view_queue(run_folder: Path, stages: Sequence[str]) -> QueueView:
    """Looks up everything that was submitted for a run.

    Raises:
        LussError: SLURM does not answer.
    """
    records = {stage: record for stage in stages if (record := read_jobs(run_folder, stage)) is not None}
    return QueueView(records, task_states(job for record in records.values() for job in record.jobs))


_ADVICE = {
    "out of memory": "it ran out of memory: raise resources.{stage}.mem_gb",
    "timed out": "its time limit ended before it could write a checkpoint: raise resources.{stage}.signal_delay_s or timeout_min",
    "node failed": "its machine failed",
    "cancelled": "it was cancelled, or a job before it failed",
    "preempted": "it was preempted and not started again",
    "failed": "it failed: read `luss logs {run} {stage}`, mend it",
    "gone": "its job has ended and the scheduler has forgotten how: read `luss logs {run} {stage}`",
}


def next_step(run_folder: Path, disk: Mapping[str, StageState], queue: QueueView) -> str:
    """What a person should do now, in one sentence; `disk` is the state of every stage, in order."""
    for stage, state in disk.items():
        if state.kind == "done":
            continue
        tasks = queue.of(stage)
        bad = [kind for kind in _BAD if any(task.kind == kind for task in tasks.values())]
        record = queue.records.get(stage)
        final = sorted({task.detail for task in tasks.values() if task.kind == "pending" and is_final(task.detail)})
        if record is not None and final and not bad:
            return (
                f"next: {stage} waits for ever ({final[0]}: {meaning(final[0])}): `luss cancel {run_folder}`, then {record.command} with "
                f"other --partition, --gpus-per-node or resources.{stage}"
            )
        if queue.alive(stage) and not bad:
            return f"next: nothing to do; `luss logs {run_folder} {stage} --follow` shows {stage} at work"
        command = record.command if record else "luss run CONFIG.yaml, or luss submit CONFIG.yaml"
        if bad:
            return f"next: {stage}: {_ADVICE[bad[0]].format(stage=stage, run=run_folder)}; then {command}"
        return f"next: {command}"
    return "next: nothing, everything is done"
