"""The table of a comparison: means and spreads over seeds, as text, CSV and JSON."""

import csv
import io
import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from luss.files import write_json, write_text
from stages.comparing.figures import COLUMNS, IMAGES, CellFigures, Column
from stages.comparing.grid import SEED, Cell, Grid
from stages.comparing.record import Record
from stages.pipeline import PRETRAIN

# Numbers of images that differ by less are the same budget: of every epoch the images that fill no batch are left out.
_SAME = 0.02
# Share of a budget by which a pretraining may miss it without a word.
_LATE = 0.2
# Letters of a label, after which it may be folded.
_WIDEST = 24
MARK = "*"
_MARKED = f"{MARK} a threshold was searched with ground truth: not fully unsupervised"


@dataclass(frozen=True)
class Value:
    """A figure over the seeds of a row.

    Attributes:
        mean: Over the cells that have it.
        deviation: Standard deviation of a sample; None of a single one.
        number: How many cells have it.
    """

    mean: float
    deviation: float | None
    number: int

    def text(self, digits: int) -> str:
        """Mean and spread, such as "45.1 ± 1.2"."""
        spread = "" if self.deviation is None else f" ± {self.deviation:.{digits}f}"
        return f"{self.mean:.{digits}f}{spread}"


@dataclass(frozen=True)
class Row:
    """The seeds of one thing.

    Attributes:
        labels: What it is of each axis but the seed, by the axis's title.
        cells: Its cells.
        values: By the key of their column.
    """

    labels: dict[str, str]
    cells: tuple[CellFigures, ...]
    values: dict[str, Value]

    @property
    def marked(self) -> bool:
        """Whether labels were used where the protocol has none."""
        return any(each.used_labels for each in self.cells)

    @property
    def num_done(self) -> int:
        """Cells that are done."""
        return sum(each.state == "done" for each in self.cells)


@dataclass(frozen=True)
class Results:
    """A comparison as tables show it.

    Attributes:
        grid: The comparison.
        columns: Figures that some cell has; the images seen only where they differ.
        rows: In the order of the axes.
        budget: What was the same for all, in a sentence.
        notes: What a reader must know, a sentence each.
    """

    grid: Grid
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    budget: str
    notes: tuple[str, ...]

    @property
    def seeded(self) -> bool:
        """Whether there are seeds to take means over."""
        return any(axis.title == SEED for axis in self.grid.axes)

    @property
    def titles(self) -> list[str]:
        """Headings of the columns that say what a row is."""
        return [axis.title for axis in self.grid.axes if axis.title != SEED]


def results_of(grid: Grid, found: Sequence[CellFigures], record: Record) -> Results:
    """The table of what was found, a row for everything that differs by more than its seed."""
    groups: dict[tuple[str, ...], list[CellFigures]] = {}
    for each in found:
        groups.setdefault(each.cell.row, []).append(each)
    rows = tuple(_row(cells) for cells in groups.values())
    budget, differ = _budget(found, record)
    columns = tuple(
        column
        for column in COLUMNS
        if any(column.key in row.values for row in rows) and (differ or column is not IMAGES)
    )
    return Results(grid, columns, rows, budget, tuple(_notes(grid, rows, record)))


def _row(cells: Sequence[CellFigures]) -> Row:
    labels = {title: label for title, label in cells[0].cell.labels.items() if title != SEED}
    values = {}
    for column in COLUMNS:
        if numbers := [each.values[column.key] for each in cells if column.key in each.values]:
            deviation = statistics.stdev(numbers) if len(numbers) > 1 else None
            values[column.key] = Value(statistics.fmean(numbers), deviation, len(numbers))
    return Row(labels, tuple(cells), values)


def _budget(found: Sequence[CellFigures], record: Record) -> tuple[str, bool]:
    """The budget in a sentence, and whether the cells have seen different numbers of images."""
    seen = [each.values[IMAGES.key] for each in found if each.values.get(IMAGES.key)]
    differ = bool(seen) and max(seen) > (1 + _SAME) * min(seen)
    untrained = (
        " (but for 0 epochs, the network as it starts)"
        if any(not each.cell.run.pretrain.epochs for each in found)
        else ""
    )
    epochs = sorted({each.cell.run.pretrain.epochs for each in found} - {0})
    if record.budget_minutes is not None:
        machines = ", ".join(sorted({speed["machine"] for speed in record.speeds.values()}))
        where = f" on {machines}" if machines else ""
        return f"the same time for all: {record.budget_minutes:g} min of pretraining{where}{untrained}", differ
    if not epochs:
        return "nothing is pretrained", differ
    said = ", ".join(map(str, epochs))
    if differ or len(epochs) > 1:
        return f"not the same budget: {said} epochs{untrained}", differ
    images = f", {round(seen[0]):,} images seen" if seen else ""
    return f"the same number of images for all: {said} epochs{images}{untrained}", differ


def _notes(grid: Grid, rows: Sequence[Row], record: Record) -> list[str]:
    notes = [_MARKED] if any(row.marked for row in rows) else []
    for row in rows:
        notes += [f"{each.cell.name}: {each.state}: {each.reason}" for each in row.cells if each.state != "done"]
    kept = [name for name in record.cells if name not in {cell.name for cell in grid.cells}]
    if kept:
        notes.append(f"not in this table, but kept: {', '.join(kept)}")
    if record.budget_minutes is not None:
        notes += [_epochs(rows), *_late(rows, 60 * record.budget_minutes)]
    return notes


def _late(rows: Sequence[Row], seconds: float) -> list[str]:
    """What did not keep to a budget of time: the machine was not as fast as when it was measured, or an epoch is longer."""
    found = [
        (each.cell, each.values["pretrain_seconds"])
        for row in rows
        for each in row.cells
        if each.values.get(IMAGES.key)
    ]
    return [f"{cell.name}: its pretraining took {took:.0f} s, and the budget is {seconds:.0f} s" for cell, took in found
            if abs(took - seconds) > _LATE * seconds]  # fmt: skip


def _epochs(rows: Sequence[Row]) -> str:
    """How many epochs a budget of time has become, a row each."""
    found = []
    for row in rows:
        epochs = sorted({each.cell.run.pretrain.epochs for each in row.cells})
        found.append(f"{' '.join(row.labels.values()) or PRETRAIN.name} {' or '.join(map(str, epochs))}")
    return f"epochs in that time: {', '.join(found)}"


def printed(results: Results) -> Table:
    """The table for the screen: of seconds and memory only the means."""
    table = Table(title=f"{results.grid.folder}: {results.budget}", title_justify="left")
    for title in results.titles:
        words = [*spoken(title).split(), *(row.labels[title] + MARK for row in results.rows)]
        table.add_column(spoken(title), overflow="fold", min_width=min(_WIDEST, max(map(len, words))))
    if results.seeded:
        table.add_column("seeds", justify="right", no_wrap=True)
    texts = [[_short(row, column) for column in results.columns] for row in results.rows]
    for place, column in enumerate(results.columns):
        # On a narrow screen the words give way, never the numbers.
        numbers = max(len(row[place]) for row in texts)
        table.add_column(column.title, justify="right", min_width=max(numbers, *map(len, column.title.split())))
    for row, own in zip(results.rows, texts, strict=True):
        labels = list(row.labels.values())
        if labels and row.marked:
            labels[0] += MARK
        seeds = [f"{row.num_done} of {len(row.cells)}"] if results.seeded else []
        table.add_row(*labels, *seeds, *own)
    return table


def spoken(title: str) -> str:
    """The title of an axis in words that a table may break."""
    return re.sub("[._]", " ", title)


def _short(row: Row, column: Column) -> str:
    value = row.values.get(column.key)
    if value is None:
        return "-"
    return value.text(column.digits).replace(" ", "") if column.digits else f"{value.mean:.0f}"


def to_json(results: Results) -> dict[str, Any]:
    """Everything about the table in plain values, each cell's figures included."""
    return {
        "name": results.grid.name,
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "budget": results.budget,
        "notes": list(results.notes),
        "axes": [{"key": title, "title": spoken(title)} for title in results.titles],
        "columns": [vars(column) for column in results.columns],
        "rows": [
            {
                "labels": row.labels,
                "used_labels": row.marked,
                "seeds": len(row.cells),
                "done": row.num_done,
                "values": {key: vars(value) for key, value in row.values.items()},
                "cells": [_cell_json(each) for each in row.cells],
            }
            for row in results.rows
        ],
    }


def _cell_json(found: CellFigures) -> dict[str, Any]:
    cell: Cell = found.cell
    return {
        "name": cell.name,
        "seed": cell.run.seed,
        "epochs": cell.run.pretrain.epochs,
        "state": found.state,
        "reason": found.reason,
        "values": found.values,
    }


def write_table(results: Results) -> None:
    """Writes `table.json` and `table.csv`, which has a line a row."""
    write_json(results.grid.folder / "table.json", to_json(results))
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    headings = [f"{column.key}{part}" for column in results.columns for part in ("", "_sd")]
    lines.writerow([*results.titles, "seeds", "done", "used_labels", *headings])
    for row in results.rows:
        values = [row.values.get(column.key) for column in results.columns]
        numbers = [
            number for value in values for number in (("", "") if value is None else (value.mean, value.deviation))
        ]
        lines.writerow([*row.labels.values(), len(row.cells), row.num_done, int(row.marked), *numbers])
    write_text(results.grid.folder / "table.csv", text.getvalue())
