"""Runs as jobs: what a job does, and how the jobs of a run are submitted. The only module that knows submitit.

    RUN/jobs/config-HASH.yaml     the settings of a submission, resolved
    RUN/jobs/STAGE.json           which jobs were submitted for a stage (`stages.jobs.records`)
    RUN/jobs/STAGE/               sbatch files and logs, by job number
    RUN/code/HASH/                the source of a submission

A job knows its settings file, its stage and its shards. Everything else is found on disk, so the scheduler may start the same job again
after a pre-emption, a time limit or the death of a machine, as often as it likes.
"""

import hashlib
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.helpers import environment_variables

from luss import processes
from luss.config import load_config, to_yaml
from luss.errors import LussError
from luss.files import write_text
from luss.progress import Interrupted
from luss.settings.fields import holds_control
from stages.jobs.plan import Order, Step, Submission
from stages.jobs.queue import has_slurm, is_preempted
from stages.jobs.records import Job, job_name, jobs_folder
from stages.jobs.resources import Resources
from stages.jobs.source import check_source, package_folders, snapshot, source_hash
from stages.pipeline import STAGES
from stages.running.runner import run_stages
from stages.running.shard_work import run_shards
from stages.running.signals import guarded

# A job may run into its time limit any number of times.
_MAX_TIMEOUTS = 1_000_000
# After one process of a job has ended, the others have this long to say whom they miss.
_WAIT_SECONDS = 120


@dataclass(frozen=True)
class StageJob:
    """What a job does: one stage, or some shards of it.

    Attributes:
        config: The settings file.
        stage: Its name.
        shards: Which of its pieces; None = the stage itself.
        source: What `stages.jobs.source.source_hash` must be; empty = anything.
    """

    config: str
    stage: str
    shards: list[int] | None
    source: str

    def __call__(self) -> None:
        """Works until the end, or until the scheduler's signal has led to a checkpoint and the job has been queued again."""
        # submitit would queue the job again in the middle of a step: its handler is called when the step and the checkpoint are done.
        requeue = signal.getsignal(signal.SIGUSR2)
        code = guarded(lambda: self._work(requeue))
        if code:
            sys.exit(code)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """What to run when the job starts again: the same."""
        return submitit.helpers.DelayedSubmission(self)

    def _work(self, requeue: Any) -> None:
        check_source(self.source)
        run = load_config(Path(self.config))
        try:
            if self.shards is None:
                run_stages(run, [STAGES[self.stage]], waiting="for the dead")
            else:
                run_shards(run, STAGES[self.stage], self.shards)
        except Interrupted as error:
            if not callable(requeue) or not _comes_again(str(error)):
                raise
            place = processes.place()
            if place is not None and place.rank > 0:
                # Process 0 speaks for all; an error here would end it before it has spoken.
                return
            requeue(signal.SIGUSR2, None)


def _comes_again(reason: str) -> bool:
    """Whether the job is to be queued again: not when a person has ended it, which SIGTERM alone means but in a pre-emption."""
    if not any(number.name in reason for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)):
        return True
    return "SLURM_JOB_ID" in os.environ and is_preempted(os.environ["SLURM_JOB_ID"])


@dataclass(frozen=True)
class Row:
    """What became of a stage.

    Attributes:
        stage: Its name.
        job: The scheduler's number, or why there is none.
        shards: How many pieces in how many tasks.
        resources: What is asked for.
        log: Where its output will be.
    """

    stage: str
    job: str
    shards: str = ""
    resources: str = ""
    log: str = ""


def _check_script(order: Order) -> None:
    """Makes sure that every name in a job script stays in its line; settings and words of the command line were looked at when they were read.

    submitit and this module put all of them in quotes, but quotes do not keep a line end from ending a comment of SLURM's.

    Raises:
        LussError: One holds a control character.
    """
    if order.cluster != "slurm":
        return
    names = {
        "the working folder": str(Path.cwd()),
        "the run's folder": str(Path(order.run.output).absolute()),
        "the folder of the source": str(package_folders()["luss"].parent),
        "Python's path": sys.executable,
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
    }
    for what, name in names.items():
        if holds_control(name):
            raise LussError(
                f"{what} {name!r} holds a control character, which a job script cannot have: use another one"
            )


def _unheard(note: str) -> None:
    """Nobody listens."""


def submit(order: Order, tell: Callable[[Row], None], note: Callable[[str], None] = _unheard) -> None:
    """Submits every stage that is neither done nor queued, and tells of each in order.

    On `local` and `debug`, where nothing queues, waits for each. `note` is told what was lowered to what the machines have.

    Raises:
        LussError: Settings, data or resources that cannot be; jobs of other settings are queued; the scheduler refuses.
    """
    check_cluster(order.cluster)
    _check_script(order)
    submission = Submission(order)
    for line in submission.notes:
        note(line)
    launcher = _Launcher(order, submission.folder)
    with submission.opened():
        for step in submission.steps():
            row = Row(step.stage.name, step.reason)
            if step.kind is not None:
                jobs = launcher.launch(step)
                submission.note(step, jobs)
                row = launcher.row(step, jobs)
            tell(row)
            launcher.wait(step)


def check_cluster(cluster: str) -> None:
    """Makes sure that jobs can be submitted to a cluster from here.

    Raises:
        LussError: They cannot.
    """
    if cluster == "slurm" and not has_slurm():
        raise LussError("SLURM is not here: submit from a login node, or use --cluster local")


def preview(order: Order, tell: Callable[[Row, str], None], note: Callable[[str], None] = _unheard) -> None:
    """What `submit` would do, told with the sbatch file of every job; changes nothing.

    Raises:
        LussError: As `submit`, but for the scheduler.
    """
    _check_script(order)
    submission = Submission(order)
    for line in submission.notes:
        note(line)
    launcher = _Launcher(order, submission.folder, dry=True)
    for step in submission.steps(dry=True):
        if step.kind is None:
            tell(Row(step.stage.name, step.reason), "")
            continue
        jobs = [Job(f"<{step.stage.name}>", step.kind, step.tasks)]
        submission.note(step, jobs, dry=True)
        tell(launcher.row(step, jobs), launcher.sbatch(step) if order.cluster == "slurm" else "")


class _Launcher:
    """Turns steps into jobs of one cluster."""

    def __init__(self, order: Order, folder: Path, *, dry: bool = False) -> None:
        self.order, self.folder = order, folder
        text = to_yaml(order.run)
        self.config = jobs_folder(folder) / f"config-{hashlib.sha256(text.encode()).hexdigest()[:8]}.yaml"
        self.source = source_hash() if order.code != "live" else ""
        self.source_folder = package_folders()["luss"].parent
        if order.code == "snapshot":
            self.source_folder = (folder / "code" / self.source).absolute()
        self._running: list[Any] = []
        if not dry:
            write_text(self.config, text)
            if order.code == "snapshot":
                snapshot(self.source_folder)

    def launch(self, step: Step) -> list[Job]:
        """Submits a step.

        Raises:
            LussError: The scheduler refuses it.
        """
        executor, config = self._executor(step), str(self.config.absolute())
        calls = [StageJob(config, step.stage.name, shards, self.source) for shards in step.tasks or (None,)]
        try:
            with environment_variables(**self._environment()):
                found = executor.submit_array(calls) if len(calls) > 1 else [executor.submit(calls[0])]
        except (FailedJobError, FailedSubmissionError) as error:
            refused = f"{self.order.cluster} refuses the job of {step.stage.name}"
            raise LussError(f"{refused}: {_last_line(error)}") from error
        self._running = found
        assert step.kind is not None
        if self.order.cluster == "slurm":
            return [Job(found[0].job_id.partition("_")[0], step.kind, step.tasks)]
        if self.order.cluster == "debug":
            return []
        return [
            Job(job.job_id, step.kind, [tasks] if tasks else [], "local", psutil.Process(int(job.job_id)).create_time())
            for job, tasks in zip(found, step.tasks or [[]], strict=True)
        ]

    def wait(self, step: Step) -> None:
        """On a cluster that does not queue: waits for the step's end, and makes sure that it did its work.

        Raises:
            LussError: It did not.
        """
        if step.kind is None or self.order.cluster == "slurm":
            return
        for job in self._running:
            if self.order.cluster == "debug":
                error = job.exception()
                if error is not None:
                    raise error
            while not job.done():
                time.sleep(0.1)
        if not step.is_made(self.order.run):
            log = self.row(step, []).log
            raise LussError(f"{step.stage.name} did not come to its end: read {log}, then run the same command again")

    def row(self, step: Step, jobs: list[Job]) -> Row:
        """A line of the table."""
        shards = sum(len(tasks) for tasks in step.tasks)
        number = ", ".join(job.id for job in jobs)
        pieces = f"{shards} in {len(step.tasks)} task(s)" if step.tasks else ("join" if step.kind == "join" else "")
        log = jobs_folder(self.folder) / step.stage.name / f"{jobs[0].id if len(jobs) == 1 else '*'}_*_log.out"
        return Row(step.stage.name, number, pieces, str(step.resources), str(log))

    def sbatch(self, step: Step) -> str:
        """The text of a step's sbatch file."""
        executor = self._executor(step, dry=True)
        if len(step.tasks) > 1:
            executor.parameters["map_count"] = len(step.tasks)
        text: str = executor._make_submission_file_text(executor._submitit_command_str, "dry-run")
        return text

    def _environment(self) -> dict[str, str]:
        """Puts the source first. Python must not look into the working folder before, which may hold the edited one."""
        path = [str(self.source_folder), *filter(None, [os.environ.get("PYTHONPATH", "")])]
        return {"PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1"}

    def _executor(self, step: Step, *, dry: bool = False) -> Any:
        folder = (jobs_folder(self.folder) / step.stage.name).absolute()
        if self.order.cluster == "debug":
            return submitit.DebugExecutor(folder)
        resources = step.resources
        if self.order.cluster == "local":
            local = submitit.LocalExecutor(folder, max_num_timeout=_MAX_TIMEOUTS)
            names = ("timeout_min", "signal_delay_s", "tasks_per_node", "gpus_per_node", "setup")
            local.update_parameters(stderr_to_stdout=True, **{name: getattr(resources, name) for name in names})
            return local
        executor = (_PaperExecutor if dry else submitit.SlurmExecutor)(folder, max_num_timeout=_MAX_TIMEOUTS)
        executor.update_parameters(**_slurm_parameters(step, resources, self.folder, self._environment()))
        return executor


class _PaperExecutor(submitit.SlurmExecutor):
    """Writes sbatch files where there is no SLURM."""

    @classmethod
    def affinity(cls) -> int:
        """As if srun were here."""
        return 2


def _slurm_parameters(
    step: Step, resources: Resources, run_folder: Path, environment: Mapping[str, str]
) -> dict[str, Any]:
    exports = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    wishes = {name: getattr(resources, name) for name in ("partition", "account", "qos", "constraint")}
    return {
        "job_name": job_name(run_folder, step.stage.name),
        "time": resources.timeout_min,
        "nodes": resources.nodes,
        "ntasks_per_node": resources.tasks_per_node,
        "cpus_per_task": resources.cpus_per_task,
        "gpus_per_node": resources.gpus_per_node or None,
        "mem": f"{round(resources.mem_gb * 1024)}M",
        "signal_delay_s": resources.signal_delay_s,
        "array_parallelism": resources.array_parallelism,
        "setup": [*resources.setup, *exports],
        "stderr_to_stdout": True,
        "wckey": None,
        "dependency": f"afterok:{':'.join(step.after)}" if step.after else None,
        # Since SLURM 22.05 srun no longer takes the number of CPUs from sbatch: each process would get one.
        "srun_args": [f"--cpus-per-task={resources.cpus_per_task}", f"--wait={_WAIT_SECONDS}"],
        # Without the second a job whose predecessor failed waits for ever.
        "additional_parameters": {"requeue": True, "kill-on-invalid-dep": "yes", "chdir": str(Path.cwd())},
        **{name: value or None for name, value in wishes.items()},
    }


def _last_line(error: BaseException) -> str:
    lines = [line for line in re.sub(r"\x1b\[[\d;]*m", "", str(error)).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
