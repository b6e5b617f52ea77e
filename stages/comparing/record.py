"""`compare.json`: what a comparison is, and what was found out about its cells that their own folders do not say."""

import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from luss.errors import LussError
from luss.files import read_json, write_json
from stages.comparing.grid import Grid

FILE = "compare.json"
_FORMAT = 1


@dataclass
class Record:
    """What is kept of a comparison.

    Attributes:
        name: Of the comparison.
        command: What to type to continue it.
        axes: Labels of the values by the title of each axis.
        cells: Labels of every cell that ever belonged to it, by the name of its folder.
        budget_minutes: How long every learner pretrains; None = the configurations say how many epochs.
        speeds: What was measured for a budget, by the pretraining's identity: images_per_second, epochs, minutes, machine.
        errors: Why cells failed, by their names.
        nearest: 1-NN accuracy by the identity of the stage that made the vectors.
    """

    name: str
    command: str
    axes: dict[str, list[str]] = field(default_factory=dict)
    cells: dict[str, dict[str, str]] = field(default_factory=dict)
    budget_minutes: float | None = None
    speeds: dict[str, dict[str, Any]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    nearest: dict[str, float] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Writes it into the comparison's folder."""
        write_json(folder / FILE, {"format": _FORMAT, **asdict(self)})


def is_comparison(folder: Path) -> bool:
    """Whether a folder is that of a comparison."""
    return (folder / FILE).is_file()


def read_record(folder: Path) -> Record:
    """Reads the record of a comparison.

    Raises:
        LussError: There is none, or it is none of this version.
    """
    content = read_json(folder / FILE)
    try:
        if content.pop("format") != _FORMAT:
            raise ValueError(f"not of format {_FORMAT}")
        return Record(**content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise LussError(
            f"{folder / FILE} is no record of a comparison ({error}): move it away, and luss compare takes up the runs beside it"
        ) from error


def opened_record(grid: Grid, command: list[str], budget_minutes: float | None) -> Record:
    """The record of a comparison that is begun or continued, not yet written: the grid's cells are added to those it had.

    Raises:
        LussError: The folder is a run's, or a comparison's with another budget.
    """
    folder, text = grid.folder, shlex.join(command)
    axes = {axis.title: list(axis.labels) for axis in grid.axes}
    cells = {cell.name: cell.labels for cell in grid.cells}
    if not is_comparison(folder):
        if any(folder.glob("*/DONE.json")) or any(folder.glob("*/STARTED.json")):
            raise LussError(f"{folder} is the folder of a run: give the comparison a name of its own with name=NAME")
        return Record(grid.name, text, axes, cells, budget_minutes)
    record = read_record(folder)
    if record.budget_minutes != budget_minutes:
        raise LussError(
            f"{folder} is a comparison of {_said(record.budget_minutes)}, not of {_said(budget_minutes)}: say the same again, or give this "
            "one a name of its own with name=NAME"
        )
    record.command, record.axes, record.cells = text, axes, {**record.cells, **cells}
    return record


def _said(minutes: float | None) -> str:
    return "given epochs" if minutes is None else f"{minutes:g} minutes each (--budget-minutes {minutes:g})"
