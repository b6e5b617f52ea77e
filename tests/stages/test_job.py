"""A job by itself: what it asks for, and what it does when it is told to stop."""

import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from luss.config import load_config
from luss.errors import LussError
from luss.progress import Interrupted
from stages.jobs.launch import StageJob
from stages.jobs.resources import on_this_machine, resources_of
from stages.pipeline import STAGES


class Signalled:
    """A job that a signal has stopped, and what submitit's handler was told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, reason: str, config: Path) -> None:
        self.told: list[int] = []
        self.job = StageJob(str(config), "pretrain", None, "")

        def stopped(*arguments: Any, **words: Any) -> None:
            raise Interrupted(reason)

        monkeypatch.setattr("stages.jobs.launch.run_stages", stopped)
        self.previous = signal.signal(signal.SIGUSR2, lambda number, frame: self.told.append(number))

    def run(self) -> int:
        try:
            self.job()
        except SystemExit as ended:
            return int(str(ended.code))
        finally:
            signal.signal(signal.SIGUSR2, self.previous)
        return 0


def test_after_the_warning_and_the_checkpoint_a_job_is_queued_again(
    monkeypatch: pytest.MonkeyPatch, config: Path
) -> None:
    signalled = Signalled(monkeypatch, "SIGUSR2 received", config)
    assert signalled.run() == 0
    assert signalled.told == [signal.SIGUSR2]


def test_only_the_first_process_speaks_to_the_scheduler(monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
    for name, value in {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0"}.items():
        monkeypatch.setenv(name, value)
    signalled = Signalled(monkeypatch, "another process was asked to stop", config)
    assert signalled.run() == 0
    assert signalled.told == []


@pytest.mark.parametrize(("preempted", "code"), [("None", 130), ("2026-11-21T07:19:06", 0)])
def test_a_cancelled_job_stays_cancelled_and_a_preempted_one_comes_again(
    monkeypatch: pytest.MonkeyPatch, config: Path, tmp_path: Path, preempted: str, code: int
) -> None:
    (tmp_path / "scontrol").write_text(
        f"#!/bin/sh\necho JobId=7 PreemptEligibleTime=2026 PreemptTime={preempted} SuspendTime=None\n"
    )
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    signalled = Signalled(monkeypatch, "SIGTERM received", config)
    assert signalled.run() == code
    assert signalled.told == ([signal.SIGUSR2] if code == 0 else [])


def test_what_is_queued_again_is_the_same_job() -> None:
    job = StageJob("config.yaml", "predict", [3, 4], "hash")
    again = job.checkpoint().function
    assert vars(again) == {"config": "config.yaml", "stage": "predict", "shards": [3, 4], "source": "hash"}


def test_the_command_line_wins_over_the_stage_and_that_over_all_stages(config: Path) -> None:
    words = [
        "resources.default.cpus_per_task=3",
        "resources.pretrain.cpus_per_task=5",
        "resources.default.gpus_per_node=0",
    ]
    run = load_config(config, [*words, "resources.default.tasks_per_node=2"])
    assert resources_of(run, STAGES["pretrain"], {}).cpus_per_task == 5
    assert resources_of(run, STAGES["pretrain"], {"cpus_per_task": 7}).cpus_per_task == 7
    assert resources_of(run, STAGES["finetune"], {}).cpus_per_task == 3
    assert resources_of(run, STAGES["finetune"], {}).num_tasks == 2
    # Shards are one process each, and k-means only works on several where its own block says so.
    for stage in ("predict", "cluster"):
        found = resources_of(run, STAGES[stage], {})
        assert (found.num_tasks, found.gpus_per_node) == (1, 0)
    several = load_config(config, ["resources.cluster.nodes=4", "resources.cluster.gpus_per_node=0"])
    assert resources_of(several, STAGES["cluster"], {}).num_tasks == 4


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("resources.pretrain.nodes=0", "resources.pretrain.nodes is 0: it must be 1 or more"),
        ("resources.default.mem_gb=0", "mem_gb is 0.0: it must be 0.1 or more"),
        ("resources.pretrain.timeout_min=2", "signal_delay_s is 120, but the time limit is 2 min"),
    ],
)
def test_resources_that_cannot_be_are_refused(config: Path, word: str, message: str) -> None:
    with pytest.raises(LussError, match=re.escape(message)):
        resources_of(load_config(config, [word]), STAGES["pretrain"], {})


def test_a_word_on_the_command_line_has_the_range_of_its_setting(config: Path) -> None:
    with pytest.raises(LussError, match=re.escape("resources.pretrain.nodes is 0: it must be 1 or more")):
        resources_of(load_config(config, []), STAGES["pretrain"], {"nodes": 0})


def test_a_machine_without_gpus_works_in_one_process(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    asked = resources_of(load_config(config, []), STAGES["pretrain"], {})
    assert on_this_machine(asked).num_tasks == 1
    two = on_this_machine(replace(asked, gpus_per_node=0, tasks_per_node=2))
    assert (two.num_tasks, two.gpus_per_node) == (2, 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert on_this_machine(asked).num_tasks == 4
