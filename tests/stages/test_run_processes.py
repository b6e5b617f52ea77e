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
        "stages",
        "pretrain",
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


def test_a_pretraining_that_several_processes_begin_lists_the_images_first(
    luss: Launcher, config: Path, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    outcomes = luss.together(2, "pretrain", str(config), f"output={run}", "pretrain.epochs=0")
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    assert outcomes[0].output.count("manifest: done in") == 1
    assert "manifest" not in outcomes[1].output
    for name in ("train.tsv", "train.offsets.npy"):
        own, expected = (each / "manifest" / "manifest" / name for each in (run, finished))
        assert own.read_bytes() == expected.read_bytes()
    assert (run / "pretrain" / "DONE.json").is_file()


def test_a_listing_that_fails_ends_all_processes_with_its_reason(luss: Launcher, config: Path, tmp_path: Path) -> None:
    for outcome in luss.together(
        2, "pretrain", str(config), f"output={tmp_path / 'run'}", f"data.root={tmp_path / 'no'}"
    ):
        assert outcome.code == 2, outcome
        assert "which is not a folder" in " ".join(outcome.output.split())


def test_a_stage_of_one_process_is_refused_in_several(luss: Launcher, config: Path, finished: Path) -> None:
    shown = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    for outcome in luss.together(2, "evaluate", str(config), f"output={finished}"):
        assert outcome.code == 2
        assert "error: evaluate works in one process: start it without torchrun" in outcome.output
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
    assert "pretrain" not in outcomes[1].output
    check_same_training(listed, finished)


def test_a_batch_that_does_not_divide_over_the_processes_is_refused_with_the_divisor(
    luss: Launcher, config: Path, listed: Path
) -> None:
    for outcome in luss.together(2, "pretrain", str(config), f"output={listed}", "pretrain.batch_size=15"):
        assert outcome.code == 2
        assert "use a multiple of 2" in outcome.output


def test_queue_codes_and_batch_norm_of_two_processes_are_those_of_one(
    luss: Launcher, config: Path, finished: Path, listed: Path
) -> None:
    # From the third step on the queue is full.
    words = [str(config), "pretrain.method.clustering.queue_start_epoch=0", "--until", "pretrain"]

    def alone(name: str, *more: str) -> list[float]:
        run = listed.parent / name
        shutil.copytree(finished / "manifest", run / "manifest")
        outcome = luss("run", *words, *more, f"output={run}")
        assert outcome.code == 0, outcome.output
        return [line["loss"] for line in losses(run / "pretrain")]

    expected, without_queue = alone("alone"), alone("no-queue", "pretrain.method.clustering.queue_length=0")
    for outcome in luss.together(2, "pretrain", *words[:2], f"output={listed}"):
        assert outcome.code == 0, outcome.output
    found = [line["loss"] for line in losses(listed / "pretrain")]
    assert found[:4] == pytest.approx(expected[:4], abs=1e-4)
    assert without_queue[:2] == pytest.approx(expected[:2], abs=1e-6)
    # The numbers would tell a queue that is not shared, and batch norm over each process's own images.
    assert all(abs(loss - other) > 0.001 for loss, other in zip(expected[2:4], without_queue[2:4], strict=True))
    shutil.rmtree(listed / "pretrain")
    for outcome in luss.together(2, "pretrain", *words[:2], f"output={listed}", "pretrain.sync_batch_norm=false"):
        assert outcome.code == 0, outcome.output
    assert abs(losses(listed / "pretrain")[0]["loss"] - expected[0]) > 0.001


def test_each_process_lists_unreadable_images_by_itself_and_one_list_is_left(
    luss: Launcher, config: Path, shapes_folder: Path, tmp_path: Path
) -> None:
    photos, run = tmp_path / "photos", tmp_path / "run"
    photos.mkdir()
    for place, path in enumerate(sorted((shapes_folder / "train").rglob("*.jpg"))):
        content = path.read_bytes()
        (photos / f"{place:02d}.jpg").write_bytes(content[: len(content) // 3] if place % 20 == 0 else content)
    words = [str(config), f"data.root={photos}", f"output={run}", "data.max_skipped_share=0.05"]
    assert luss("run", *words, "--until", "manifest").code == 0
    # Left by an earlier try on more processes.
    (run / "pretrain").mkdir()
    (run / "pretrain" / "skipped.rank-5.csv").write_text("path,reason\nearlier.jpg,truncated\n", encoding="utf-8")
    outcomes = luss.together(2, "pretrain", *words)
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes
    lines = (run / "pretrain" / "skipped.csv").read_text(encoding="utf-8").splitlines()
    assert sorted(Path(line.partition(",")[0]).name for line in lines[1:]) == [
        "00.jpg",
        "20.jpg",
        "40.jpg",
        "earlier.jpg",
    ]
    assert not list((run / "pretrain").glob("skipped.rank-*"))
