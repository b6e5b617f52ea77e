"""What is to be submitted of a run: the stages that are neither done nor queued, in which pieces, and after which jobs."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from luss.errors import LussError
from luss.settings import RunSettings
from stages.base import AnyStage
from stages.jobs.partitions import ask_machines, fitted
from stages.jobs.queue import QueueView, TaskState, cancel_tasks, unrecorded, view_queue
from stages.jobs.records import Job, Kind, StageJobs, spread, write_jobs
from stages.jobs.resources import Resources, chosen_fields, on_this_machine, resources_of
from stages.jobs.source import CodeChoice
from stages.pipeline import MANIFEST, STAGES
from stages.running.folder import StageFolder
from stages.running.lock import run_lock, stage_lock, submission_lock
from stages.running.preflight import check_processes, check_sizes
from stages.running.runner import run_stages, select
from stages.running.state import States

Cluster = Literal["slurm", "local", "debug"]


@dataclass(frozen=True)
class Order:
    """A submission.

    Attributes:
        run: All settings.
        cluster: Where to.
        command: What to type to repeat it.
        code: Which source the jobs run.
        words: Resources from the command line, None = not given.
        until: The last stage.
        force: A stage to run anew.
    """

    run: RunSettings
    cluster: Cluster
    command: str
    code: CodeChoice = "snapshot"
    words: Mapping[str, Any] = field(default_factory=dict)
    until: str | None = None
    force: str | None = None


@dataclass(frozen=True)
class Step:
    """A job or job array to submit, or the reason why a stage needs none.

    Attributes:
        stage: Whose.
        kind: What the job makes; None = there is nothing to do.
        resources: What to ask for.
        reason: Why there is nothing to do: done, or the jobs that are at it.
        tasks: Of "shards": the pieces of every task.
        after: Jobs that must have succeeded before.
    """

    stage: AnyStage
    kind: Kind | None
    resources: Resources
    reason: str = ""
    tasks: list[list[int]] = field(default_factory=list)
    after: list[str] = field(default_factory=list)

    def is_made(self, run: RunSettings) -> bool:
        """Whether its result is on disk."""
        states = States(run)
        if self.kind == "shards":
            missing = set(states.missing_shards(self.stage))
            return not any(missing & set(shards) for shards in self.tasks)
        return states.kind(self.stage) == "done"


class Submission:
    """One call of `luss submit`."""

    def __init__(self, order: Order) -> None:
        """Looks at the disk and the queue.

        Raises:
            LussError: Resources that cannot be; jobs of the run are queued with other settings, or stand in no record.
        """
        run, self.run, self.command, self.force = order.run, order.run, order.command, order.force
        # On this machine nothing queues; where nothing waits, pieces are no jobs of their own.
        self.folder, self.here, self.split = Path(run.output), order.cluster != "slurm", order.cluster != "debug"
        self.stages = select(run, until=order.until, force=order.force)
        self.resources = {stage.name: resources_of(run, stage, order.words) for stage in self.stages}
        if self.here:
            self.resources = {name: on_this_machine(resources) for name, resources in self.resources.items()}
        # Jobs that make a stage, of this and earlier submissions: what later ones wait for.
        self.makers: dict[str, list[str]] = {}
        self.fresh: set[str] = set()
        self.queue = QueueView({}, {})
        self._look()
        names = [stage.name for stage in self.stages]
        forced = names[names.index(order.force) :] if order.force else []
        todo = [stage for stage in self.stages if stage.name in forced or self.kind(stage) != "done"]
        # What was lowered, in words.
        self.notes = [] if self.here or not todo else self._fit(todo, order.words)
        self._todo = [stage.name for stage in todo]
        self._check_processes()

    def _check_processes(self) -> None:
        check_processes(States(self.run).run, {name: self.resources[name].num_tasks for name in self._todo})

    def _fit(self, stages: list[AnyStage], words: Mapping[str, Any]) -> list[str]:
        """Lowers what nobody chose to what the machines of a job's partition have.

        Raises:
            LussError: No machine has what somebody chose.
        """
        try:
            machines = ask_machines()
        except LussError as error:
            return [f"what the machines have is not known ({error}): jobs that ask for more would wait for ever"]
        notes = []
        for stage in stages:
            on_cpus = resources_of(self.run, stage, {**words, "gpus_per_node": 0})
            self.resources[stage.name], note = fitted(
                stage.name,
                self.resources[stage.name],
                machines,
                chosen=chosen_fields(self.run, stage, words),
                cpu_tasks=on_cpus.num_tasks // on_cpus.nodes,
                divides=partial(self._divides, stage.name),
            )
            notes += [note] if note else []
        return notes

    def _divides(self, name: str, processes: int) -> bool:
        try:
            check_processes(States(self.run).run, {name: processes})
        except LussError:
            return False
        return True

    def _look(self) -> None:
        self.queue, states = view_queue(self.folder, list(STAGES)), States(self.run)
        for name, record in self.queue.records.items():
            alive = self.queue.alive(name)
            if not alive:
                continue
            if self.here or any(job.cluster == "local" for job in record.jobs):
                raise LussError(
                    f"{name} is being made by job {', '.join(alive[:3])}: wait for it, or `luss cancel {self.folder}`"
                )
            if name == self.force or record.fingerprint != states.fingerprint(STAGES[name]):
                why = "to be run anew" if name == self.force else "now set otherwise"
                raise LussError(
                    f"{name} is {why}, but its job {', '.join(alive[:3])} is still queued or running: `luss cancel {self.folder}` "
                    "first, or give this run another name"
                )

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """One submission of a run at a time; the images are listed.

        Raises:
            LussError: Another process submits.
        """
        with submission_lock(self.folder):
            # Somebody may have submitted between the first look and the lock.
            self._look()
            lost = [] if self.here else unrecorded(self.folder, list(STAGES), self.queue.records.values())
            if lost:
                raise LussError(
                    f"job {', '.join(lost)} belongs to {self.folder}, but its submission was broken off: "
                    f"`luss cancel {self.folder}`, then submit again"
                )
            if self.kind(MANIFEST) != "done" or self.force == MANIFEST.name:
                # In this process: how many tasks an array has follows from it.
                run_stages(self.run, [MANIFEST], force=self.force)
                self.fresh |= {MANIFEST.name} if self.force == MANIFEST.name else set()
            # Jobs do not know what was typed, and batches are fitted to the images only now.
            check_sizes(self.run)
            self._check_processes()
            yield

    def kind(self, stage: AnyStage) -> str:
        """The state of a stage as it is now on disk: missing, partial, done or stale."""
        return States(self.run).kind(stage)

    def steps(self, *, dry: bool = False) -> Iterator[Step]:
        """What to submit, one after the other: `note` must be told of each before the next is asked for.

        Args:
            dry: Move no old results aside, and guess where the number of images is not known yet.
        """
        for stage in self.stages:
            if stage is MANIFEST:
                yield self._none(stage, "done" if self.kind(stage) == "done" else "is listed at submission")
                continue
            kind, alive = self.kind(stage), self.queue.alive(stage.name)
            again = stage.name == self.force or not self.fresh.isdisjoint(need.name for need in stage.needs)
            if kind == "done" and not again:
                yield self._none(stage, "done")
                continue
            if alive and again and not dry:
                # They wait for jobs that will never succeed.
                self._cancel(alive)
            alive = [] if again else alive
            if not dry:
                self._set_aside(stage, kind, again)
            after = [job for need in stage.needs for job in self.makers.get(need.name, [])]
            if stage.sharded and self.split:
                yield from self._pieces(stage, again, alive, after, dry=dry)
            elif alive:
                self.makers[stage.name] = alive
                yield self._none(stage, f"queued: {', '.join(alive)}")
            else:
                yield Step(stage, "stage", self.resources[stage.name], after=after)

    def _cancel(self, tasks: list[str]) -> None:
        cancel_tasks(tasks)
        self.queue.states.update({task: TaskState("cancelled") for task in tasks})

    def _none(self, stage: AnyStage, reason: str) -> Step:
        return Step(stage, None, self.resources[stage.name], reason)

    def _pieces(self, stage: AnyStage, again: bool, alive: list[str], after: list[str], *, dry: bool) -> Iterator[Step]:
        """The pieces that nobody is at, and the join after all."""
        jobs = self.queue.records[stage.name].jobs if alive else []
        making = [job for job in jobs if job.kind == "shards"]
        at_work = {task: job.shards_of(task) for job in making for task in job.task_ids() if task in alive}
        joining = [job.id for job in jobs if job.kind == "join" and job.id in alive]
        missing = self._missing(stage, again, dry=dry)
        taken = {shard for shards in at_work.values() for shard in shards}
        tasks = spread([shard for shard in missing if shard not in taken], self.resources[stage.name].array_max)
        if joining and not tasks:
            self.makers[stage.name] = joining
            yield self._none(stage, f"queued: {', '.join([*at_work, *joining])}")
            return
        if joining and not dry:
            self._cancel(joining)
        self.makers[stage.name] = list(at_work)
        if tasks:
            yield Step(stage, "shards", self.resources[stage.name], tasks=tasks, after=after)
        yield Step(stage, "join", self.resources[stage.name], after=self.makers[stage.name] or after)

    def _missing(self, stage: AnyStage, again: bool, *, dry: bool) -> list[int]:
        if dry and self.kind(MANIFEST) != "done":
            return [0]
        states = States(self.run)
        return list(range(states.num_shards(stage))) if again else states.missing_shards(stage)

    def _set_aside(self, stage: AnyStage, kind: str, again: bool) -> None:
        """Moves old results aside now, where the job could not: a job that starts many times must not begin anew each time.

        Raises:
            LussError: Somebody works on them.
        """
        forced = stage.name == self.force and kind != "missing"
        old = stage.sharded and kind != "missing" and (again or kind == "stale")
        if forced or old:
            lock = stage_lock(self.folder, stage.name) if stage.sharded else run_lock(self.folder)
            with lock:
                StageFolder(stage, States(self.run).place(stage)).set_aside()

    def note(self, step: Step, jobs: list[Job], *, dry: bool = False) -> None:
        """Keeps the jobs of a step, on disk too, for the steps and submissions after it."""
        name, ids = step.stage.name, [job.id for job in jobs]
        self.makers[name] = [*self.makers.get(name, []), *ids] if step.kind == "shards" else ids
        self.fresh.add(name)
        if dry or not jobs:
            return
        record = self.queue.records.get(name)
        alive = self.queue.alive(name)
        old = [job for job in record.jobs if any(task in alive for task in job.task_ids())] if record else []
        now = StageJobs(name, States(self.run).fingerprint(step.stage), self.command, [*old, *jobs])
        write_jobs(self.folder, now)
        self.queue.records[name] = now
        self.queue.states.update({task: TaskState("pending") for job in jobs for task in job.task_ids()})
