"""A run that is stopped at any moment continues and ends with the same bits as one that was never stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from running import ORDER, Fault, Launcher, copy_until, losses, results

# (event, path, which of such events, loader workers): the run is killed at each in turn, and continued in between.
KILLS = [
    # Before the manifest, and before the list of facts that completes it.
    (Fault("os.link", "manifest/STARTED.json"), 0),
    (Fault("os.rename", "manifest/train.json"), 0),
    (Fault("os.rename", "evaluated/validation.json"), 0),
    (Fault("os.rename", "manifest/DONE.json"), 0),
    # Before anything is on disk; in mid-epoch, before and after the first checkpoint; with other workers; between checkpoint and export.
    (Fault("open", "pretrain/metrics.jsonl", 2), 0),
    (Fault("os.rename", "pretrain/checkpoints/step-000000003.pt"), 1),
    (Fault("open", "pretrain/metrics.jsonl", 5), 0),
    (Fault("open", "pretrain/metrics.jsonl", 2), 2),
    (Fault("os.rename", "pretrain/backbone.safetensors"), 0),
    (Fault("os.rename", "pretrain/DONE.json"), 0),
    (Fault("open", "pixel_attention/metrics.jsonl", 5), 1),
    (Fault("os.rename", "pixel_attention/attention.safetensors"), 0),
    (Fault("os.rename", "features/shard-00001.npy"), 0),
    (Fault("os.rename", "features/shard-00003.npy"), 0),
    (Fault("os.rename", "features/store.json"), 0),
    (Fault("open", "cluster/metrics.jsonl", 3), 0),
    (Fault("os.rename", "cluster/assignments.npy"), 0),
    (Fault("os.rename", "labels/shard-00002.h5"), 0),
    (Fault("os.rename", "labels/labels.h5", 2), 0),
    (Fault("open", "finetune/metrics.jsonl", 5), 1),
    (Fault("os.rename", "finetune/config.json"), 0),
    (Fault("os.rename", "predict/masks", 7), 0),
    (Fault("os.rename", "predict/shards/00000.json"), 0),
    (Fault("os.rename", "predict/clusters-validation.png"), 0),
    (Fault("os.rename", "evaluate/metrics.json"), 0),
    (Fault("os.rename", "evaluate/DONE.json"), 0),
]  # fmt: skip


def with_workers(number: int) -> list[str]:
    return [f"{stage}.workers={number}" for stage in ("pretrain", "pixel_attention", "finetune")]


def test_killed_in_every_stage_a_run_ends_with_the_same_bits_as_one_that_was_never_stopped(
    luss: Launcher, config: Path, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    outputs = []
    for fault, workers in KILLS:
        outcome = luss("run", str(config), f"output={run}", *with_workers(workers), fault=fault)
        assert outcome.code == -signal.SIGKILL, f"{fault} never came:\n{outcome.output}"
        # What was killed in the middle does not count as done.
        stage = next(name for name in reversed(ORDER) if (run / name).is_dir())
        assert not (run / stage / "DONE.json").exists()
        outputs.append(outcome.output)
    # A training that is complete but for its record is not done again.
    assert any("continuing pretrain at step 6 of 6" in output for output in outputs)
    outcome = luss("run", str(config), f"output={run}")
    assert outcome.code == 0, outcome.output
    assert results(run) == results(finished)
    assert not (run / "superseded").exists()
    left = [path for path in run.rglob(".*") if path.suffix == ".partial" and path.parent.name != "log"]
    assert not left
    products = json.loads((run / "pretrain" / "DONE.json").read_text(encoding="utf-8"))["products"]
    assert set(products) == {"backbone.safetensors", "backbone.json", "method.safetensors", "method.json"}


def test_a_killed_stage_says_where_it_continues(luss: Launcher, config: Path, finished: Path, tmp_path: Path) -> None:
    run = copy_until(finished, tmp_path, "pretrain")
    arguments = ("run", str(config), f"output={run}", "--until", "pretrain")
    luss(*arguments, fault=Fault("open", "pretrain/metrics.jsonl", 5))
    assert "pretrain" in luss("status", str(run)).output
    outcome = luss(*arguments)
    assert outcome.code == 0
    assert "continuing pretrain at step 3 of 6" in outcome.output


# One event in the middle of each stage that takes long.
STOPS = {
    "pretrain": Fault("open", "pretrain/metrics.jsonl", 2, signal.SIGTERM),
    "pixel_attention": Fault("open", "pixel_attention/metrics.jsonl", 5, signal.SIGINT),
    "extract_features": Fault("os.rename", "features/shard-00001.npy", 1, signal.SIGTERM),
    "cluster": Fault("open", "cluster/metrics.jsonl", 3, signal.SIGINT),
    "pseudo_labels": Fault("os.rename", "labels/shard-00001.h5", 1, signal.SIGTERM),
    "finetune": Fault("open", "finetune/metrics.jsonl", 5, signal.SIGINT),
    "predict": Fault("os.rename", "predict/masks", 3, signal.SIGTERM),
}


@pytest.fixture(scope="module")
def stopped(luss: Launcher, config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A run that was asked to stop in every stage of `STOPS`, and what each try printed; it ends finished."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    outputs = {}
    for stage, fault in STOPS.items():
        outcome = luss("run", str(config), f"output={run}", *with_workers(1), fault=fault)
        assert outcome.code == 130, f"{stage}: {outcome.output}"
        outputs[stage] = outcome.output
        if stage in ("pretrain", "pixel_attention", "finetune"):
            assert len(list((run / stage / "checkpoints").glob("step-*.pt"))) >= 1
    outcome = luss("run", str(config), f"output={run}")
    assert outcome.code == 0, outcome.output
    return run, outputs


@pytest.mark.parametrize("stage", STOPS)
def test_a_stage_that_is_asked_to_stop_says_so_and_how_to_go_on(
    stopped: tuple[Path, dict[str, str]], stage: str
) -> None:
    fault = STOPS[stage]
    assert fault.signal is not None
    output = stopped[1][stage]
    assert f"{stage}: stopped ({fault.signal.name} received); the same command continues it" in output
    assert f"stopped: {fault.signal.name} received; run the same command to continue" in output
    assert "Traceback" not in output


def test_a_run_that_was_asked_to_stop_in_every_stage_ends_with_the_same_bits(
    stopped: tuple[Path, dict[str, str]], finished: Path
) -> None:
    assert results(stopped[0]) == results(finished)


def test_training_that_is_asked_to_stop_loses_no_step(
    luss: Launcher, config: Path, finished: Path, tmp_path: Path
) -> None:
    run = copy_until(finished, tmp_path, "finetune")
    # At the second line of the log: the step goes to its end, and its checkpoint is written although no epoch ends there.
    fault = Fault("open", "finetune/metrics.jsonl", 2, signal.SIGTERM)
    assert luss("run", str(config), f"output={run}", "--until", "finetune", fault=fault).code == 130
    assert [path.name for path in (run / "finetune" / "checkpoints").iterdir()] == ["step-000000002.pt"]
    assert (
        "continuing finetune at step 2 of 6" in luss("run", str(config), f"output={run}", "--until", "finetune").output
    )


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_bits(path: Path) -> None:
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(byte ^ 255 for byte in content[middle : middle + 64])
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [damage_empty, damage_half, damage_bits])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before_with_a_warning_and_the_same_bits(
    luss: Launcher, config: Path, finished: Path, tmp_path: Path, damage: object
) -> None:
    run = copy_until(finished, tmp_path, "pretrain")
    arguments = ("run", str(config), f"output={run}", "--until", "pretrain", "pretrain.checkpoint_minutes=0.00001")
    luss(*arguments, fault=Fault("open", "pretrain/metrics.jsonl", 6))
    names = sorted(path.name for path in (run / "pretrain" / "checkpoints").glob("step-*"))
    assert names == ["step-000000004.pt", "step-000000005.pt"]
    assert callable(damage)
    damage(run / "pretrain" / "checkpoints" / names[-1])
    outcome = luss(*arguments)
    assert outcome.code == 0, outcome.output
    assert "step-000000005.pt is damaged" in outcome.output
    assert "continuing pretrain at step 4 of 6" in outcome.output
    for name in ("backbone.safetensors", "method.safetensors"):
        assert (run / "pretrain" / name).read_bytes() == (finished / "pretrain" / name).read_bytes()
    assert losses(run / "pretrain") == losses(finished / "pretrain")


def test_a_full_disk_is_told_and_a_later_run_continues_to_the_same_bits(
    luss: Launcher, config: Path, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    for fault in (
        Fault("open", "pretrain/metrics.jsonl", 2, None),
        Fault("open", "cluster/metrics.jsonl", 2, None),
        Fault("os.rename", "labels/shard-00000.h5", 1, None),
        Fault("os.rename", "predict/masks", 2, None),
    ):
        outcome = luss("run", str(config), f"output={run}", fault=fault)
        assert outcome.code == 2, outcome.output
        assert "error: the disk that holds" in outcome.output
        assert "is full: free some space and run the same command again, it continues" in outcome.output
        assert "Traceback" not in outcome.output
    outcome = luss("run", str(config), f"output={run}")
    assert outcome.code == 0, outcome.output
    assert results(run) == results(finished)


def test_a_real_process_that_is_killed_from_outside_in_mid_epoch_continues_to_the_same_bits(
    luss: Launcher, config: Path, finished: Path, tmp_path: Path
) -> None:
    run = copy_until(finished, tmp_path, "pretrain")
    words = [str(config), f"output={run}"]
    # A thousand epochs are long enough for any machine to be killed in: the run is another one, continued as it was.
    words += ["pretrain.epochs=1000", "pretrain.workers=2"]
    log = tmp_path / "output.txt"
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "stages", "pretrain", *words],
            stdout=file,
            stderr=file,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        try:
            wait_for(lambda: len(losses(run / "pretrain")) >= 5, process)
        finally:
            process.kill()
        assert process.wait() == -signal.SIGKILL
    before = losses(run / "pretrain")[:3]
    # Its lock and its workers are gone: the next process takes over, goes on behind the last epoch, and is stopped some steps later.
    continued = luss(
        "run", *words, "--until", "pretrain", fault=Fault("open", "pretrain/metrics.jsonl", 4, signal.SIGTERM)
    )
    assert continued.code == 130, continued.output
    assert "continuing pretrain at step" in continued.output
    found = losses(run / "pretrain")
    assert found[:3] == before
    assert [line["step"] for line in found] == list(range(len(found)))
    # A process that was never killed, stopped at the same step: weights, heads, queue, optimiser and random states are the same.
    whole = copy_until(finished, tmp_path / "whole", "pretrain")
    fault = Fault("open", "pretrain/metrics.jsonl", len(found), signal.SIGTERM)
    words = [str(config), f"output={whole}", "pretrain.epochs=1000", "pretrain.workers=0", "--until", "pretrain"]
    assert luss("run", *words, fault=fault).code == 130
    assert losses(whole / "pretrain") == found
    name = f"checkpoints/step-{len(found):09d}.pt"
    assert tensors(whole / "pretrain" / name) == tensors(run / "pretrain" / name)


def tensors(checkpoint: Path) -> dict[str, tuple[str, bytes]]:
    """The type and the bytes of all that a checkpoint holds, by its place in it."""
    found: dict[str, tuple[str, bytes]] = {}

    def collect(place: str, value: object) -> None:
        if isinstance(value, dict | list | tuple):
            for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
                collect(f"{place}/{key}", inner)
        elif isinstance(value, torch.Tensor):
            found[place] = (str(value.dtype), value.contiguous().numpy().tobytes())
        else:
            found[place] = (type(value).__name__, repr(value).encode())

    collect("", torch.load(checkpoint, weights_only=True))
    assert any(place.startswith("/model/") and ".weight" in place for place in found)
    return found


def wait_for(condition: object, process: "subprocess.Popen[bytes]") -> None:
    assert callable(condition)
    limit = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "the process ended too early"
        assert time.monotonic() < limit, "the process takes too long"
        time.sleep(0.005)
