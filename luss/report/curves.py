"""Training curves from `metrics.jsonl`, thinned to what a plot can show, and what they say of collapse."""

import math
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from luss.files import read_json_lines

MAX_POINTS = 240
# As `luss.methods.health` warns.
COLLAPSED_RANK = 2.0
COLLAPSED_SHARE = 0.05
HEALTH = ("feature_rank", "used_prototypes", "code_entropy", "prediction_entropy")
_NOT_DRAWN = {"step", "epoch", "restart", "iteration"}


@dataclass(frozen=True)
class Curves:
    """The log of one stage.

    Attributes:
        stage: Its name.
        unit: What `steps` counts.
        steps: Where the points lie, ascending; the last step that each one covers.
        series: Values by name, as many as `steps`; None where the log holds none. A point is the mean of the lines it covers.
        num_lines: Lines of the log.
    """

    stage: str
    unit: str
    steps: list[int]
    series: dict[str, list[float | None]]
    num_lines: int


@dataclass(frozen=True)
class Health:
    """Signs of collapse at the end of a log: medians over its last tenth.

    Attributes:
        values: By name, those of `HEALTH` that were logged.
        collapsed: Whether embeddings span one direction or nearly all images choose the same prototypes.
    """

    values: dict[str, float]
    collapsed: bool


def read_curves(path: Path, stage: str, max_points: int = MAX_POINTS) -> Curves | None:
    """Reads a log of any length, line by line.

    Args:
        path: `metrics.jsonl`. Lines cut short by a kill are passed over.
        stage: Whose log it is.
        max_points: Most points of a curve, >= 1.

    Returns:
        The curves; None without a log or a line in it.
    """
    num_lines = sum(1 for _ in read_json_lines(path))
    if not num_lines:
        return None
    bucket = math.ceil(num_lines / max_points)
    lines, steps, points = read_json_lines(path), [], []
    position = 0
    unit = ""
    while rows := list(islice(lines, bucket)):
        position += len(rows)
        unit = unit or ("step" if "step" in rows[0] else "iteration")
        steps.append(int(rows[-1].get("step", position - 1)))
        points.append(_mean(rows))
    names = dict.fromkeys(name for point in points for name in point)
    return Curves(stage, unit, steps, {name: [point.get(name) for point in points] for name in names}, num_lines)


def health(curves: Curves) -> Health | None:
    """What the end of a log says of collapse; None when it holds no such figures."""
    values = {}
    for name in HEALTH:
        tail = [value for value in curves.series.get(name, [])[-max(1, len(curves.steps) // 10) :] if value is not None]
        if tail:
            values[name] = sorted(tail)[len(tail) // 2]
    if not values:
        return None
    flat = values.get("feature_rank", math.inf) < COLLAPSED_RANK
    return Health(values, collapsed=flat or values.get("used_prototypes", 1.0) < COLLAPSED_SHARE)


def _mean(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Means of the finite numbers of some lines, by name."""
    found: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            if name not in _NOT_DRAWN and isinstance(value, (int, float)) and math.isfinite(value):
                found.setdefault(name, []).append(float(value))
    return {name: sum(values) / len(values) for name, values in found.items()}
