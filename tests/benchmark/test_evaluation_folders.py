import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from naive_evaluation import plain
from PIL import Image

import luss.benchmark.pool as pool
import luss.benchmark.worker as worker
from luss.benchmark.evaluator import count_folders, evaluate_folders, evaluate_maps
from luss.benchmark.folders import EvaluationInputError
from luss.benchmark.matching import save_matching
from luss.data.imagenet_s import IGNORE, read_mask, write_mask
from luss.errors import LussError

pytestmark = pytest.mark.slow

THRESHOLDS = (0.2, 0.5, 0.8)


@pytest.fixture
def folders(tmp_path):
    """Ten images of two categories with predictions, masks and attention."""
    generator = np.random.default_rng(0)
    for index in range(10):
        name = f"n{index % 2}/image.{index}"
        shape = tuple(generator.integers(5, 40, 2))
        mask = generator.choice([0, 1, 300, IGNORE], shape)
        write_mask(tmp_path / "masks" / f"{name}.png", mask)
        write_mask(tmp_path / "predictions" / f"{name}.png", np.where(mask == IGNORE, 0, mask) ^ (mask == 1))
        (tmp_path / "attention" / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "attention" / f"{name}.npy", generator.random(shape, dtype=np.float32))
    return tmp_path


@pytest.fixture
def in_two_processes(monkeypatch):
    """Workers also for a handful of images."""
    monkeypatch.setattr(pool, "IMAGES_A_WORKER", 1)


class Deadly:
    """Attention whose reader dies in a worker process."""

    def __init__(self):
        self.parent = os.getpid()

    def shape(self, name):
        return None

    def read(self, name, size):
        if os.getpid() != self.parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.ones(size, np.float32)


def run(folders, **options):
    return evaluate_folders(folders / "predictions", folders / "masks", **{"num_classes": 300, **options})


def problems_of(folders, **options):
    with pytest.raises(EvaluationInputError) as error:
        run(folders, **options)
    assert all(problem in str(error.value) for problem in error.value.problems)
    return "\n".join(error.value.problems)


def test_folders_give_the_metrics_of_the_maps_in_them(folders):
    masks = sorted((folders / "masks").rglob("*.png"))
    maps = [
        (read_mask(folders / "predictions" / path.relative_to(folders / "masks")), read_mask(path)) for path in masks
    ]
    assert run(folders) == evaluate_maps(maps, num_classes=300)


def test_two_processes_give_what_one_gives(folders, in_two_processes):
    options = {"num_classes": 300, "attention": folders / "attention", "thresholds": THRESHOLDS}
    one = count_folders(folders / "predictions", folders / "masks", **options, workers=1)
    two = count_folders(folders / "predictions", folders / "masks", **options, workers=2)
    assert plain(one) == plain(two)


def test_each_file_is_decoded_once(folders, monkeypatch):
    decoded = []
    monkeypatch.setattr(worker, "read_mask", lambda path: decoded.append(path) or read_mask(path))
    run(folders, attention=folders / "attention", thresholds=THRESHOLDS)
    assert len(decoded) == len(set(decoded)) == 20


def test_all_problems_of_all_files_are_told_at_once(folders):
    predictions, masks = folders / "predictions", folders / "masks"
    (predictions / "n0/image.0.png").unlink()
    write_mask(predictions / "n0/surplus.png", np.zeros((2, 2), int))
    write_mask(predictions / "n1/image.1.png", np.zeros((3, 3), int))
    Image.new("L", (4, 4)).save(predictions / "n0/image.2.png")
    (predictions / "n1/image.3.png").write_bytes(b"no picture")
    shape = read_mask(masks / "n0/image.4.png").shape
    write_mask(predictions / "n0/image.4.png", np.full(shape, 301))
    write_mask(masks / "n1/image.5.png", np.full(read_mask(masks / "n1/image.5.png").shape, 999))
    Image.new("RGB", read_mask(masks / "n0/image.6.png").shape[::-1], "blue").save(masks / "n0/image.6.png")
    said = problems_of(folders)
    for name, fault in [
        ("n0/image.0.png", "missing"),
        ("n0/surplus.png", "surplus"),
        ("n1/image.1.png", "size 3 x 3"),
        ("n0/image.2.png", "mode L"),
        ("n1/image.3.png", "cannot be read"),
        ("n0/image.4", "prediction holds ids outside 0..300: 301"),
        ("n1/image.5", "mask holds ids outside 0..300: 999"),
        ("n0/image.6", "blue channel"),
    ]:
        assert any(name in line and fault in line for line in said.splitlines()), (name, fault, said)
    assert len(said.splitlines()) == 8


def test_ids_out_of_range_alone_stop_the_evaluation(folders):
    shape = read_mask(folders / "masks/n0/image.4.png").shape
    write_mask(folders / "predictions/n0/image.4.png", np.full(shape, 301))
    assert "301" in problems_of(folders)
    assert run(folders, allow_foreign_ids=True).num_images == 10


def test_a_worker_that_dies_is_told_with_a_remedy(folders, in_two_processes):
    with pytest.raises(LussError, match="fewer workers"):
        run(folders, attention=Deadly(), thresholds=(0.5,), workers=2)


WAITING = """
import signal, sys
from pathlib import Path
import luss.benchmark.evaluator as evaluator
import luss.benchmark.pool as pool

class Waiting:
    def shape(self, name):
        return None

    def read(self, name, size):
        print("reading", flush=True)
        signal.pause()

if __name__ == "__main__":
    pool.IMAGES_A_WORKER = 1
    folder = Path(sys.argv[1])
    evaluator.evaluate_folders(folder / "predictions", folder / "masks", num_classes=300, attention=Waiting(), workers=2)
"""


def test_a_killed_evaluation_leaves_no_worker_behind(folders):
    (folders / "waiting.py").write_text(WAITING)
    process = subprocess.Popen(
        [sys.executable, folders / "waiting.py", folders], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    with process:
        assert process.stdout.readline() == b"reading\n"
        process.kill()
        # The pipe ends when the last process that can write to it has ended.
        assert process.communicate(timeout=60)[0] in (b"", b"reading\n")


def test_no_process_is_started_for_a_handful_of_images(folders):
    assert run(folders, attention=Deadly(), thresholds=(0.5,), workers=8).num_images == 10


def test_problems_found_in_another_process_are_told_the_same(folders, in_two_processes):
    for index in (1, 8):
        path = folders / f"predictions/n{index % 2}/image.{index}.png"
        write_mask(path, np.full(read_mask(path).shape, 301))
    assert problems_of(folders, workers=2) == problems_of(folders)


def test_attention_that_is_missing_or_does_not_fit_is_told(folders):
    attention = folders / "attention"
    (attention / "n0/image.0.npy").unlink()
    np.save(attention / "n1/image.1.npy", np.zeros((1, 2), np.float32))
    values = np.load(attention / "n0/image.2.npy")
    np.save(attention / "n0/image.2.npy", values * np.float32("nan"))
    (attention / "n1/image.3.npy").write_bytes(b"nothing")
    lines = problems_of(folders, attention=attention).splitlines()
    assert len(lines) == 4
    for name, fault in [("0", "missing"), ("1", "shape (1, 2)"), ("2", "not finite"), ("3", "cannot be read")]:
        assert any(f"image.{name}" in line and fault in line for line in lines), (name, lines)


def test_attention_without_thresholds_is_searched_on_the_published_grid(folders):
    metrics = run(folders, attention=folders / "attention")
    assert len(metrics.curve) == 81
    assert metrics.miou == pytest.approx(max(point.miou for point in metrics.curve))


def test_thresholds_without_attention_are_refused(folders):
    with pytest.raises(LussError, match="thresholds apply to attention"):
        run(folders, thresholds=THRESHOLDS)


def test_a_matching_file_is_applied(folders):
    matching = {cluster: cluster for cluster in range(301)} | {1: 300, 300: 1}
    save_matching(folders / "match.json", matching)
    assert run(folders, matching=folders / "match.json") == run(folders, matching=matching)
    assert run(folders, matching=folders / "match.json").miou != run(folders, matching="identity").miou


def test_a_wrong_matching_is_told_before_any_file_is_read(tmp_path):
    with pytest.raises(LussError, match="hungarian, identity or a file"):
        evaluate_folders(tmp_path / "absent", tmp_path / "absent", num_classes=2, matching="best")


def test_hidden_files_and_files_of_other_kinds_do_not_count(folders):
    (folders / "predictions/n0/.image.0.png.12.partial.png").write_bytes(b"half")
    (folders / "predictions/method.txt").write_text("Method name: ours")
    assert run(folders).num_images == 10


def test_progress_ends_with_all_images(folders):
    seen = []
    run(folders, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (10, 10)


@pytest.mark.parametrize("workers", [0, -1])
def test_a_number_of_workers_below_one_is_told_before_any_file_is_read(tmp_path, workers):
    with pytest.raises(LussError, match="number of workers"):
        run(tmp_path, workers=workers)


@pytest.mark.parametrize(("missing", "word"), [("predictions", "predictions"), ("masks", "masks")])
def test_an_absent_folder_is_named(tmp_path, missing, word):
    for name in {"predictions", "masks"} - {missing}:
        (tmp_path / name).mkdir()
    with pytest.raises(LussError, match=f"folder of {word}"):
        run(tmp_path)


def test_a_folder_without_masks_is_refused(tmp_path):
    (tmp_path / "predictions").mkdir()
    (tmp_path / "masks").mkdir()
    with pytest.raises(LussError, match="holds no mask"):
        run(tmp_path)
