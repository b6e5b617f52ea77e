"""The result of an evaluation as a table for spreadsheets."""

import csv
import io
from collections.abc import Mapping, Sequence

from luss.benchmark.counts import GROUPS
from luss.benchmark.metrics import Metrics

COLUMNS = ("kind", "id", "name", "cluster", "iou", "boundary_iou", "value")
"""Columns of the CSV: see `metrics_csv`."""


def metrics_csv(metrics: Metrics, names: Mapping[int, str] | None = None) -> str:
    """The metrics as CSV, in percent with 6 decimals; fields that a row has no use for are empty.

    The rows by their `kind`:
        class: one for each of 0..C: `id`, category `name` (empty when not known), the `cluster` matched to it, its `iou` and
            `boundary_iou`.
        mean: `name` all, S, MS, ML, L: mIoU and boundary mIoU over all categories and over each size group.
        metric: `name` image_accuracy, f_measure, num_images and, when it was searched, threshold: its `value`.

    Args:
        metrics: The result of an evaluation.
        names: Category id to name.
    """
    cluster_of = {category: cluster for cluster, category in metrics.matching.items()}
    named = {0: "background", **(names or {})}
    rows: list[Sequence[object]] = [COLUMNS]
    for category, (iou, boundary) in enumerate(zip(metrics.ious, metrics.boundary_ious, strict=True)):
        name, cluster = named.get(category, ""), cluster_of[category]
        rows.append(("class", category, name, cluster, _number(iou), _number(boundary), ""))
    means: dict[str, tuple[float | None, float | None]] = {"all": (metrics.miou, metrics.boundary_miou)}
    means |= {name: (metrics.groups["miou"][name], metrics.groups["boundary_miou"][name]) for name in GROUPS}
    rows += [("mean", "", name, "", *map(_number, pair), "") for name, pair in means.items()]
    values = {"image_accuracy": _number(metrics.image_accuracy), "f_measure": _number(metrics.f_measure)}
    values["num_images"] = str(metrics.num_images)
    if metrics.threshold is not None:
        values["threshold"] = f"{metrics.threshold:g}"
    rows += [("metric", "", name, "", "", "", value) for name, value in values.items()]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"
