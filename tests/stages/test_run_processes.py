"""Several processes on one stage, as torchrun starts them."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from running import Fault, Launcher, losses


@pytest.fixture
def listed(finished: Path, tmp_path: Path) -> Path:
    """A run whose images are listed, and no more."""
    shutil.copytree(finished / "manifest", tmp_path / "run" / "manifest")
    return tmp_path / "run"


def check_same_training(run: Path, finished: Path) -> None:
    several, one = losses(run / "pretrain"), losses(finished / "pretrain")
    assert [line["step"] for line in several] == [line["step"] for line in one]
    for line, expected in zip(several[:4], one[:4], strict=True):
        assert line["loss"] == pytest.approx(expected["loss"], abs=1e-4)
        assert line["lr"] == expected["lr"]


def test_two_processes_of_torchrun_train_as_one_does(
    luss: Launcher, config: Path, finished: Path, listed: Path
) -> None:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "stages.pretrain",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.run(
        [*command, str(config), f"output={listed}"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert "global batch 20 = 2 process(es) x 1 x 10" in process.stdout
    check_same_training(listed, finished)
    # One process alone goes on from here.
    outcome = luss("run", str(config), f"output={listed}", "--until", "pixel_attention")
    assert outcome.code == 0, outcome.output
    assert "pretrain: done (" in outcome.output


def test_a_stage_of_one_process_is_refused_in_several(luss: Launcher, config: Path, finished: Path) -> None:
    shown = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    for outcome in luss.together(2, "cluster", str(config), f"output={finished}"):
        assert outcome.code == 2
        assert "error: cluster works in one process: start it without torchrun" in outcome.output
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == shown


def test_asking_one_process_to_stop_stops_all_with_a_checkpoint_and_they_continue(
    luss: Launcher, config: Path, finished: Path, listed: Path
) -> None:
    # The second process reads 10 images a step: the 25th is in its third.
    fault = Fault("open", ".jpg", 25, signal.SIGTERM)
    outcomes = luss.together(2, "pretrain", str(config), f"output={listed}", fault=fault)
    assert [outcome.code for outcome in outcomes] == [130, 130], outcomes
    assert "pretrain: stopped (another process was asked to stop)" in outcomes[0].output
    assert (listed / "pretrain" / "checkpoints" / "step-000000003.pt").is_file()
    outcomes = luss.together(2, "pretrain", str(config), f"output={listed}")
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    assert "continuing pretrain at step 3 of 6" in outcomes[0].output
    # One process speaks for all.
    assert "pretrain" not in outcomes[1].output.replace("stages.pretrain", "")
    check_same_training(listed, finished)


def test_a_batch_that_does_not_divide_over_the_processes_is_refused_with_the_divisor(
    luss: Launcher, config: Path, listed: Path
) -> None:
    for outcome in luss.together(2, "pretrain", str(config), f"output={listed}", "pretrain.batch_size=15"):
        assert outcome.code == 2
        assert "use a multiple of 2" in outcome.output
