"""What the page of a comparison shows: the table, the cells with links to their reports, and the curves of their pretraining."""

import os
from typing import Any

from luss import __version__
from luss.report.curves import read_curves
from luss.report.folder import MARKER
from luss.report.folder import PAGE as REPORT
from stages.comparing.figures import CellFigures
from stages.comparing.table import Results, to_json
from stages.pipeline import PRETRAIN

# Not worth a curve: the table says how fast it was, and every learner has its own schedule.
_NOT_SHOWN = {"lr", "images_per_second", "data_wait", "weight_decay"}
_POINTS = 120


def page_of(results: Results) -> dict[str, Any]:
    """Everything that `luss.report.comparison.write_comparison` writes; paths are relative to the comparison's folder."""
    data = to_json(results)
    for row, shown in zip(results.rows, data["rows"], strict=True):
        shown["texts"] = {column.key: row.values[column.key].text(column.digits)
                          for column in results.columns if column.key in row.values}  # fmt: skip
        for found, cell in zip(row.cells, shown["cells"], strict=True):
            cell["curves"] = _curves(results, found)
            cell["report"] = _report(results, found)
    return {**data, "luss": __version__, "folder": os.fspath(results.grid.folder)}


def _curves(results: Results, found: CellFigures) -> dict[str, Any] | None:
    """The log of a cell's pretraining over the images that it had seen; None where there is none."""
    cell = found.cell
    log = results.grid.folder / cell.name / PRETRAIN.name / "metrics.jsonl"
    curves = read_curves(log, PRETRAIN.name, max_points=_POINTS)
    if curves is None:
        return None
    series = {name: [None if value is None else float(f"{value:.5g}") for value in values]
              for name, values in curves.series.items() if name not in _NOT_SHOWN}  # fmt: skip
    return {"images": [(step + 1) * cell.run.pretrain.batch_size for step in curves.steps], "series": series}


def _report(results: Results, found: CellFigures) -> str | None:
    folder = results.grid.folder / found.cell.name / "report"
    return f"{found.cell.name}/report/{REPORT}" if (folder / MARKER).is_file() else None
