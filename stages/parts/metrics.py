"""The metrics of ImageNet-S over the evaluated splits: counting, matching, and what is written of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from luss.benchmark.counts import Counts
from luss.benchmark.evaluator import count_folders
from luss.benchmark.folders import png_names
from luss.benchmark.metrics import MatchingChoice, Metrics, evaluate
from luss.data.imagenet_s import category_ids
from luss.data.names import MaskNames
from luss.data.skipped import SkippedFiles
from luss.errors import LussError
from luss.files import read_record, write_json
from stages.base import StageContext
from stages.parts.images import data_layout, listed_split


def count_splits(context: StageContext, predictions: Path, *, num_classes: int, workers: int) -> dict[str, Counts]:
    """The counts of every evaluated split that has masks, in the order of `data.evaluate`.

    Args:
        context: Of the stage.
        predictions: Folder of `<split>/<category>/<name>.png`.
        num_classes: The largest id in masks and predictions.
        workers: Processes.
    """
    layout = data_layout(context.run.data)

    def progress(done: int, total: int) -> None:
        context.stop.check()
        context.reporter.advance(done)

    found = {}
    for split in context.run.data.evaluate:
        if split in layout.masks:
            _check_not_gone(context, split, predictions)
            pairs = _paired(context, split, predictions / split, layout.masks[split])
            context.reporter.start("mask", len(pairs), 0)
            folders = (predictions / split, layout.masks[split])
            found[split] = count_folders(
                *folders, num_classes=num_classes, workers=workers, progress=progress, only=pairs
            )
    return found


def _check_not_gone(context: StageContext, split: str, predictions: Path) -> None:
    """Makes sure that every image that could be read has its mask: who deletes some may not get the metrics of the rest.

    Raises:
        LussError: One is not there; names it.
    """
    manifest, skipped = listed_split(context, split), SkippedFiles(predictions.parent / "skipped.csv")
    names = MaskNames(manifest)
    for index in range(len(manifest)):
        path = predictions / split / names[index]
        if not path.is_file() and not skipped.lists(manifest.name(index)):
            stage = predictions.parent.name
            raise LussError(f"{path}, which {stage} has made, is gone: run it again (luss run ... --force {stage})")


def _paired(context: StageContext, split: str, predictions: Path, masks: Path) -> set[str]:
    """The images of a split that have both a mask and a prediction: an image that cannot be read has none, and is no reason to count nothing.

    Raises:
        LussError: More masks lack a prediction than images may be unreadable.
    """
    true = {name.removesuffix(".png") for name in png_names(masks, "masks")}
    predicted = {name.removesuffix(".png") for name in png_names(predictions, "predictions")}
    missing, surplus = sorted(true - predicted), predicted - true
    share = context.run.data.max_skipped_share
    if len(missing) > share * len(true):
        raise LussError(
            f"{len(missing)} of {len(true)} masks of {split} have no prediction, more than data.max_skipped_share={share:g} allows: "
            f"the first is {missing[0]}, whose image is absent or unreadable"
        )
    if missing:
        context.reporter.warn(
            f"{len(missing)} of {len(true)} masks of {split} are left out: their images could not be read (the first: {missing[0]})"
        )
    if surplus:
        context.reporter.warn(
            f"{len(surplus)} images of {split} have no mask and are left out (the first: {min(surplus)})"
        )
    return true & predicted


def evaluate_splits(
    counts: Mapping[str, Counts], matching: MatchingChoice, num_categories: int | None = None
) -> dict[str, Metrics]:
    """The metrics of every split; a matching that is searched is found on the first one and applied to the others."""
    found: dict[str, Metrics] = {}
    for split, each in counts.items():
        found[split] = evaluate(each, matching, num_categories=num_categories)
        matching = found[split].matching
    return found


def write_metrics(context: StageContext, metrics: Mapping[str, Metrics], facts: Mapping[str, Any]) -> None:
    """Writes `metrics.json`: the first split's numbers, those of all splits, and facts; says so where there is nothing to evaluate."""
    splits = {split: each.to_json() for split, each in metrics.items()}
    result: dict[str, Any] = {"splits": splits}
    if splits:
        categories = list(category_ids(data_layout(context.run.data).image_folder("train")))
        result = {**next(iter(splits.values())), "splits": splits, **facts, "categories": categories}
    else:
        context.reporter.message("no masks were found: there is nothing to evaluate, the predictions are the result")
    write_json(context.folder / "metrics.json", result)


SHOWN = ("miou", "boundary_miou", "image_accuracy", "f_measure")
"""The main metrics, in percent, by their keys in `metrics.json`."""


def read_metrics(path: Path) -> dict[str, Any]:
    """Reads what `write_metrics` wrote, and checks that every split has numbers.

    Raises:
        LussError: The file is absent or damaged.
    """
    remedy = f"put a sound copy in its place, or run the stage anew (--force {path.parent.name})"
    found = read_record(path, {"splits": dict}, remedy=remedy)
    anew = found.get("rematched", {"splits": {}})
    for splits in (found["splits"], anew.get("splits") if isinstance(anew, dict) else None):
        check_splits(splits, path, remedy)
    return found


def check_splits(splits: Any, path: Path, remedy: str) -> None:
    """Makes sure that the metrics of splits have the numbers that tables show.

    Raises:
        LussError: They have not; names the file `path`.
    """
    if not isinstance(splits, dict):
        raise LussError(f"{path} is damaged (its splits are no object): {remedy}")
    for split, values in splits.items():
        for name in (*SHOWN, "num_images"):
            if not isinstance(values, dict) or not isinstance(values.get(name), int | float):
                raise LussError(f"{path} is damaged (the {name} of {split} is no number): {remedy}")


def figures(metrics: Mapping[str, Metrics]) -> dict[str, float]:
    """The numbers of a stage's record: the main metrics of every split, in percent."""
    names = ("miou", "image_accuracy", "f_measure")
    return {f"{split} {name}": float(getattr(each, name)) for split, each in metrics.items() for name in names}
