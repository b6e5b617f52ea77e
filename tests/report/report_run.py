"""A small run made by hand, with everything a report shows: known pictures, features, clusters, label maps, logs, masks."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from luss.benchmark.evaluator import evaluate_folders
from luss.data.imagenet_s import write_mask
from luss.data.manifest import build_manifest
from luss.data.skipped import SkippedFiles
from luss.features.store import FeatureWriter
from luss.files import write_json
from luss.labels.writer import LabelRecord, LabelWriter
from luss.report.source import MetricRow, ReportSource, StageRow
from luss.settings import RunSettings

THRESHOLD = 0.5
SIZE = (48, 36)
GRID = (6, 8)
CATEGORIES = ("ant", "bee", "cat")
STAGES = (
    "manifest", "pretrain", "pixel_attention", "extract_features", "cluster", "pseudo_labels", "finetune", "predict", "evaluate",
)  # fmt: skip


def make_run(folder: Path, *, num_clusters: int = 3, images_per_cluster: int = 14, masks: bool = True) -> ReportSource:
    """Writes a finished run. Image i belongs to cluster i mod C (from 0) and is the nearer to its centroid the nearer i is to the middle."""
    run, images = folder / "run", folder / "images"
    num_images = num_clusters * images_per_cluster
    _write_images(images, num_images)
    build_manifest(
        images, run / "manifest" / "manifest", "train", skipped=SkippedFiles(run / "manifest" / "skipped.csv")
    )
    assignments = np.arange(num_images) % num_clusters
    _write_clusters(run, assignments, num_clusters)
    _write_labels(run, assignments, num_clusters)
    for stage in ("pretrain", "finetune"):
        write_log(run / stage, 30)
    settings = RunSettings(name="hand", output=str(run))
    settings.data.root, settings.pretrain.epochs = str(images), 7
    source = ReportSource(
        run,
        settings,
        {name: stage_row(name) for name in STAGES},
        num_classes=max(num_clusters, len(CATEGORIES)),
        folders_are_categories=True,
    )
    return _with_masks(source, folder) if masks else source


def stage_row(name: str, state: str = "done") -> StageRow:
    """A stage whose result was made from those of all others."""
    finished = state in ("done", "stale")
    return StageRow(name, state, seconds=12.0, peak_memory_mb=1500, finished="2026-01-02T03:04:05" if finished else "",
                    identity=f"id-{name}" if finished else "", inputs={other: f"id-{other}" for other in STAGES})  # fmt: skip


def without(source: ReportSource, *stages: str) -> ReportSource:
    """The same run before some stages have run."""
    rows = {name: stage_row(name, "missing") if name in stages else row for name, row in source.stages.items()}
    return replace(source, stages=rows, metrics=() if "evaluate" in stages else source.metrics)


def write_log(folder: Path, num_lines: int, **values: float) -> None:
    """A `metrics.jsonl` whose loss falls from 2 to 1."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {"step": 10 * place, "epoch": 0, "lr": 0.1, "loss": 2 - place / max(num_lines - 1, 1), "feature_rank": 20.0,
         "used_prototypes": 0.5, "code_entropy": 0.9, "prediction_entropy": 0.8} | values
        for place in range(num_lines)
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def attention(index: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Rises from left to right, so that every threshold cuts it somewhere else."""
    row = np.linspace(0, 255, GRID[1]) * (1 - 0.01 * (index % 5))
    return np.tile(np.rint(row), (GRID[0], 1)).astype(np.uint8)


def _write_images(folder: Path, num: int) -> None:
    """Many names for few files: a data set of any size takes no time. The name of image i sorts at place i."""
    width = len(str(num))
    for index in range(num):
        category = folder / f"{index * len(CATEGORIES) // num}-{CATEGORIES[index * len(CATEGORIES) // num]}"
        path = category / f"{index:0{width}d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if index < 8:
            Image.new("RGB", SIZE, (30 * index, 90, 200 - 20 * index)).save(path)
        else:
            path.hardlink_to(folder / f"0-{CATEGORIES[0]}" / f"{index % 8:0{width}d}.jpg")


def _write_clusters(run: Path, assignments: Any, num_clusters: int) -> None:
    num_images = len(assignments)
    writer = FeatureWriter(
        run / "extract_features" / "features", num_images, num_clusters + 1, "float32", 1024, "made by hand"
    )
    features = np.zeros((num_images, num_clusters + 1), np.float32)
    features[np.arange(num_images), assignments] = 1
    features[:, -1] = np.arange(num_images) / num_images
    for shard in range(writer.num_shards):
        writer.write_shard(shard, features[writer.rows_of(shard).start : writer.rows_of(shard).stop])
    writer.finish()
    (run / "cluster").mkdir(parents=True)
    np.save(run / "cluster" / "assignments.npy", assignments.astype(np.int32))
    np.save(run / "cluster" / "centroids.npy", np.eye(num_clusters, num_clusters + 1, dtype=np.float32))


def _write_labels(run: Path, assignments: Any, num_clusters: int) -> None:
    writer = LabelWriter(
        run / "pseudo_labels" / "labels", [(0, len(assignments))], num_clusters=num_clusters, fingerprint="hand"
    )
    names = [
        line.split("\t")[-1] for line in (run / "manifest" / "manifest" / "train.tsv").read_text().splitlines()[1:]
    ]
    writer.write_shard(0, (
        LabelRecord(name, (SIZE[1], SIZE[0]), np.full(GRID, assignments[index] + 1, np.uint16), attention(index))
        for index, name in enumerate(names)
    ))  # fmt: skip
    writer.finish(THRESHOLD, "auto")
    facts = {"threshold": THRESHOLD, "source": "auto", "used_labels": False, "method": "otsu", "separation": 0.8}
    write_json(run / "pseudo_labels" / "threshold.json", facts)


def _with_masks(source: ReportSource, folder: Path) -> ReportSource:
    """Six validation images; half of category 2's pixels are taken for category 1."""
    predictions, masks = source.of("predict") / "masks" / "validation", folder / "masks"
    for index in range(6):
        category = index % 3 + 1
        true = np.zeros((8, 8), np.uint16)
        true[2:] = category
        found = true.copy()
        if category == 2:
            found[2:5] = 1
        for root, ids in ((masks, true), (predictions, found)):
            write_mask(root / CATEGORIES[category - 1] / f"{index}.png", ids)
    metrics = evaluate_folders(predictions, masks, num_classes=source.num_classes).to_json()
    write_json(
        source.of("evaluate") / "metrics.json",
        {"splits": {"validation": metrics}, "categories": list(CATEGORIES), "groups": metrics["groups"]},
    )
    return replace(source, masks={"validation": masks}, metrics=(MetricRow("run", "hand", "validation", metrics),))
