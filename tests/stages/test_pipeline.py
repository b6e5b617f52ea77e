"""What a finished run holds."""

import csv
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
from PIL import Image
from running import ORDER, Launcher, losses, results

import luss.compat  # noqa: F401  (before timm)
from luss.config import load_config
from luss.data.imagenet_s import read_mask
from luss.features.store import FeatureStore
from luss.labels.dataset import PseudoLabels
from luss.labels.store import LabelStore
from stages.base import fingerprint
from stages.pipeline import STAGES


def record(run: Path, stage: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((run / stage / "DONE.json").read_text(encoding="utf-8"))
    return value


def numbers(value: Any) -> Iterator[float]:
    """All numbers in a JSON value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value


@pytest.mark.parametrize("stage", ORDER)
def test_a_stage_ends_with_a_record_of_what_it_was_and_made(finished: Path, config: Path, stage: str) -> None:
    found = record(finished, stage)
    run = load_config(config, [f"output={finished}"])
    assert found["stage"] == stage
    assert found["version"] == STAGES[stage].version
    assert found["fingerprint"] == fingerprint(STAGES[stage], run)
    assert set(found["inputs"]) == {need.name for need in STAGES[stage].needs}
    needs = {need: record(finished, need) for need in found["inputs"]}
    assert found["inputs"] == {need: STAGES[need].id_for(STAGES[stage], needs[need]) for need in needs}
    assert all(str(identity).startswith(needs[need]["id"]) for need, identity in found["inputs"].items())
    assert 0 <= found["seconds"] < 600
    assert found["peak_memory_mb"] > 10
    assert {"luss", "torch", "timm", "numpy"} <= set(found["libraries"])


@pytest.mark.parametrize(
    ("stage", "products"),
    [
        ("manifest", {f"{name}.{end}" for name in ("manifest/train", "evaluated/validation") for end in ("tsv", "json", "offsets.npy", "folders")}),
        ("pretrain", {"backbone.safetensors", "backbone.json", "method.safetensors", "method.json"}),
        ("pixel_attention", {"attention.safetensors"}),
        ("extract_features", {"features/store.json", *(f"features/shard-0000{shard}.npy" for shard in range(4))}),
        ("cluster", {"centroids.npy", "assignments.npy", "cluster.json"}),
        ("pseudo_labels", {"labels/labels.h5", "threshold.json", "clusters.png", *(f"labels/shard-0000{shard}.h5" for shard in range(4))}),
        ("finetune", {"model.safetensors", "config.json"}),
        ("predict", {"clusters-validation.png", "masks.json"}),
        ("evaluate", {"metrics.json"}),
    ],
)  # fmt: skip
def test_the_products_are_listed_with_their_sizes(finished: Path, stage: str, products: set[str]) -> None:
    listed = record(finished, stage)["products"]
    assert set(listed) == products
    assert all((finished / stage / name).stat().st_size == size for name, size in listed.items())


@pytest.mark.parametrize("stage", ORDER)
def test_nothing_unfinished_is_left(finished: Path, stage: str) -> None:
    names = {path.name for path in (finished / stage).rglob("*")}
    assert not {name for name in names if name.startswith(".")}
    assert not {"STARTED.json", "progress.json", "checkpoints", "shards", "kmeans.npz"} & names
    assert not (finished / ".lock").exists()


@pytest.mark.parametrize("stage", ORDER)
def test_the_settings_kept_beside_a_result_are_those_of_the_run(finished: Path, config: Path, stage: str) -> None:
    assert load_config(finished / stage / "config.yaml") == load_config(config, [f"output={finished}"])


def test_the_metrics_have_the_published_ones_under_their_names(finished: Path) -> None:
    metrics = json.loads((finished / "evaluate" / "metrics.json").read_text(encoding="utf-8"))
    assert {"miou", "image_accuracy", "f_measure", "ious", "matching"} <= set(metrics)
    assert len(metrics["ious"]) == 11
    assert metrics["miou"] == pytest.approx(np.mean(metrics["ious"]))
    assert sorted(metrics["matching"].values()) == list(range(11))
    assert metrics["splits"]["validation"]["miou"] == metrics["miou"]
    assert metrics["splits"]["validation"]["num_images"] == 20
    assert metrics["used_labels_for_threshold"] is False
    assert len(metrics["categories"]) == 10
    assert all(math.isfinite(number) for number in numbers(metrics))


def test_every_validation_image_has_a_mask_of_its_own_size(finished: Path, shapes_folder: Path) -> None:
    images = sorted((shapes_folder / "validation").rglob("*.jpg"))
    assert len(images) == 20
    for path in images:
        name = path.relative_to(shapes_folder / "validation").with_suffix(".png")
        mask = read_mask(finished / "predict" / "masks" / "validation" / name)
        with Image.open(path) as image:
            assert mask.shape == (image.height, image.width)
        assert mask.max() <= 10


def test_the_backbone_loads_into_timm_without_a_missing_or_surplus_tensor(finished: Path) -> None:
    import timm

    weights = safetensors.torch.load_file(finished / "pretrain" / "backbone.safetensors")
    model = timm.create_model("test_resnet", num_classes=0)
    model.load_state_dict(weights, strict=True)


def test_the_backbone_has_learned(finished: Path) -> None:
    lines = losses(finished / "pretrain")
    assert [line["step"] for line in lines] == list(range(6))
    assert all(math.isfinite(value) for line in lines for value in line.values())
    assert len({line["loss"] for line in lines}) == 6


def test_the_label_maps_open_as_a_store_and_as_a_data_set(finished: Path) -> None:
    store = LabelStore.open(finished / "pseudo_labels" / "labels")
    threshold = json.loads((finished / "pseudo_labels" / "threshold.json").read_text(encoding="utf-8"))
    assert len(store) == 60
    assert store.num_clusters == 10
    assert store.threshold == threshold["threshold"]
    assert (threshold["source"], threshold["used_labels"]) == ("auto", False)
    assert store.used_labels is False
    assert store.label_map(0).shape == store.image_size(0)
    assert len(PseudoLabels(finished / "pseudo_labels" / "labels")) == 60


def test_every_image_has_a_vector_of_length_one_and_a_cluster(finished: Path) -> None:
    store = FeatureStore.open(finished / "extract_features" / "features")
    assignments = np.load(finished / "cluster" / "assignments.npy", allow_pickle=False)
    centroids = np.load(finished / "cluster" / "centroids.npy", allow_pickle=False)
    vectors = store.read(0, len(store))
    assert len(store) == 60
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(assignments, (vectors @ centroids.T).argmax(axis=1))


def test_a_second_run_does_nothing(finished: Path, config: Path, luss: Launcher) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    outcome = luss("run", str(config), f"output={finished}")
    assert outcome.code == 0, outcome.output
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before
    assert all(f"{stage}: done" in outcome.output for stage in ORDER)


def test_the_table_at_the_end_shows_the_metrics_and_where_the_results_are(
    finished: Path, config: Path, luss: Launcher
) -> None:
    output = luss("run", str(config), f"output={finished}").output
    metrics = json.loads((finished / "evaluate" / "metrics.json").read_text(encoding="utf-8"))
    row = next(line for line in output.splitlines() if "validation" in line and "tiny" in line)
    assert f"{metrics['miou']:.1f}" in row
    assert f"tiny masks: {finished / 'predict' / 'masks'}" in output


def test_the_threshold_searched_with_ground_truth_is_marked_as_such_everywhere(
    finished: Path, config: Path, luss: Launcher, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    # Fewer clusters than categories are no reason to fail.
    words = (f"output={run}", "pseudo_labels.threshold=validation", "cluster.num_clusters=8")
    outcome = luss("run", str(config), *words)
    assert outcome.code == 0, outcome.output
    threshold = json.loads((run / "pseudo_labels" / "threshold.json").read_text(encoding="utf-8"))
    assert (threshold["source"], threshold["used_labels"]) == ("validation", True)
    assert 0 <= threshold["threshold"] <= 0.8
    assert (
        json.loads((run / "evaluate" / "metrics.json").read_text(encoding="utf-8"))["used_labels_for_threshold"] is True
    )
    assert LabelStore.open(run / "pseudo_labels" / "labels").used_labels is True
    # A run that has nothing left to do prints the table alone.
    for output in (outcome.output, luss("run", str(config), *words).output):
        assert "threshold from ground truth" in output


def test_the_same_settings_give_the_same_bits_and_another_seed_gives_others(
    finished: Path, config: Path, luss: Launcher, tmp_path: Path
) -> None:
    same = luss("run", str(config), f"output={tmp_path / 'same'}", "--until", "pretrain")
    other = luss("run", str(config), f"output={tmp_path / 'other'}", "seed=1", "--until", "pretrain")
    assert (same.code, other.code) == (0, 0), same.output + other.output
    expected = {name: value for name, value in results(finished).items() if name.startswith("pretrain/")}
    found = {name: value for name, value in results(tmp_path / "same").items() if name.startswith("pretrain/")}
    assert found == expected
    assert losses(tmp_path / "other" / "pretrain")[0]["loss"] != losses(finished / "pretrain")[0]["loss"]


def test_a_run_without_pretraining_uses_the_random_network(
    finished: Path, config: Path, luss: Launcher, tmp_path: Path
) -> None:
    outcome = luss(
        "run", str(config), f"output={tmp_path / 'floor'}", "pretrain.epochs=0", "--until", "pixel_attention"
    )
    assert outcome.code == 0, outcome.output
    weights = safetensors.torch.load_file(tmp_path / "floor" / "pretrain" / "backbone.safetensors")
    trained = safetensors.torch.load_file(finished / "pretrain" / "backbone.safetensors")
    assert weights.keys() == trained.keys()
    assert any(not np.array_equal(weights[name], trained[name]) for name in weights)


# A folder as people have them: nested, with spaces and other letters, without labels, one picture damaged.
@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, shapes_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "my phötos"
    for place, path in enumerate(sorted((shapes_folder / "train").rglob("*.jpg"))):
        target = (
            folder
            / ("Größe 1" if place % 2 else "été/2019 (a)")
            / f"picture {place} ü{'.JPEG' if place % 3 else '.jpg'}"
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    (folder / "Größe 1" / "notes.jpg").write_text("these are words, not a picture", encoding="utf-8")
    (folder / "readme.txt").write_text("about the pictures", encoding="utf-8")
    whole = (folder / "Größe 1" / "picture 1 ü.JPEG").read_bytes()
    (folder / "Größe 1" / "broken in the middle.jpg").write_bytes(whole[: len(whole) // 3])
    return folder


@pytest.fixture(scope="module")
def plain(photos: Path, config: Path, luss: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run over the plain folder."""
    run = tmp_path_factory.mktemp("plain-run") / "run"
    outcome = luss(
        "run", str(config), f"data.root={photos}", f"output={run}", "data.max_skipped_share=0.05", "name=plain"
    )
    assert outcome.code == 0, outcome.output
    (run / "output.txt").write_text(outcome.output, encoding="utf-8")
    return run


def skipped(run: Path, stage: str) -> list[str]:
    path = run / stage / "skipped.csv"
    if not path.exists():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        return [Path(row["path"]).name for row in csv.DictReader(file)]


def test_unreadable_files_are_listed_by_the_stages_that_meet_them_and_counted_on_the_screen(plain: Path) -> None:
    assert skipped(plain, "manifest") == ["notes.jpg"]
    # Its header is whole: only decoding finds the damage.
    for stage in ("pretrain", "extract_features", "pseudo_labels", "predict"):
        assert skipped(plain, stage) == ["broken in the middle.jpg"], stage
    output = (plain / "output.txt").read_text(encoding="utf-8")
    assert "images 61, skipped 1" in output
    for stage in ("pretrain", "pixel_attention", "extract_features", "pseudo_labels", "finetune", "predict"):
        counted = [line for line in output.splitlines() if line.startswith(f"{stage}: done")]
        assert [line.endswith("skipped 1") for line in counted] == [stage != "finetune"], counted


def test_the_training_images_of_a_plain_folder_are_segmented(plain: Path, photos: Path) -> None:
    masks = {
        path.relative_to(plain / "predict" / "masks" / "train") for path in (plain / "predict" / "masks").rglob("*.png")
    }
    readable = {path.relative_to(photos).with_suffix(".png") for path in photos.rglob("picture *")}
    assert len(readable) == 60
    assert masks == readable


def test_without_masks_there_is_no_metric_and_no_number_that_is_none(plain: Path) -> None:
    assert json.loads((plain / "evaluate" / "metrics.json").read_text(encoding="utf-8")) == {"splits": {}}
    output = (plain / "output.txt").read_text(encoding="utf-8")
    assert "mIoU" not in output
    assert "nothing to evaluate" in output
    for path in [*plain.rglob("*.json"), *plain.rglob("metrics.jsonl")]:
        text = path.read_text(encoding="utf-8")
        assert "miou" not in text
        assert "nmi" not in text
        assert "NaN" not in text


def test_all_stages_of_a_plain_folder_are_done(plain: Path) -> None:
    assert all((plain / stage / "DONE.json").is_file() for stage in ORDER)
    assert len(LabelStore.open(plain / "pseudo_labels" / "labels")) == 60


def test_too_many_unreadable_files_fail_every_time_and_raising_the_limit_goes_on(
    photos: Path, config: Path, luss: Launcher, tmp_path: Path
) -> None:
    arguments = ("run", str(config), f"data.root={photos}", f"output={tmp_path / 'run'}", "--until", "manifest")
    for _ in range(2):
        outcome = luss(*arguments)
        assert outcome.code == 2
        assert "1 of 62 image files (1.6%) could not be used" in outcome.output
        assert "data.max_skipped_share" in outcome.output
    assert luss(*arguments, "data.max_skipped_share=0.02").code == 0


def test_raising_the_limit_keeps_what_was_done_before_the_failure(
    photos: Path, config: Path, luss: Launcher, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = ("run", str(config), f"data.root={photos}", f"output={run}", "--until", "pretrain")
    (tmp_path / "run").mkdir()
    outcome = luss(*arguments, "data.max_skipped_share=0.0163", "data.max_pixels=3000000")
    assert outcome.code == 2
    assert "broken in the middle.jpg" in (run / "pretrain" / "skipped.csv").read_text(encoding="utf-8")
    before = (run / "manifest" / "DONE.json").stat().st_mtime_ns
    outcome = luss(*arguments, "data.max_skipped_share=0.05", "data.max_pixels=3000000")
    assert outcome.code == 0, outcome.output
    assert (run / "manifest" / "DONE.json").stat().st_mtime_ns == before


def test_two_images_of_one_stem_get_a_mask_each(
    finished: Path, shapes_folder: Path, luss: Launcher, config: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for place, path in enumerate(sorted((shapes_folder / "train").rglob("*.jpg"))):
        shutil.copyfile(path, photos / f"{place // 2:02d}{'.jpg' if place % 2 else '.jpeg'}")
    outcome = luss("run", str(config), f"data.root={photos}", f"output={tmp_path / 'run'}", "pretrain.epochs=0", "pixel_attention.epochs=0",
                   "finetune.epochs=0")  # fmt: skip
    assert outcome.code == 0, outcome.output
    assert len(list((tmp_path / "run" / "predict" / "masks").rglob("*.png"))) == 60
