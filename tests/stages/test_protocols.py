"""Distance matching and the semi-supervised protocol as stages that share a run's pretraining."""

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from running import Fault, Launcher, losses

from luss.benchmark.evaluator import evaluate_folders, evaluate_maps
from luss.data.imagenet_s import read_mask
from luss.models.io import load_backbone, load_segmenter

BLOCKS = """
distance_matching: {short_side: 64, shard_size: 30, workers: 0}
semi_finetune:
  {epochs: 12, batch_size: 20, optimizer: adamw, lr: 0.003, final_lr: 0.00001, lr_batch_size: 20, size: 32, scale: [0.3, 1.0],
   label_stride: 2, output_stride: 8, workers: 0, log_every: 10}
semi_predict: {short_side: 64, workers: 0}
semi_evaluate: {workers: 1}
"""
BOTH = "protocols=[distance_matching,semi_supervised]"
STAGES = ["manifest", "pretrain", "distance_matching", "semi_finetune", "semi_predict", "semi_evaluate"]


@pytest.fixture(scope="module")
def protocols(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny configuration with settings for both protocols."""
    path = tmp_path_factory.mktemp("protocols") / "tiny.yaml"
    path.write_text(config.read_text(encoding="utf-8") + BLOCKS, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def served(finished: Path, protocols: Path, luss: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished unsupervised run that both protocols were added to; tests must not change it."""
    run = tmp_path_factory.mktemp("served") / "run"
    shutil.copytree(finished, run)
    outcome = luss("run", str(protocols), f"output={run}", BOTH)
    assert outcome.code == 0, outcome.output
    (run / "output.txt").write_text(outcome.output, encoding="utf-8")
    return run


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def rows(output: str) -> dict[str, list[str]]:
    """The cells of the printed table by their first one."""
    found = (re.split("[│┃]", line)[1:-1] for line in output.splitlines())
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in found if cells}


def made(run: Path) -> dict[str, str]:
    """What the protocols' stages have made, file by file."""
    paths = [path for stage in STAGES[2:] for path in (run / stage).rglob("*")]
    kept = (path for path in paths if path.suffix in (".png", ".npz", ".safetensors") or path.name == "metrics.json")
    return {path.relative_to(run).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


def background_alone(shapes: Path) -> float:
    """mIoU of empty masks on the validation split."""
    masks = [read_mask(path) for path in (shapes / "validation-segmentation").rglob("*.png")]
    return evaluate_maps(((np.zeros_like(mask), mask) for mask in masks), num_classes=10, matching="identity").miou


def test_both_protocols_start_from_the_pretraining_that_is_there(served: Path, finished: Path) -> None:
    output = (served / "output.txt").read_text(encoding="utf-8")
    assert "pretrain: done (" in output
    assert "pixel_attention" not in output
    assert read(served / "pretrain" / "DONE.json")["id"] == read(finished / "pretrain" / "DONE.json")["id"]


def test_the_protocols_leave_the_unsupervised_result_as_it_was(served: Path, protocols: Path, luss: Launcher) -> None:
    found = rows(luss("run", str(protocols), f"output={served}", "--dry-run").output)
    assert [found[stage][0] for stage in ("manifest", "pretrain", "cluster", "finetune", "evaluate")] == ["done"] * 5


def test_distance_matching_beats_masks_that_are_all_background(served: Path, shapes_folder: Path) -> None:
    assert read(served / "distance_matching" / "metrics.json")["miou"] > background_alone(shapes_folder) + 1


def test_the_semi_supervised_network_beats_masks_that_are_all_background_clearly(
    served: Path, shapes_folder: Path
) -> None:
    assert read(served / "semi_evaluate" / "metrics.json")["miou"] > 1.6 * background_alone(shapes_folder)


def test_both_forms_of_distance_matching_are_those_of_its_masks(served: Path, shapes_folder: Path) -> None:
    found = read(served / "distance_matching" / "metrics.json")
    masks, truth = served / "distance_matching" / "masks" / "validation", shapes_folder / "validation-segmentation"
    plain = evaluate_folders(masks, truth, num_classes=10, matching="identity")
    rematched = evaluate_folders(masks, truth, num_classes=10, matching="hungarian")
    assert (found["protocol"], found["form"]) == ("distance_matching", "plain")
    assert found["splits"]["validation"] == json.loads(json.dumps(plain.to_json()))
    assert found["rematched"]["splits"]["validation"] == json.loads(json.dumps(rematched.to_json()))
    assert plain.matching != rematched.matching


def test_the_semi_supervised_metrics_match_nothing(served: Path, shapes_folder: Path) -> None:
    found = read(served / "semi_evaluate" / "metrics.json")
    masks = served / "semi_predict" / "masks" / "validation"
    expected = evaluate_folders(masks, shapes_folder / "validation-segmentation", num_classes=10, matching="identity")
    assert found["protocol"] == "semi_supervised"
    assert found["splits"]["validation"] == json.loads(json.dumps(expected.to_json()))
    assert all(int(cluster) == category for cluster, category in found["matching"].items())


def feature_map(run: Path, path: Path) -> torch.Tensor:
    """The last feature map of a picture with its short side at 64 pixels, enlarged four times; (L, h, w)."""
    backbone = load_backbone(run / "pretrain").eval()
    with Image.open(path) as image:
        factor = 64 / min(image.size)
        size = (max(64, int(image.width * factor)), max(64, int(image.height * factor)))
        pixels = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BILINEAR))
    mean, std = torch.tensor(backbone.mean), torch.tensor(backbone.std)
    values = ((torch.from_numpy(pixels.copy()) / 255 - mean) / std).permute(2, 0, 1)[None]
    with torch.no_grad():
        deepest = backbone(values).last
    return F.interpolate(deepest, scale_factor=4, mode="bilinear", align_corners=False)[0]


def test_the_bank_holds_the_mean_feature_of_each_category_of_each_picture(served: Path, shapes_folder: Path) -> None:
    with np.load(served / "distance_matching" / "bank.npz", allow_pickle=False) as bank:
        ids, vectors = bank["ids"], bank["vectors"]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (ids == 0).sum() == 100
    first = sorted((shapes_folder / "train-semi").rglob("*.jpg"))[0]
    name = first.relative_to(shapes_folder / "train-semi").with_suffix(".png")
    mask = read_mask(shapes_folder / "train-semi-segmentation" / name)
    features = feature_map(served, first)
    height, width = features.shape[1:]
    small = mask[((np.arange(height) + 0.5) * mask.shape[0] / height).astype(int)]
    small = small[:, ((np.arange(width) + 0.5) * mask.shape[1] / width).astype(int)]
    present = np.unique(small)
    assert ids[: len(present)].tolist() == present.tolist()
    for category, vector in zip(present, vectors, strict=False):
        mean = features[:, torch.from_numpy(small == category)].mean(dim=1)
        np.testing.assert_allclose(vector, F.normalize(mean, dim=0).numpy(), atol=1e-4)


def test_a_mask_is_the_vote_of_the_ten_nearest_entries_at_every_position(served: Path, shapes_folder: Path) -> None:
    with np.load(served / "distance_matching" / "bank.npz", allow_pickle=False) as bank:
        ids, vectors = bank["ids"].astype(int), bank["vectors"].astype(np.float64)
    for path in sorted((shapes_folder / "validation").rglob("*.jpg"))[:4]:
        features = F.normalize(feature_map(served, path), dim=0).numpy().astype(np.float64)
        votes = np.zeros((*features.shape[1:], 11))
        for y, x in np.ndindex(*features.shape[1:]):
            cosines = vectors @ features[:, y, x]
            for place in np.argsort(-cosines)[:10]:
                votes[y, x, ids[place]] += np.exp(cosines[place] / 0.07)
        expected = votes.argmax(axis=2)
        name = path.relative_to(shapes_folder / "validation").with_suffix(".png")
        mask = read_mask(served / "distance_matching" / "masks" / "validation" / name)
        with Image.open(path) as image:
            assert mask.shape == (image.height, image.width)
        large = expected[((np.arange(mask.shape[0]) + 0.5) * expected.shape[0] / mask.shape[0]).astype(int)]
        large = large[:, ((np.arange(mask.shape[1]) + 0.5) * expected.shape[1] / mask.shape[1]).astype(int)]
        assert (mask == large).mean() > 0.99


def test_the_semi_supervised_network_speaks_of_categories(served: Path) -> None:
    network, description = load_segmenter(served / "semi_finetune")
    assert network.head.out_channels == 11
    assert description["num_clusters"] == 10


def test_the_number_of_clusters_does_not_matter_to_the_protocols_with_masks(
    served: Path, protocols: Path, luss: Launcher
) -> None:
    found = rows(luss("run", str(protocols), f"output={served}", BOTH, "cluster.num_clusters=7", "--dry-run").output)
    assert [found[stage][0] for stage in STAGES] == ["done"] * 6


def test_only_the_stages_of_the_protocols_are_shown(served: Path, luss: Launcher) -> None:
    found = rows(luss("status", str(served)).output)
    assert [name for name in found if name != "stage"] == STAGES


def test_a_dry_run_tells_which_stages_a_protocol_would_run_and_changes_nothing(
    protocols: Path, finished: Path, luss: Launcher, tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    arguments = ("run", str(protocols), f"output={finished}", "--dry-run")
    found = rows(luss(*arguments, BOTH).output)
    assert [found[stage][-1] for stage in STAGES] == ["", "", "run", "run", "run", "run"]
    # What another protocol runs does not concern this one.
    words = ("protocols=[unsupervised,distance_matching]", "cluster.num_clusters=9")
    found = rows(luss(*arguments, *words, "--force", "pixel_attention", "--until", "pixel_attention").output)
    assert [found[stage][-1] for stage in ("pixel_attention", "cluster", "distance_matching")] == ["run", "", ""]
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_one_stage_of_another_protocol_can_be_run_by_its_name(
    protocols: Path, finished: Path, luss: Launcher, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    for stage in ("manifest", "pretrain"):
        shutil.copytree(finished / stage, run / stage)
    arguments = ("run", str(protocols), f"output={run}", "--only", "distance_matching")
    assert rows(luss(*arguments, "--dry-run").output)["distance_matching"][-1] == "run"
    outcome = luss(*arguments)
    assert outcome.code == 0, outcome.output
    assert (run / "distance_matching" / "DONE.json").is_file()
    assert not (run / "pixel_attention").exists()


def test_a_last_stage_that_no_protocol_of_the_run_has_is_refused(
    protocols: Path, finished: Path, luss: Launcher
) -> None:
    words = ("protocols=[distance_matching]", "--until", "cluster")
    outcome = luss("run", str(protocols), f"output={finished}", *words)
    assert outcome.code == 2
    assert "--until cluster: the protocols of this run (distance_matching) have the stages manifest" in outcome.output


def test_the_table_has_a_row_for_each_protocol_and_form(served: Path, protocols: Path, luss: Launcher) -> None:
    output = luss("run", str(protocols), f"output={served}", BOTH).output
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.splitlines() if "│ tiny" in line]
    distance = read(served / "distance_matching" / "metrics.json")
    expected = {
        "unsupervised": read(served / "evaluate" / "metrics.json"),
        "distance matching": distance,
        "distance matching, rematched": distance["rematched"]["splits"]["validation"],
        "semi-supervised": read(served / "semi_evaluate" / "metrics.json"),
    }
    assert {cells[1]: cells[2:4] for cells in lines} == {
        protocol: ["validation", f"{metrics['miou']:.1f}"] for protocol, metrics in expected.items()
    }
    assert f"semi-supervised model: {served / 'semi_finetune' / 'model.safetensors'}" in output


def test_the_table_leaves_out_what_other_settings_made(
    served: Path, protocols: Path, luss: Launcher, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(served, run)
    words = ("protocols=[distance_matching]", "finetune.epochs=3", "semi_predict.short_side=32")
    output = luss("run", str(protocols), f"output={run}", *words).output
    assert "│ distance matching" in output
    assert "│ unsupervised" not in output
    assert "│ semi-supervised" not in output


# (event, path, which of such events): the run is killed at each in turn, and continued in between.
KILLS = [
    Fault("os.rename", "distance_matching/manifest/train-semi.json"),
    Fault("os.rename", "checkpoints/bank-30-00002.npz"),
    Fault("os.rename", "distance_matching/bank.npz"),
    Fault("os.rename", "distance_matching/masks", 7),
    Fault("os.rename", "distance_matching/metrics.json"),
    Fault("open", "semi_finetune/metrics.jsonl", 9),
    Fault("os.rename", "semi_finetune/config.json"),
    Fault("os.rename", "semi_predict/masks", 3),
    Fault("os.rename", "semi_evaluate/metrics.json"),
]


def test_killed_in_every_stage_the_protocols_end_with_the_same_bits(
    finished: Path, protocols: Path, luss: Launcher, tmp_path: Path
) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    for folder in (run, whole):
        for stage in ("manifest", "pretrain"):
            shutil.copytree(finished / stage, folder / stage)
    arguments = ("run", str(protocols), BOTH, "semi_finetune.epochs=3", "semi_finetune.log_every=1")
    for fault in KILLS:
        outcome = luss(*arguments, f"output={run}", fault=fault)
        assert outcome.code == -9, f"{fault} never came:\n{outcome.output}"
    for folder in (run, whole):
        assert luss(*arguments, f"output={folder}").code == 0
    assert len(made(whole)) > 40
    assert made(run) == made(whole)
    assert losses(run / "semi_finetune") == losses(whole / "semi_finetune")
    assert not (run / "distance_matching" / "checkpoints").exists()
    left = [path for path in run.rglob(".*") if path.suffix == ".partial" and path.parent.name != "log"]
    assert not left


def test_two_processes_learn_from_masks_together(
    finished: Path, protocols: Path, luss: Launcher, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    for stage in ("manifest", "pretrain"):
        shutil.copytree(finished / stage, run / stage)
    outcomes = luss.together(2, "semi_finetune", str(protocols), f"output={run}", "semi_finetune.epochs=1")
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes[0].output + outcomes[1].output
    assert (run / "semi_finetune" / "DONE.json").is_file()
    assert "2 process(es)" in outcomes[0].output


@pytest.fixture
def partial_data(shapes_folder: Path, tmp_path: Path) -> Path:
    """The embedded data set as somebody's own folder: without train-semi, and without the masks of test."""
    root = tmp_path / "data"
    root.mkdir()
    for name in ("train", "validation", "validation-segmentation", "test"):
        (root / name).symlink_to(shapes_folder / name)
    return root


@pytest.mark.parametrize("protocol", ["distance_matching", "semi_supervised"])
def test_without_train_semi_the_protocols_are_refused_before_anything_runs(
    protocols: Path, luss: Launcher, partial_data: Path, tmp_path: Path, protocol: str
) -> None:
    words = (f"data.root={partial_data}", f"output={tmp_path / 'run'}", f"protocols=[{protocol}]")
    outcome = luss("run", str(protocols), *words)
    assert outcome.code == 2
    assert f"there is no folder {partial_data / 'train-semi'} of images" in outcome.output
    assert "Traceback" not in outcome.output
    assert not (tmp_path / "run").exists()


def test_a_picture_of_train_semi_without_a_mask_is_named_before_anything_runs(
    protocols: Path, luss: Launcher, partial_data: Path, shapes_folder: Path, tmp_path: Path
) -> None:
    (partial_data / "train-semi").symlink_to(shapes_folder / "train-semi")
    shutil.copytree(shapes_folder / "train-semi-segmentation", partial_data / "train-semi-segmentation")
    lost = sorted((partial_data / "train-semi-segmentation").rglob("*.png"))[3]
    lost.unlink()
    words = (f"data.root={partial_data}", f"output={tmp_path / 'run'}", BOTH)
    outcome = luss("run", str(protocols), *words)
    assert outcome.code == 2
    assert "1 of the 100 images of" in outcome.output
    assert f"the first is {lost.parent.name}/{lost.stem}.jpg" in outcome.output
    assert not (tmp_path / "run").exists()


def test_the_matching_found_on_validation_is_applied_to_test(
    protocols: Path, finished: Path, luss: Launcher, shapes_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    outcome = luss("run", str(protocols), f"output={run}", "data.evaluate=[validation, test]")
    assert outcome.code == 0, outcome.output
    splits = read(run / "evaluate" / "metrics.json")["splits"]
    assert list(splits) == ["validation", "test"]
    matching = {int(cluster): category for cluster, category in splits["validation"]["matching"].items()}
    masks, truth = run / "predict" / "masks" / "test", shapes_folder / "test-segmentation"
    applied = evaluate_folders(masks, truth, num_classes=10, matching=matching)
    assert splits["test"]["matching"] == splits["validation"]["matching"]
    assert splits["test"]["miou"] == pytest.approx(applied.miou)
    # On its own, test would have found another one.
    assert evaluate_folders(masks, truth, num_classes=10).matching != matching


def test_a_split_without_masks_is_segmented_but_not_evaluated(
    protocols: Path, luss: Launcher, partial_data: Path, shapes_folder: Path, tmp_path: Path
) -> None:
    for name in ("train-semi", "train-semi-segmentation"):
        (partial_data / name).symlink_to(shapes_folder / name)
    words = (f"data.root={partial_data}", f"output={tmp_path / 'run'}", "data.evaluate=[validation, test]")
    words = (*words, "protocols=[distance_matching]", "pretrain.epochs=0")
    outcome = luss("run", str(protocols), *words)
    assert outcome.code == 0, outcome.output
    assert len(list((tmp_path / "run" / "distance_matching" / "masks" / "test").rglob("*.png"))) == 20
    found = read(tmp_path / "run" / "distance_matching" / "metrics.json")
    assert list(found["splits"]) == list(found["rematched"]["splits"]) == ["validation"]
