"""Running a comparison: cell by cell in this process or as jobs, each a normal run; what others have done is taken over, and nothing stops all."""

import gc
import shutil
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from luss import processes
from luss.errors import LussError
from luss.progress import Interrupted, StopFlag
from luss.report.comparison import write_comparison
from luss.settings import RunSettings
from stages.base import AnyStage
from stages.comparing.budget import TEMPORARY, measure, speed_key
from stages.comparing.figures import cell_figures, queued_jobs
from stages.comparing.grid import Cell, Grid, check_each
from stages.comparing.page import page_of
from stages.comparing.record import Record
from stages.comparing.sharing import take_over
from stages.comparing.table import Results, results_of, write_table
from stages.jobs.launch import Row, submit
from stages.jobs.plan import Order
from stages.pipeline import MANIFEST, PRETRAIN
from stages.running.preflight import check_sizes
from stages.running.runner import run_stages, select
from stages.running.screen import Console
from stages.running.signals import stop_on_signals
from stages.running.state import States

PAGE = "compare.html"


@dataclass
class Comparison:
    """A comparison at work; its folder is held by the caller.

    Attributes:
        grid: Its cells.
        record: What is kept of it.
        until: The last stage of every cell; None = all of its protocols.
        console: Where to print.
    """

    grid: Grid
    record: Record
    until: str | None
    console: Console

    def stages(self, cell: Cell) -> list[AnyStage]:
        """What a cell is to do."""
        return select(cell.run, until=self.until)

    def save(self) -> None:
        """Writes what is kept."""
        self.record.write(self.grid.folder)

    def prepare(self) -> None:
        """Lists the images of every cell and checks what follows from their number, before any cell trains.

        Raises:
            LussError: Every fault, with the cells that have it.
            Interrupted: A signal asked to stop.
        """
        if (own := processes.place()) is not None and own.world_size > 1:
            raise LussError(
                "luss compare works in one process: start it without torchrun; --submit trains with several"
            )
        for left in self.grid.folder.glob(f"{TEMPORARY}*"):
            shutil.rmtree(left, ignore_errors=True)
        self.save()
        check_each(self.grid, lambda cell, quiet: self._list_images(cell), self.console)

    def _list_images(self, cell: Cell) -> None:
        if not self._made(cell, MANIFEST):
            run_stages(cell.run, [MANIFEST], console=self.console)
        check_sizes(cell.run)

    def _made(self, cell: Cell, stage: AnyStage) -> bool:
        """Whether a stage is done, be it that another cell's was taken over now."""
        if States(cell.run).kind(stage) == "done":
            return True
        source = take_over(cell.run, stage)
        if source is not None:
            self._say(f"{cell.name}: {stage.name} is taken over from {source}, which has made the same")
        return source is not None

    def apply_budget(self, *, dry: bool = False) -> None:
        """Sets every cell's epochs to what the budget allows; what has not been measured before is measured, which takes some seconds each.

        Args:
            dry: Measure nothing; what is not known keeps its epochs.

        Raises:
            Interrupted: A signal asked to stop.
        """
        minutes = self.record.budget_minutes
        if minutes is None:
            return
        for cell in self.grid.cells:
            if not cell.run.pretrain.epochs or PRETRAIN not in self.stages(cell):
                continue
            key = speed_key(cell.run)
            if key not in self.record.speeds:
                if dry:
                    continue
                with stop_on_signals() as stop:
                    found = measure(cell.run, minutes, self.grid.folder, stop)
                self.record.speeds[key] = found
                self.save()
                title = " ".join(cell.row) or cell.name
                self._say(
                    f"{title}: {found['images_per_second']:g} images/s on {found['machine']}: {found['epochs']} epochs are "
                    f"{found['minutes']:g} min"
                )
            cell.run.pretrain.epochs = int(self.record.speeds[key]["epochs"])

    def run(self) -> None:
        """Runs every cell that is not done and not queued; one that fails is noted and does not stop the others.

        Raises:
            Interrupted: A signal asked to stop.
        """
        for cell in self.grid.cells:
            stages = self.stages(cell)
            if all(States(cell.run).kind(stage) == "done" for stage in stages):
                self._say(f"{cell.name}: done")
                self._note(cell, "")
                continue
            if queued := queued_jobs(States(cell.run).run_folder):
                self._say(f"{cell.name}: left to its jobs ({queued})")
                continue
            self.console.rule(cell.name)
            self._guard(cell, partial(self._run_one, cell, stages))
            self.collect()

    def _run_one(self, cell: Cell, stages: list[AnyStage]) -> None:
        for stage in stages:
            if not self._made(cell, stage):
                run_stages(cell.run, [stage], console=self.console)

    def submit(self, order: Callable[[RunSettings], Order], tell: Callable[[str, str], None]) -> None:
        """Submits every cell that is neither done nor queued; what others have done is taken over before.

        A cell whose pretraining an earlier cell will make is held back until that is done: the same command submits it then.

        Args:
            order: What to submit of a run.
            tell: Told the name of a cell and what became of it, a line at a time.
        """
        making: dict[str, str] = {}
        for cell in self.grid.cells:
            self._guard(cell, partial(self._submit_one, cell, making, order, tell))

    def _submit_one(
        self,
        cell: Cell,
        making: dict[str, str],
        order: Callable[[RunSettings], Order],
        tell: Callable[[str, str], None],
    ) -> None:
        """Submits a cell; `making` has who will make a pretraining, by its fingerprint."""
        wanted, stages = order(cell.run), self.stages(cell)
        for stage in stages:
            if not self._made(cell, stage):
                break
        states = States(cell.run)
        if PRETRAIN in stages and states.kind(PRETRAIN) != "done":
            maker = making.setdefault(states.fingerprint(PRETRAIN), cell.name)
            if maker != cell.name and wanted.cluster == "slurm":
                waits = f"waits for the pretraining of {maker}, which is the same: the same command submits it then"
                tell(cell.name, waits)
                return
        submit(wanted, partial(_tell_row, tell, cell.name))

    def _guard(self, cell: Cell, work: Callable[[], None]) -> None:
        """Does the work of a cell and notes its failure, whatever it is."""
        try:
            work()
        except (Interrupted, KeyboardInterrupt):
            raise
        except LussError as error:
            self._note(cell, str(error))
            self._say(f"{cell.name} failed: {error}", style="red")
        except Exception as error:
            # An error of the program: the person who mends it needs to see where it was.
            self._note(cell, f"{type(error).__name__}: {error}")
            self._say(f"{traceback.format_exc()}{cell.name} failed: {type(error).__name__}: {error}", style="red")
        else:
            self._note(cell, "")
        finally:
            # What a cell held is no part of the next one's memory.
            gc.collect()
            torch.cuda.empty_cache()

    def _note(self, cell: Cell, error: str) -> None:
        before = self.record.errors.pop(cell.name, "")
        if error:
            self.record.errors[cell.name] = error
        if error != before:
            self.save()

    def collect(self) -> Results:
        """Looks at every cell and writes `table.json`, `table.csv` and the page."""
        with stop_on_signals() as stop:
            results = self.look(stop)
        self.save()
        write_table(results)
        write_comparison(self.grid.folder / PAGE, page_of(results))
        return results

    def look(self, stop: StopFlag) -> Results:
        """The table as it is now; writes nothing."""
        found = [cell_figures(cell, self.stages(cell), self.record, stop.check) for cell in self.grid.cells]
        return results_of(self.grid, found, self.record)

    def _say(self, text: str, *, style: str = "") -> None:
        self.console.print(text, style=style or None)


def _tell_row(tell: Callable[[str, str], None], name: str, row: Row) -> None:
    tell(name, "  ".join(filter(None, (row.stage, row.job, row.shards, row.resources, row.log))))
