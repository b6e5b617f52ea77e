"""The cells of a comparison and their states: what a dry run and `luss status` show."""

from pathlib import Path

from rich.table import Table

from luss.errors import LussError
from stages.comparing.figures import queued_jobs
from stages.comparing.record import read_record
from stages.comparing.running import Comparison
from stages.pipeline import stages_of
from stages.running.console import duration
from stages.running.folder import DONE, read_done
from stages.running.results import settings_of_run
from stages.running.state import States


def planned(comparison: Comparison) -> Table:
    """What every cell has done and would do: a stage that an earlier cell has made, or would make, is not made again."""
    table = Table(title=str(comparison.grid.folder), title_justify="left")
    for heading in ("run", "done", "would run", "would take over"):
        table.add_column(heading, overflow="fold")
    # Those that are kept count too.
    records = ((done.parent.parent.name, read_done(done.parent)) for done in comparison.grid.folder.glob(f"*/*/{DONE}"))
    makers = {str(record["fingerprint"]): name for name, record in records}
    for cell in comparison.grid.cells:
        states, stages = States(cell.run), comparison.stages(cell)
        done, make, taken = 0, [], []
        for stage in stages:
            maker = makers.setdefault(states.fingerprint(stage), cell.name)
            if states.of(stage).kind == "done":
                done += 1
            elif maker == cell.name:
                make.append(stage.name)
            else:
                taken.append(stage.name)
        table.add_row(cell.name, f"{done} of {len(stages)}", _range(make), _range(taken))
    return table


def _range(stages: list[str]) -> str:
    return f"{stages[0]} to {stages[-1]}, {len(stages)} stages" if len(stages) > 2 else ", ".join(stages)


def status_of_cells(folder: Path) -> Table:
    """The state of every cell that a comparison ever had.

    Raises:
        LussError: The folder is no comparison's.
    """
    record = read_record(folder)
    table = Table(title=str(folder), title_justify="left")
    for heading in ("run", "stages done", "state", "work"):
        table.add_column(heading, overflow="fold")
    for name in record.cells:
        try:
            run = settings_of_run(folder / name)
        except LussError:
            table.add_row(name, "", "missing", "")
            continue
        states = States(run)
        stages = stages_of(run)
        found = {each: states.of(stage) for each, stage in stages.items()}
        num_done = sum(state.kind == "done" for state in found.values())
        lacking = next(((each, state) for each, state in found.items() if state.kind != "done"), None)
        words = "done" if lacking is None else " ".join(filter(None, (lacking[0], lacking[1].kind, lacking[1].detail)))
        words = queued_jobs(folder / name) or (f"failed: {record.errors[name]}" if name in record.errors else words)
        seconds = sum(state.seconds for state in found.values())
        table.add_row(name, f"{num_done} of {len(stages)}", words, duration(seconds) if seconds else "")
    return table
