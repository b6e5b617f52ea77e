"""`luss submit` without a scheduler: the same jobs on this machine."""

import shutil
from pathlib import Path
from signal import SIGKILL

import pytest
from running import Fault, Launcher, losses, results

from stages.running.lock import run_lock


def with_stages(finished: Path, folder: Path, *stages: str) -> Path:
    """A run with some stages of a finished one."""
    for stage in stages:
        shutil.copytree(finished / stage, folder / stage)
    return folder


def test_local_jobs_make_what_one_process_makes(luss: Launcher, config: Path, finished: Path, tmp_path: Path) -> None:
    upstream = ("manifest", "pretrain", "pixel_attention", "extract_features", "cluster", "pseudo_labels", "finetune")
    run = with_stages(finished, tmp_path / "run", *upstream)
    command = ("submit", str(config), f"output={run}", "resources.default.cpus_per_task=1000")
    outcome = luss(*command, "--cluster", "local", "--until", "predict")
    assert outcome.code == 0, outcome.output
    assert results(run).items() <= results(finished).items()
    # The shards were made by one job and joined by another, both from the copy of the source.
    logs = [path.read_text() for path in sorted((run / "jobs" / "predict").glob("*_log.out"))]
    assert len(logs) == 2
    assert len(list((run / "code").iterdir())) == 1
    outcome = luss("logs", str(run), "predict")
    assert "predict: done in" in outcome.output
    # The rest in this very process.
    outcome = luss(*command, "--cluster", "debug")
    assert outcome.code == 0, outcome.output
    assert results(run) == results(finished)
    outcome = luss("status", str(run))
    assert "next: nothing, everything is done" in outcome.output
    assert "nothing is queued or running" in luss("cancel", str(run)).output


def test_a_local_job_that_fails_ends_the_submission_and_names_its_log(
    luss: Launcher, config: Path, finished: Path, tmp_path: Path
) -> None:
    run = with_stages(finished, tmp_path / "run", "manifest", "pretrain")
    (run / "pretrain" / "backbone.safetensors").write_bytes(
        bytes((run / "pretrain" / "backbone.safetensors").stat().st_size)
    )
    outcome = luss("submit", str(config), f"output={run}", "--cluster", "local", "--until", "cluster")
    assert outcome.code == 2
    assert "pixel_attention did not come to its end: read " in outcome.output
    assert not (run / "jobs" / "extract_features.json").exists()
    outcome = luss("status", str(run))
    assert "next: pixel_attention: its job has ended" in outcome.output
    assert f"luss submit {config} output={run} --cluster=local" in outcome.output


def test_mistakes_are_told_before_anything_is_submitted(luss: Launcher, config: Path, tmp_path: Path) -> None:
    for words, message in (
        (("data.root=nowhere",), "nowhere"),
        (("resources.pretrain.nodes=0",), "resources.pretrain.nodes is 0"),
        (("pretrain.epoch=1",), "did you mean 'pretrain.epochs'"),
        (("--until", "cook"), "there is no stage 'cook'"),
    ):
        outcome = luss("submit", str(config), f"output={tmp_path / 'run'}", "--cluster", "local", *words)
        assert outcome.code == 2
        assert message in outcome.output
    assert not (tmp_path / "run").exists()


def test_a_dry_run_prints_files_for_slurm(luss: Launcher, config: Path, finished: Path, tmp_path: Path) -> None:
    run = with_stages(finished, tmp_path / "run", "manifest")
    outcome = luss("submit", str(config), f"output={run}", "--dry-run", "--gpus-per-node", "2", "--account", "lab")
    assert outcome.code == 0, outcome.output
    assert outcome.output.count("#SBATCH --account=lab") == 11
    assert outcome.output.count("#SBATCH --ntasks-per-node=2") == 3
    assert [path.name for path in run.iterdir()] == ["manifest"]


def test_the_process_that_died_is_named_and_training_goes_on_from_its_checkpoint(
    luss: Launcher, config: Path, finished: Path, tmp_path: Path
) -> None:
    run = with_stages(finished, tmp_path / "run", "manifest")
    # The second process reads 10 images a step: the 45th is in its fifth, after the checkpoint of the first epoch.
    outcomes = luss.together(2, "pretrain", str(config), f"output={run}", fault=Fault("open", ".jpg", 45, SIGKILL))
    assert [outcome.code for outcome in outcomes] == [2, -9]
    assert "error: rank 1 (process " in outcomes[0].output
    assert "has died; everything up to the last checkpoint is kept" in outcomes[0].output
    outcomes = luss.together(2, "pretrain", str(config), f"output={run}")
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    assert "continuing pretrain at step 3 of 6" in outcomes[0].output
    for line, expected in zip(losses(run / "pretrain")[:4], losses(finished / "pretrain")[:4], strict=True):
        assert line["loss"] == pytest.approx(expected["loss"], abs=1e-4)


def test_the_error_of_one_process_is_told_by_all(luss: Launcher, config: Path, finished: Path, tmp_path: Path) -> None:
    run = with_stages(finished, tmp_path / "run", "manifest")
    # Only the first process takes the lock, which this one holds.
    with run_lock(run):
        outcomes = luss.together(2, "pretrain", str(config), f"output={run}")
    assert [outcome.code for outcome in outcomes] == [2, 2]
    assert "is in use by process" in outcomes[0].output
    assert "rank 0 (process " in outcomes[1].output
    assert "failed: the run" in outcomes[1].output
