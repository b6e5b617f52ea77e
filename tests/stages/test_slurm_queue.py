"""What a scheduler says, from canned answers."""

import json
from pathlib import Path

import pytest

from luss.errors import LussError
from stages.jobs.queue import QueueView, TaskState, next_step, parse_sacct, parse_squeue, summary, task_states
from stages.jobs.records import Job, StageJobs, log_files, read_jobs, spread, write_jobs
from stages.running.state import StageState

SQUEUE = """\
6_2|PENDING|JobArrayTaskLimit|0||
6_0|PENDING|BeginTime|2|
7|RUNNING|None|0|
8|COMPLETING|None|0|
9|PENDING|DependencyNeverSatisfied|0|
10|CONFIGURING|None|1|
"""

SACCT = """\
6_0|REQUEUED|0:0
6_0.batch|CANCELLED|0:15
6_1|CANCELLED by 0|0:0
6_[2-3,5%2]|PENDING|0:0
11|FAILED|1:0
11.batch|FAILED|1:0
11.0|OUT_OF_MEMORY|0:125
12|TIMEOUT|0:0
13|NODE_FAIL|0:0
14|COMPLETED|0:0
15|FAILED|2:0
16|PREEMPTED|0:0
17|OUT_OF_MEMORY|0:125
"""


def test_the_queue_says_who_waits_works_and_was_put_back() -> None:
    assert parse_squeue(SQUEUE) == {
        "6_2": TaskState("pending", "JobArrayTaskLimit"),
        "6_0": TaskState("requeued", "BeginTime"),
        "7": TaskState("running"),
        "8": TaskState("running"),
        "9": TaskState("cancelled"),
        "10": TaskState("running"),
    }


def test_accounts_say_how_jobs_ended_and_a_step_without_memory_says_why_its_job_failed() -> None:
    assert parse_sacct(SACCT) == {
        "6_0": TaskState("requeued"),
        "6_1": TaskState("cancelled"),
        "6_2": TaskState("pending"),
        "6_3": TaskState("pending"),
        "6_5": TaskState("pending"),
        "11": TaskState("out of memory"),
        "12": TaskState("timed out"),
        "13": TaskState("node failed"),
        "14": TaskState("completed"),
        "15": TaskState("failed", "exit code 2:0"),
        "16": TaskState("preempted"),
        "17": TaskState("out of memory"),
    }


def put_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> None:
    for name, script in scripts.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_what_has_left_the_queue_is_looked_up_in_the_accounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_on_path(
        tmp_path,
        monkeypatch,
        squeue="echo '7_1|RUNNING|None|0|'",
        sacct="echo '7_0|COMPLETED|0:0'; echo '7_1|FAILED|1:0'",
    )
    assert task_states([Job("7", "shards", [[0], [1]]), Job("8", "stage")]) == {
        "7_0": TaskState("completed"),
        "7_1": TaskState("running"),
        "8": TaskState("gone"),
    }


def test_a_cluster_without_accounts_has_forgotten_old_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_on_path(
        tmp_path,
        monkeypatch,
        squeue="echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1",
        sacct="echo 'Slurm accounting storage is disabled' >&2; exit 1",
    )
    assert task_states([Job("7", "stage")]) == {"7": TaskState("gone")}


def test_a_scheduler_that_does_not_answer_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_on_path(tmp_path, monkeypatch, squeue="echo 'Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(LussError, match="Unable to contact slurm controller"):
        task_states([Job("7", "stage")])
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(LussError, match="squeue is not here: run this where SLURM's commands are"):
        task_states([Job("7", "stage")])


def test_a_local_job_whose_process_number_now_belongs_to_another_program_is_gone() -> None:
    assert task_states([Job("1", "stage", cluster="local", started=12.0)]) == {"1": TaskState("gone")}


def test_states_of_many_tasks_are_counted() -> None:
    states = [
        TaskState("running"),
        TaskState("pending", "Priority"),
        TaskState("pending", "Resources"),
        TaskState("failed"),
    ]
    assert summary(states) == "running 1, pending 2 (Priority, Resources), failed 1"
    assert summary([TaskState("requeued", "BeginTime")]) == "requeued (BeginTime)"


DISK = {"manifest": StageState("done"), "pretrain": StageState("partial"), "predict": StageState("missing")}


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        ("running", "nothing to do; `luss logs run pretrain --follow` shows pretrain at work"),
        ("out of memory", "it ran out of memory: raise resources.pretrain.mem_gb; then luss submit c.yaml"),
        ("timed out", "its time limit ended before it could write a checkpoint"),
        ("failed", "it failed: read `luss logs run pretrain`, mend it; then luss submit c.yaml"),
        ("node failed", "its machine failed; then luss submit c.yaml"),
        ("cancelled", "it was cancelled, or a job before it failed; then luss submit c.yaml"),
        ("gone", "the scheduler has forgotten how"),
        ("completed", "next: luss submit c.yaml"),
    ],
)
def test_the_next_step_is_that_of_the_first_stage_that_is_not_done(kind: str, advice: str) -> None:
    records = {"pretrain": StageJobs("pretrain", "f", "luss submit c.yaml", [Job("7", "stage")])}
    assert advice in next_step(Path("run"), DISK, QueueView(records, {"7": TaskState(kind)}))


def test_there_is_nothing_to_do_after_the_last_stage() -> None:
    disk = {"manifest": StageState("done")}
    assert next_step(Path("run"), disk, QueueView({}, {})) == "next: nothing, everything is done"


def test_a_failed_shard_is_told_although_others_are_at_work() -> None:
    jobs = [Job("7", "shards", [[0], [1]]), Job("8", "join")]
    queue = QueueView(
        {"pretrain": StageJobs("pretrain", "f", "luss submit c.yaml", jobs)},
        {"7_0": TaskState("running"), "7_1": TaskState("failed"), "8": TaskState("cancelled")},
    )
    assert "pretrain: it failed" in next_step(Path("run"), DISK, queue)


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    record = StageJobs("predict", "f", "luss submit c.yaml", [Job("7", "shards", [[0, 1], [2]]), Job("8", "join")])
    write_jobs(tmp_path, record)
    found = read_jobs(tmp_path, "predict")
    assert found == record
    assert found is not None
    assert found.task_ids() == ["7_0", "7_1", "8"]
    assert record.jobs[0].shards_of("7_1") == [2]
    assert read_jobs(tmp_path, "cluster") is None


@pytest.mark.parametrize(
    "change",
    ["[]", '{"jobs": [{"job": 3}]}', {"fingerprint": None}, {"jobs": [3]}, {"jobs": [{"id": 7, "kind": "stage"}]},
     {"jobs": [{"id": "x", "kind": "stage"}]}, {"jobs": [{"id": "7", "kind": "other"}]}, {"jobs": [{"id": "7", "kind": "shards", "shards": [3]}]}],
)  # fmt: skip
def test_a_damaged_record_is_an_error_that_says_what_to_do(tmp_path: Path, change: str | dict[str, object]) -> None:
    whole = {"stage": "cluster", "fingerprint": "f", "command": "luss submit", "jobs": []}
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "cluster.json").write_text(change if isinstance(change, str) else json.dumps(whole | change))
    with pytest.raises(
        LussError, match=r"cluster\.json is (damaged|not a record of jobs) .*: delete it once its jobs have ended"
    ):
        read_jobs(tmp_path, "cluster")


def test_shards_are_dealt_evenly_and_none_is_lost() -> None:
    for num_tasks in range(1, 12):
        dealt = spread(range(10), num_tasks)
        assert [shard for task in dealt for shard in task] == list(range(10))
        sizes = [len(task) for task in dealt]
        assert len(dealt) == min(num_tasks, 10)
        assert max(sizes) - min(sizes) <= 1
    assert spread([], 5) == []


def test_the_logs_of_a_job_are_in_the_order_of_its_processes(tmp_path: Path) -> None:
    folder = tmp_path / "jobs" / "pretrain"
    folder.mkdir(parents=True)
    for name in ("7_10_log.out", "7_2_log.out", "7_0_log.out", "17_0_log.out"):
        (folder / name).touch()
    assert [path.name for path in log_files(tmp_path, "pretrain", "7")] == [
        "7_0_log.out",
        "7_2_log.out",
        "7_10_log.out",
    ]
