"""Runs on a real SLURM: two simulated machines, one process on each.

In this order: jobs that are stopped in every way, then the pipeline from end to end, beside which a job runs into its time limit.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import GATE, Cluster
from tiny_run import write_tiny_config

pytestmark = pytest.mark.slurm


def losses(run: Path) -> list[dict[str, Any]]:
    """The lines of the pretraining's log without timings."""
    lines = [json.loads(line) for line in (run / "pretrain" / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if key not in ("images_per_second", "data_wait")} for line in lines
    ]


class Gate:
    """Holds the processes of a job in their third training step, at every start anew; see gate/sitecustomize.py."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.path = cluster, cluster.folder / "gate"
        self.start = -1

    def environment(self) -> dict[str, str]:
        """For `luss submit`."""
        path = [str(GATE), *filter(None, [os.environ.get("PYTHONPATH", "")])]
        return {"PYTHONPATH": os.pathsep.join(path), "LUSS_GATE": str(self.path)}

    def wait(self) -> list[int]:
        """Waits until both processes of the next start are in their third step; gives their numbers."""
        self.start += 1
        files = [Path(f"{self.path}.{self.start}.{rank}.waiting") for rank in range(2)]
        self.cluster.wait(
            lambda: all(file.exists() and file.read_text() for file in files), f"step 3 of start {self.start}"
        )
        return [int(file.read_text()) for file in files]

    def open(self) -> None:
        """Lets them go on."""
        Path(f"{self.path}.{self.start}").touch()


@pytest.fixture(scope="module")
def stopped(cluster: Cluster) -> Iterator[Path]:
    """A pretraining that is about to be stopped at its first start; the end cancels what is left of it."""
    run = cluster.folder / "stopped"
    yield run
    cluster.luss("cancel", str(run), check=False)


@pytest.fixture(scope="module")
def gate(cluster: Cluster) -> Gate:
    return Gate(cluster)


def check_stopped_at(run: Path, step: int) -> None:
    assert (run / "pretrain" / "checkpoints" / f"step-{step:09d}.pt").is_file()
    assert not (run / "pretrain" / "DONE.json").exists()


def test_a_job_that_another_one_takes_the_place_of_writes_a_checkpoint_and_is_queued_again(
    cluster: Cluster, stopped: Path, gate: Gate
) -> None:
    said = cluster.submit(stopped, "--until", "extract_features", "--partition", "low", **gate.environment())
    job = cluster.job(stopped, "pretrain")
    assert job in said
    gate.wait()
    assert "running" in cluster.luss("status", str(stopped))
    # More important, and in need of every processor.
    other = cluster.slurm(
        "sbatch", "--parsable", "-p", "high", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "true"
    )
    log = stopped / "jobs" / "pretrain" / f"{job}_0_log.out"
    cluster.wait(lambda: "CANCELLED AT" in log.read_text(), "the warning")
    gate.open()
    cluster.wait(lambda: cluster.state(job) == "PENDING", "the job back in the queue")
    cluster.wait(lambda: cluster.state(other) == "COMPLETED", "the end of the other job")
    check_stopped_at(stopped, 3)
    assert "requeued" in cluster.luss("status", str(stopped))


def test_a_signal_leads_to_a_checkpoint_and_back_into_the_queue(cluster: Cluster, stopped: Path, gate: Gate) -> None:
    job = cluster.job(stopped, "pretrain")
    cluster.start_again(job)
    gate.wait()
    cluster.slurm("scancel", "--signal=USR2", job)
    gate.open()
    cluster.wait(lambda: cluster.state(job) == "PENDING", "the job back in the queue")
    check_stopped_at(stopped, 6)
    # What is queued is not submitted again.
    assert f"queued: {job}" in cluster.submit(stopped, "--until", "extract_features", "--partition", "low")
    assert cluster.job(stopped, "pretrain") == job


def test_a_job_that_is_put_back_by_hand_goes_on_from_its_newest_checkpoint(
    cluster: Cluster, stopped: Path, gate: Gate
) -> None:
    job = cluster.job(stopped, "pretrain")
    cluster.start_again(job)
    gate.wait()
    cluster.slurm("scontrol", "requeue", job)
    gate.open()
    cluster.start_again(job)
    gate.wait()
    assert "continuing pretrain at step" in (stopped / "jobs" / "pretrain" / f"{job}_0_log.out").read_text()


def test_a_killed_process_is_named_ends_the_job_and_is_submitted_again(
    cluster: Cluster, stopped: Path, gate: Gate
) -> None:
    job = cluster.job(stopped, "pretrain")
    later = cluster.job(stopped, "extract_features")
    killed = int(Path(f"{gate.path}.{gate.start}.1.waiting").read_text())
    os.kill(killed, signal.SIGKILL)
    gate.open()
    cluster.wait(lambda: cluster.state(job) == "FAILED", "the end of the job")
    assert f"error: rank 1 (process {killed} on " in (stopped / "jobs" / "pretrain" / f"{job}_0_log.out").read_text()
    cluster.wait(lambda: cluster.state(later) == "CANCELLED", "the end of the jobs that wait for it")
    status = cluster.luss("status", str(stopped))
    assert "failed" in status
    assert "next: pretrain: it failed" in status
    cluster.submit(stopped, "--until", "pretrain")
    assert cluster.job(stopped, "pretrain") != job
    cluster.wait_for_done(stopped, "pretrain")


def test_without_a_word_about_resources_a_run_asks_for_what_the_machines_have_and_finishes(cluster: Cluster) -> None:
    run, config = cluster.folder / "plain", cluster.folder / "plain.yaml"
    write_tiny_config(config, cluster.folder / "shapes", "pretrain: {epochs: 1}\npixel_attention: {epochs: 1}\n")
    command = ("submit", str(config), f"output={run}", "--until", "cluster")
    said = cluster.luss(*command)
    assert (
        "pretrain: gpus_per_node 2 instead of 8, tasks_per_node 2 instead of 8, cpus_per_task 2 instead of 10" in said
    )
    assert "cluster: cpus_per_task 4 instead of 32" in said
    with pytest.raises(AssertionError, match=r"pretrain asks for .*3 GPU.*no machine of partition main has"):
        cluster.luss("submit", str(config), f"output={cluster.folder / 'refused'}", "--gpus-per-node", "3")
    assert not (cluster.folder / "refused").exists()
    cluster.wait_for_done(run, "cluster")


@pytest.fixture(scope="module")
def limited(cluster: Cluster) -> Iterator[Path]:
    """A run whose pretraining lasts longer than its time limit of one minute."""
    run = cluster.folder / "limited"
    words = ["pretrain.epochs=100000", "resources.pretrain.timeout_min=1", "resources.pretrain.signal_delay_s=20"]
    cluster.submit(run, *words, "--until", "pretrain", "--nodes", "1")
    yield run
    cluster.luss("cancel", str(run), check=False)


@pytest.fixture(scope="module")
def whole(cluster: Cluster, stopped: Path, limited: Path) -> Path:
    """A run from end to end, never stopped; its array of features is broken once."""
    run = cluster.folder / "whole"
    cluster.submit(run)
    cluster.wait_for_done(run, "pretrain")
    return run


def test_a_training_that_was_stopped_four_times_has_the_bits_of_one_that_never_was(
    cluster: Cluster, stopped: Path, whole: Path
) -> None:
    assert losses(stopped) == losses(whole)
    for name in ("backbone.safetensors", "method.safetensors"):
        assert (stopped / "pretrain" / name).read_bytes() == (whole / "pretrain" / name).read_bytes()


def test_one_process_torchrun_and_two_machines_lose_the_same(cluster: Cluster, whole: Path) -> None:
    one, two = cluster.folder / "one", cluster.folder / "two"
    for run in (one, two):
        shutil.copytree(whole / "manifest", run / "manifest")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "stages", "pretrain"]
    for run, start in ((one, ["-m", "stages", "pretrain"]), (two, torchrun)):
        command = [sys.executable, *start, str(cluster.config), f"output={run}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    for run in (two, whole):
        for line, expected in zip(losses(run)[:4], losses(one)[:4], strict=True):
            # Not the measures of collapse, which are means of each process's own.
            for name in ("step", "lr", "loss", "swav", "d2s_3", "p2p"):
                assert line[name] == pytest.approx(expected[name], abs=1e-4), f"{name} of {run.name}"


def test_every_stage_is_made_and_arrays_are_as_wide_as_there_are_shards(cluster: Cluster, whole: Path) -> None:
    cluster.wait_for_done(whole, "evaluate")
    assert cluster.record(whole, "extract_features")[0]["shards"] == [[0], [1], [2], [3]]
    assert cluster.record(whole, "pseudo_labels")[0]["shards"] == [[0], [1]]
    assert cluster.record(whole, "predict")[0]["shards"] == [[0], [1]]
    status = cluster.luss("status", str(whole))
    assert status.count(" done ") == 9
    assert "next: nothing, everything is done" in status
    assert "miou" in (whole / "evaluate" / "metrics.json").read_text()
    assert "global batch 20 = 2 process(es) x 1 x 10" in cluster.luss("logs", str(whole), "finetune")
    # Nothing is left to submit.
    cluster.submit(whole)
    assert not [name for name in cluster.slurm("squeue", "-h", "-o", "%o").splitlines() if str(whole) in name]


def test_a_failed_shard_is_made_again_alone(cluster: Cluster, whole: Path) -> None:
    run = cluster.folder / "broken"
    for stage in ("manifest", "pretrain", "pixel_attention"):
        shutil.copytree(whole / stage, run / stage)
    paths = sorted((cluster.folder / "shapes" / "train").rglob("*.jpg"))
    picture = paths[40]
    content = picture.read_bytes()
    picture.write_bytes(content[:100])
    try:
        cluster.submit(run, "--until", "extract_features")
        job, join = (entry["id"] for entry in cluster.record(run, "extract_features"))
        cluster.wait(lambda: cluster.state(join) == "CANCELLED", "the end of the join")
        cluster.wait(lambda: not cluster.slurm("squeue", "-h", "-j", job, "-o", "%T"), "the end of all tasks")
    finally:
        picture.write_bytes(content)
    status = cluster.luss("status", str(run))
    assert "failed 1" in status
    assert "completed 3" in status
    assert "error: " in cluster.luss("logs", str(run), "extract_features")
    said = cluster.submit(run, "--until", "extract_features")
    assert "1 in 1 task(s)" in said
    assert cluster.record(run, "extract_features")[0]["shards"] == [[2]]
    cluster.wait_for_done(run, "extract_features")
    for path in (whole / "extract_features" / "features").glob("*.npy"):
        assert (run / "extract_features" / "features" / path.name).read_bytes() == path.read_bytes()


def test_a_time_limit_leads_to_a_checkpoint_and_back_into_the_queue_and_a_cancelled_job_stays_so(
    cluster: Cluster, limited: Path
) -> None:
    job = cluster.job(limited, "pretrain")
    cluster.wait(lambda: cluster.state(job) == "PENDING", "the time limit")
    log = limited / "jobs" / "pretrain" / f"{job}_0_log.out"
    assert "timed-out" in log.read_text()
    assert f"Requeued job {job}" in log.read_text()
    cluster.start_again(job)
    cluster.wait(lambda: "continuing pretrain at step" in log.read_text(), "the second start")
    assert job in cluster.luss("cancel", str(limited))
    cluster.wait(lambda: cluster.state(job) == "CANCELLED", "the end")
    assert "cancelled" in cluster.luss("status", str(limited))
