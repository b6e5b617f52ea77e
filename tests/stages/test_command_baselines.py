"""`luss baselines`: what is measured, what is kept, and what is refused."""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from running import Fault, Launcher, Outcome

from luss.benchmark.evaluator import evaluate_maps
from luss.config import load_config
from luss.data.imagenet_s import read_mask
from luss.labels.store import LabelStore
from luss.labels.writer import INDEX_NAME
from luss.settings import RunSettings
from stages.commands import baselines
from stages.running.baselines import NAMES, baseline_rows, sub_run
from stages.running.results import settings_of_run

SIMPLE = ["background", "centred_box", "whole_image", "oracle_box"]


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may change."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def measured(finished: Path, luss: Launcher, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """A run with its baselines, and what the command said; tests must not change it."""
    folder = tmp_path_factory.mktemp("measured") / "run"
    shutil.copytree(finished, folder)
    outcome = luss("baselines", str(folder))
    assert outcome.code == 0, outcome.output
    return folder, outcome


def entries(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "baselines" / "metrics.json").read_text(encoding="utf-8"))
    return content["baselines"]


def masks(folder: Path) -> list[Any]:
    return [read_mask(path) for path in sorted((folder / "validation-segmentation").rglob("*.png"))]


def test_a_run_over_another_backbone_is_given_no_pretraining(config: Path) -> None:
    other = sub_run(load_config(config, ["pretrain.weights=outputs/a"]), "weights", "w.pth")
    assert (other.pretrain.weights, other.pretrain.backbone.weights) == ("", "w.pth")


def test_all_baselines_but_the_weights_are_measured_and_stand_beside_the_run(measured: tuple[Path, Outcome]) -> None:
    run, outcome = measured
    assert list(entries(run)) == [*SIMPLE, "labels", "untrained"]
    assert all(list(entry["splits"]) == ["validation"] for entry in entries(run).values())
    assert "weights: left out" in outcome.output
    table = [line for line in outcome.output.splitlines() if "baseline: " in line]
    assert len(table) == 6
    own = json.loads((run / "evaluate" / "metrics.json").read_text(encoding="utf-8"))
    assert any("unsupervised" in line and f"{own['miou']:.1f}" in line for line in outcome.output.splitlines())
    for line, entry in zip(table, entries(run).values(), strict=True):
        assert f" {entry['splits']['validation']['miou']:.1f} " in line


def test_everything_background_scores_the_background_alone(measured: tuple[Path, Outcome], shapes_folder: Path) -> None:
    found = entries(measured[0])["background"]["splits"]["validation"]
    true = np.concatenate([mask.ravel() for mask in masks(shapes_folder)])
    assert found["ious"][0] == pytest.approx(100 * (true == 0).sum() / (true != 1000).sum())
    assert (found["image_accuracy"], found["f_measure"], max(found["ious"][1:])) == (0, 0, 0)


def test_only_the_oracle_uses_ground_truth_and_it_knows_every_image(measured: tuple[Path, Outcome]) -> None:
    found = entries(measured[0])
    assert [name for name in found if found[name]["uses_ground_truth"]] == ["oracle_box"]
    assert found["oracle_box"]["splits"]["validation"]["image_accuracy"] == 100
    assert "uses ground truth" in found["oracle_box"]["title"]


def test_the_whole_image_gets_its_nearest_cluster(measured: tuple[Path, Outcome], shapes_folder: Path) -> None:
    run, _ = measured
    (path,) = (run / "baselines").glob("clusters-validation-*.npy")
    clusters = np.load(path, allow_pickle=False)
    assert len(np.unique(clusters)) > 1
    maps = [(np.full(mask.shape, cluster), mask) for cluster, mask in zip(clusters, masks(shapes_folder), strict=True)]
    expected = evaluate_maps(maps, num_classes=10).to_json()
    assert entries(run)["whole_image"]["splits"]["validation"] == expected


def test_the_untrained_run_has_the_settings_of_the_run_but_for_its_backbone(measured: tuple[Path, Outcome]) -> None:
    run, _ = measured
    own, other = settings_of_run(run), settings_of_run(run / "baselines" / "untrained")
    assert (other.pretrain.epochs, other.pretrain.backbone.weights) == (0, "random")
    assert (other.cluster, other.finetune, other.data) == (own.cluster, own.finetune, own.data)
    metrics = json.loads((run / "baselines" / "untrained" / "evaluate" / "metrics.json").read_text(encoding="utf-8"))
    assert entries(run)["untrained"]["splits"] == metrics["splits"]


def test_what_is_measured_is_not_measured_again(luss: Launcher, measured: tuple[Path, Outcome], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(measured[0], run)
    before = {path: path.stat().st_mtime_ns for path in (run / "baselines").glob("clusters-*.npy")}
    outcome = luss("baselines", str(run))
    assert outcome.code == 0, outcome.output
    assert {path: path.stat().st_mtime_ns for path in (run / "baselines").glob("clusters-*.npy")} == before
    assert entries(run) == entries(measured[0])
    assert "pretrain: done" in outcome.output
    assert not (run / "baselines" / "untrained" / "superseded").exists()


def test_baselines_of_earlier_clusters_leave_the_table_until_they_are_measured_anew(
    measured: tuple[Path, Outcome], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(measured[0], run)
    settings = settings_of_run(run)
    titles = [title for title, _, _ in baseline_rows(settings)]
    assert len(titles) == 6
    record = json.loads((run / "cluster" / "DONE.json").read_text(encoding="utf-8"))
    (run / "cluster" / "DONE.json").write_text(json.dumps({**record, "id": "another"}), encoding="utf-8")
    left = [title for title, _, _ in baseline_rows(settings)]
    gone = [entries(run)[name]["title"] for name in ("centred_box", "whole_image", "labels")]
    assert [title for title in titles if title not in left] == gone
    settings.cluster.num_clusters = 9
    assert not any("untrained" in title for title, _, _ in baseline_rows(settings))


def test_given_weights_start_a_run_of_their_own_which_continues_after_a_kill(luss: Launcher, run: Path) -> None:
    weights = run / "pretrain" / "backbone.safetensors"
    words = ("baselines", str(run), "--only", "weights", "--weights", str(weights))
    killed = luss(*words, fault=Fault("os.rename", "weights/cluster/DONE.json"))
    assert killed.code == -9
    inner = run / "baselines" / "weights"
    first = (inner / "pretrain" / "DONE.json").read_bytes()
    assert not (run / "baselines" / "metrics.json").exists()
    outcome = luss(*words)
    assert outcome.code == 0, outcome.output
    assert (inner / "pretrain" / "DONE.json").read_bytes() == first
    assert list(entries(run)) == ["weights"]
    own, given = (safetensors.numpy.load_file(path) for path in (inner / "pretrain" / weights.name, weights))
    assert all(np.array_equal(own[name], given[name]) for name in given)


class Started(Exception):
    """Stands for the run of the baseline."""


@pytest.mark.parametrize("weights", ["timm", "timm:resnet50.a1_in1k"])
def test_published_weights_are_given_by_the_words_that_the_settings_take(
    finished: Path, monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    def start(run: RunSettings, name: str, own: str) -> RunSettings:
        raise Started(name, own)

    monkeypatch.setattr("stages.running.baselines.sub_run", start)
    with pytest.raises(Started) as started:
        baselines.main(argparse.Namespace(run=finished, only="weights", weights=weights, thresholds=None))
    assert started.value.args == ("weights", weights)


def test_the_labels_own_score_is_that_of_centroids_and_attention_at_the_run_s_threshold(
    measured: tuple[Path, Outcome], shapes_folder: Path
) -> None:
    run, _ = measured
    entry, store = entries(run)["labels"], LabelStore.open(run / "baselines" / "labels-validation")
    threshold = json.loads((run / "pseudo_labels" / "threshold.json").read_text(encoding="utf-8"))["threshold"]
    assert entry["title"] == f"pseudo labels without fine-tuning, threshold {threshold:.3g}"
    assert entry["uses_ground_truth"] is False
    maps = [
        (store.label_map(index, mask.shape, threshold=threshold), mask)
        for index, mask in enumerate(masks(shapes_folder))
    ]
    found, expected = entry["splits"]["validation"], evaluate_maps(maps, num_classes=10)
    assert found["miou"] == pytest.approx(expected.miou, abs=0.05)
    assert found["f_measure"] == pytest.approx(expected.f_measure, abs=0.2)


def test_the_labels_own_score_at_another_threshold_and_on_every_evaluated_split(
    luss: Launcher, measured: tuple[Path, Outcome], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(measured[0], run)
    config = run / "run.yaml"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("  - validation\n", "  - validation\n  - test\n", 1), encoding="utf-8")
    shards = [path for path in (run / "baselines" / "labels-validation").glob("*.h5") if path.name != INDEX_NAME]
    made = {path: path.stat().st_mtime_ns for path in shards}
    outcome = luss("baselines", str(run), "--only", "labels", "--thresholds", "0:0.8:0.2")
    assert outcome.code == 0, outcome.output
    entry = entries(run)["labels"]
    assert "the best of 5 (uses ground truth)" in entry["title"]
    assert entry["uses_ground_truth"] is True
    one, other = (entry["splits"][split] for split in ("validation", "test"))
    assert [point["threshold"] for point in one["curve"]] == [0.0, 0.2, 0.4, 0.6, 0.8]
    assert one["miou"] == max(point["miou"] for point in one["curve"])
    # What the first split has chosen holds for the second.
    assert [point["threshold"] for point in other["curve"]] == [one["threshold"]]
    assert other["matching"] == one["matching"]
    # Label maps do not depend on a threshold.
    assert made
    assert {path: path.stat().st_mtime_ns for path in made} == made


def test_the_matching_of_the_first_split_is_applied_to_the_others(luss: Launcher, run: Path) -> None:
    config = run / "run.yaml"
    text = config.read_text(encoding="utf-8")
    assert "  evaluate:\n  - validation\n" in text
    config.write_text(text.replace("  - validation\n", "  - validation\n  - test\n", 1), encoding="utf-8")
    outcome = luss("baselines", str(run), "--only", "centred_box")
    assert outcome.code == 0, outcome.output
    splits = entries(run)["centred_box"]["splits"]
    assert list(splits) == ["validation", "test"]
    assert splits["test"]["matching"] == splits["validation"]["matching"]
    assert splits["test"]["ious"] != splits["validation"]["ious"]


def test_without_masks_there_is_nothing_to_compare_with(luss: Launcher, tmp_path: Path, shapes_folder: Path) -> None:
    folder = tmp_path / "run" / "manifest"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"name: x\ndata: {{root: {shapes_folder / 'train'}}}\n", encoding="utf-8")
    outcome = luss("baselines", str(folder.parent))
    assert outcome.code == 2
    assert "baselines need masks" in outcome.output


def test_a_stage_that_is_not_done_is_named(luss: Launcher, run: Path) -> None:
    (run / "cluster" / "DONE.json").unlink()
    outcome = luss("baselines", str(run), "--only", "whole_image")
    assert outcome.code == 2
    assert "needs cluster" in outcome.output


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--only", "box"], f"there is no baseline 'box': the baselines are {', '.join(NAMES)}"),
        (["--only", "weights"], "needs --weights"),
        (["--weights", "absent.pth"], "--weights absent.pth is no file"),
        (["--thresholds", "high"], "--thresholds high is neither"),
        (["--only", "background", "--thresholds", "0.5"], "--thresholds belong to the baseline labels"),
    ],
)
def test_a_mistake_in_the_arguments_is_told(luss: Launcher, finished: Path, words: list[str], fault: str) -> None:
    outcome = luss("baselines", str(finished), *words)
    assert outcome.code == 2
    assert fault in " ".join(outcome.output.split())
    assert not (finished / "baselines").exists()
