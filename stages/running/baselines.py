"""Baselines of a run: what its numbers are worth. Products, in `baselines/` of the run:

metrics.json                  every baseline: its title, whether it uses ground truth, what it was made from, metrics a split
clusters-<split>-<id>.npy     the cluster of every image of a split
labels-<split>/               label maps of a split, for the score of the pseudo labels themselves
untrained/, weights/          whole runs of the same stages over other backbones
"""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from luss.benchmark.baselines import NEED_CLUSTERS, ORACLE_BOX, TITLES, count_baselines
from luss.benchmark.counts import Counts
from luss.benchmark.image import Map
from luss.clustering.results import read_centroids
from luss.data.imagenet_s import read_mask
from luss.data.manifest import Manifest
from luss.data.names import MaskNames
from luss.data.resized import cropped_batches
from luss.errors import LussError
from luss.files import read_record, replacing, write_json
from luss.settings import RunSettings
from luss.training.precision import Precision
from stages.base import AnyStage, StageContext
from stages.parts.images import categories_of, data_layout, listed_split, num_classes
from stages.parts.metrics import check_splits, evaluate_splits, read_metrics
from stages.pipeline import ATTENTION, CLUSTERS, EVALUATE, FEATURES, LABELS, MANIFEST, PRETRAIN
from stages.running.folder import done_record
from stages.running.label_score import label_metrics
from stages.running.products import SMALL_BYTES, require_sound
from stages.running.state import States

FOLDER = "baselines"
LABELS_ALONE, UNTRAINED, WEIGHTS = "labels", "untrained", "weights"
NAMES = (*TITLES, LABELS_ALONE, UNTRAINED, WEIGHTS)
"""All baselines, in the order of the table."""

# Raised when the meaning of a simple baseline changes.
_VERSION = 2


def evaluated_splits(run: RunSettings) -> list[str]:
    """The splits that the run is evaluated on.

    Raises:
        LussError: None of them has masks.
    """
    layout = data_layout(run.data)
    splits = [split for split in run.data.evaluate if split in layout.masks]
    if not splits:
        wanted = ", ".join(f"{split}-segmentation" for split in run.data.evaluate)
        raise LussError(
            f"baselines need masks to be compared with, and {layout.root} has none for data.evaluate (looked for {wanted})"
        )
    return splits


def measure_simple(context: StageContext, names: Sequence[str]) -> None:
    """Measures those simple baselines (keys of `TITLES`) that are not up to date, all of a split in one pass over its masks.

    The matching is found on the first split and applied to the others, as the run itself does; the oracle needs none. The folder of `context`
    is that of the baselines.

    Raises:
        LussError: A stage they need is not done, or a mask cannot be read.
        Interrupted: A stop was asked for; what was measured is on disk.
    """
    run = context.run
    names = [name for name in names if not _is_current(run, name, _entries(context.folder).get(name))]
    if not names:
        return
    States(run).check(FOLDER, _needs(names))
    require_sound(context.run_folder, [need.name for need in _needs(names)], most_bytes=SMALL_BYTES)
    counts: dict[str, dict[str, Counts]] = {name: {} for name in names}
    for split in evaluated_splits(run):
        items = _items(context, split, with_clusters=any(name in NEED_CLUSTERS for name in names))
        largest = num_classes(CLUSTERS.block(run).num_clusters, data_layout(run.data))
        for name, found in count_baselines(items, names, num_classes=largest).items():
            counts[name][split] = found
    for name in names:
        matching = "identity" if name == ORACLE_BOX else run.evaluate.matching
        metrics = evaluate_splits(counts[name], matching, categories_of(data_layout(run.data)))
        splits = {split: each.to_json() for split, each in metrics.items()}
        _record(context.folder, name, {"title": TITLES[name], "inputs": _inputs(run, name), "splits": splits})


def measure_labels(context: StageContext, thresholds: Sequence[float] | None) -> None:
    """Measures the pseudo labels themselves, without fine-tuning, unless that is up to date; see `stages.running.label_score`.

    `thresholds`: ascending; None = the one that the labels have. Of several the best on the first split is taken, which uses ground truth.
    """
    run, asked = context.run, None if thresholds is None else list(thresholds)
    entry = _entries(context.folder).get(LABELS_ALONE)
    if entry is not None and entry["inputs"].get("thresholds") == asked and _is_current(run, LABELS_ALONE, entry):
        return
    States(run).check(FOLDER, _needs([LABELS_ALONE]))
    metrics = label_metrics(context, evaluated_splits(run), thresholds)
    splits = {split: each.to_json() for split, each in metrics.items()}
    threshold = next(iter(metrics.values())).threshold or 0.0
    title, searched = f"pseudo labels without fine-tuning, threshold {threshold:.3g}", len(asked or ()) > 1
    if searched:
        title += f", the best of {len(asked or ())} (uses ground truth)"
    searched |= asked is None and run.pseudo_labels.threshold == "validation"
    inputs = _inputs(run, LABELS_ALONE) | {"thresholds": asked}
    _record(
        context.folder,
        LABELS_ALONE,
        {"title": title, "inputs": inputs, "splits": splits, "uses_ground_truth": searched},
    )


def sub_run(run: RunSettings, name: str, weights: str = "random") -> RunSettings:
    """The settings of a whole run over another backbone, trained no further.

    `name` is `UNTRAINED` or `WEIGHTS`, `weights` as `pretrain.backbone.weights`.
    """
    other = copy.deepcopy(run)
    other.name, other.output = f"{run.name}-{name}", str(Path(run.output) / FOLDER / name)
    other.protocols = ["unsupervised"]
    other.pretrain.epochs, other.pretrain.weights, other.pretrain.backbone.weights = 0, "", weights
    return other


def record_sub_run(run: RunSettings, name: str, weights: str = "random") -> None:
    """Takes the metrics of a finished `sub_run` over into those of the baselines."""
    other = sub_run(run, name, weights)
    splits = read_metrics(Path(other.output) / "evaluate" / "metrics.json")["splits"]
    title = "untrained backbone" if name == UNTRAINED else f"backbone with the weights {weights}, not trained further"
    entry = {"title": title, "inputs": {"weights": weights}, "splits": splits}
    _record(Path(run.output) / FOLDER, name, entry)


def baseline_rows(run: RunSettings) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Title, split and metrics of the baselines that belong to the run as it is now."""
    entries = _entries(Path(run.output) / FOLDER)
    for name in NAMES:
        entry = entries.get(name)
        if entry is not None and _is_current(run, name, entry):
            yield from ((entry["title"], split, values) for split, values in entry["splits"].items())


def _items(context: StageContext, split: str, *, with_clusters: bool) -> Iterator[tuple[str, Map, int]]:
    """Mask and cluster of every image of a split."""
    masks = data_layout(context.run.data).masks[split]
    manifest = listed_split(context, split, message=context.reporter.message)
    clusters = _image_clusters(context, manifest, split) if with_clusters else np.zeros(len(manifest), np.int32)
    names = MaskNames(manifest)
    context.reporter.start("mask", len(manifest), 0)
    for index in range(len(manifest)):
        context.stop.check()
        yield names[index], read_mask(masks / names[index]), int(clusters[index])
        context.reporter.advance(index + 1)


def _image_clusters(context: StageContext, manifest: Manifest, split: str) -> NDArray[np.int32]:
    """(N,) the cluster 1..C nearest to each image's pooled vector, by cosine; 0 for an image that cannot be read.

    The vectors are those of stage extract_features. A run that clusters layout descriptors has as centroids the mean vectors of
    its clusters, and an image's cluster is then an estimate.
    """
    identity = done_record(context.run_folder, CLUSTERS.name)["id"]
    path = context.folder / f"clusters-{split}-{identity}.npy"
    if path.is_file():
        return np.asarray(np.load(path, allow_pickle=False), np.int32)
    settings, network = FEATURES.block(context.run), ATTENTION.network(context)
    width = network.backbone.num_channels
    centroids = torch.from_numpy(read_centroids(context.of(CLUSTERS) / "centroids.npy", dim=width))
    centroids = F.normalize(centroids.float(), dim=1).to(context.device)
    precision = Precision(settings.precision, context.device, warn=context.reporter.warn)
    clusters = np.zeros(len(manifest), np.int32)
    done = 0
    context.reporter.start("image", len(manifest), 0)
    limit, multiple = context.run.data.max_pixels, network.backbone.multiple
    for batch in cropped_batches(manifest, range(len(manifest)), settings, max_pixels=limit, multiple=multiple):
        context.stop.check()
        for _, unreadable, reason in batch.unreadable:
            context.skipped.add(Path(unreadable), reason)
        if batch.indices:
            images = network.backbone.normalise(batch.images)
            with precision.autocast():
                vectors = network.vectors(images, pool=settings.pool)
            clusters[np.array(batch.indices)] = (vectors.float() @ centroids.T).argmax(dim=1).cpu().numpy() + 1
        done += len(batch.indices) + len(batch.unreadable)
        context.reporter.advance(done)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.save(file, clusters, allow_pickle=False)
    return clusters


def _needs(names: Sequence[str]) -> tuple[AnyStage, ...]:
    if LABELS_ALONE in names:
        return (MANIFEST, PRETRAIN, ATTENTION, CLUSTERS, LABELS)
    clustered = (PRETRAIN, ATTENTION, CLUSTERS) if any(name in NEED_CLUSTERS for name in names) else ()
    return (MANIFEST, *clustered)


def _inputs(run: RunSettings, name: str) -> dict[str, Any]:
    """What a simple baseline is made from: when it differs, the numbers are those of something else."""
    needs = {need.name: done_record(Path(run.output), need.name)["id"] for need in _needs([name])}
    edits = {"edits": LABELS.edits(Path(run.output))[0]} if name == LABELS_ALONE else {}
    return {"version": _VERSION, "splits": evaluated_splits(run), "matching": run.evaluate.matching, **needs, **edits}


def _is_current(run: RunSettings, name: str, entry: dict[str, Any] | None) -> bool:
    if entry is None:
        return False
    try:
        if name in (*TITLES, LABELS_ALONE):
            made_from = {key: value for key, value in entry["inputs"].items() if key != "thresholds"}
            return bool(made_from == _inputs(run, name))
        other = sub_run(run, name, entry["inputs"]["weights"])
        return States(other).of(EVALUATE).kind == "done"
    except LussError:  # the data has moved, or a stage was undone
        return False


def _entries(folder: Path) -> dict[str, dict[str, Any]]:
    path, remedy = folder / "metrics.json", "delete it and measure the baselines again (luss baselines)"
    if not path.is_file():
        return {}
    found: dict[str, dict[str, Any]] = read_record(path, {"baselines": dict}, remedy=remedy)["baselines"]
    for name, entry in found.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("inputs"), dict):
            raise LussError(f"{path} is damaged (its baseline {name} has no inputs): {remedy}")
        check_splits(entry.get("splits"), path, remedy)
    return found


def _record(folder: Path, name: str, entry: dict[str, Any]) -> None:
    entries = {**_entries(folder), name: {"uses_ground_truth": name == ORACLE_BOX, **entry}}
    write_json(folder / "metrics.json", {"baselines": {each: entries[each] for each in NAMES if each in entries}})
