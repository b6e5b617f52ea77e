"""The facts of a run in plain values: settings, stages, metrics beside their floors, skipped files."""

import csv
import math
from itertools import islice
from typing import Any

from luss.errors import LussError
from luss.files import read_record
from luss.labels.layers import current_layer
from luss.report.source import MetricRow, ReportSource
from luss.settings.fields import changing_settings

METRICS = ("miou", "boundary_miou", "image_accuracy", "f_measure")
UNTRAINED = "untrained backbone"
MAX_SKIPPED = 200


def settings_rows(source: ReportSource) -> list[dict[str, Any]]:
    """The settings that differ from their defaults and can change a result: key and value."""
    rows = [{"key": key, "value": value} for key, value in sorted(changing_settings(source.settings).items())]
    return [row for row in rows if row["key"] != "name"]


def stage_rows(source: ReportSource) -> list[dict[str, Any]]:
    """The stages in order, with their state, seconds and peak memory."""
    return [
        {name: getattr(row, name) for name in ("name", "state", "detail", "seconds", "peak_memory_mb", "finished")}
        | {"seconds": round(row.seconds, 1)}
        for row in source.stages.values()
    ]


def metric_rows(source: ReportSource) -> list[dict[str, Any]]:
    """Metrics in percent: the run's, those of the same run over an untrained backbone, and baselines.

    Returns:
        Rows of kind, label, split, num_images and `METRICS`; what was not measured is None. A run `<RUN>-floor` beside the run counts as
        its untrained backbone unless the baselines hold one.

    Raises:
        LussError: The floor's file cannot be read.
    """
    rows = [_metric_row(row) for row in source.metrics]
    path = source.folder.with_name(f"{source.folder.name}-floor") / "evaluate" / "metrics.json"
    if path.is_file() and all(row["label"] != UNTRAINED for row in rows):
        splits = read_record(path, {"splits": dict})["splits"]
        rows += [_metric_row(MetricRow("floor", UNTRAINED, split, values)) for split, values in splits.items()]
    return rows


def _metric_row(row: MetricRow) -> dict[str, Any]:
    values = {name: _number(row.values.get(name)) for name in (*METRICS, "num_images")}
    return {"kind": row.kind, "label": row.label, "split": row.split, **values}


def _number(value: Any) -> float | None:
    return round(value, 2) if isinstance(value, (int, float)) and math.isfinite(value) else None


def threshold_facts(source: ReportSource) -> dict[str, Any] | None:
    """The threshold that the labels have now, and where it comes from; None before they are made.

    Returns:
        What `threshold.json` holds; where `luss labels` has set another threshold that one, with source "given". `layer` is the number of
        the edits in use, 0 for none; `names` the names that clusters have there.

    Raises:
        LussError: A file cannot be read.
    """
    if not source.has("pseudo_labels"):
        return None
    facts = read_record(source.of("pseudo_labels") / "threshold.json", {"threshold": float, "source": str})
    layer = current_layer(source.of("pseudo_labels") / "labels")
    if layer.threshold is not None:
        facts |= {"threshold": layer.threshold, "source": "given", "used_labels": False}
    return facts | {"layer": layer.number, "names": {str(cluster): name for cluster, name in layer.names.items()}}


def skipped_rows(source: ReportSource) -> dict[str, Any]:
    """Files that stages could not use: how many lines in all, and the first `MAX_SKIPPED` with stage, path and reason."""
    shown: list[dict[str, str]] = []
    total = 0
    for name in source.stages:
        path = source.of(name) / "skipped.csv"
        if not path.is_file():
            continue
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            lines = csv.DictReader(file)
            for row in islice(lines, MAX_SKIPPED - len(shown)):
                shown.append({"stage": name, "path": row.get("path") or "", "reason": row.get("reason") or ""})
                total += 1
            total += sum(1 for _ in lines)
    return {"total": total, "files": shown}


def num_images(source: ReportSource) -> int | None:
    """Training images; None before they are listed.

    Raises:
        LussError: The manifest's facts cannot be read.
    """
    path = source.of("manifest") / "manifest" / "train.json"
    if not path.is_file():
        return None
    try:
        return int(read_record(path)["num_images"])
    except (KeyError, TypeError, ValueError) as error:
        raise LussError(f"{path} is damaged ({error!r}): run the manifest stage again") from error
