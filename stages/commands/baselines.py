"""`luss baselines`: what a run's numbers are worth."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from luss.errors import LussError
from stages.commands.base import run_argument
from stages.commands.evaluate import parse_thresholds
from stages.running.screen import Console

if TYPE_CHECKING:
    from luss.settings import RunSettings

HELP = "evaluate simple baselines beside a finished run"

_EPILOG = """baselines:
  background     everything background
  centred_box    the image's own cluster in a centred box of half the image's area
  whole_image    the image's own cluster everywhere
  oracle_box     the true category in the centred box: uses ground truth, a yardstick and no competitor
  labels         the pseudo labels' own masks, without fine-tuning, at their threshold or at --thresholds
  untrained      every stage of the run over an untrained backbone
  weights        every stage of the run over the backbone with the weights of --weights, not trained further

Results: RUN/baselines/metrics.json, and beside the run's own in its table. The last two are runs of their own in
RUN/baselines: stopped ones continue, finished ones are not repeated.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.epilog = _EPILOG
    run_argument(parser)
    parser.add_argument(
        "--weights",
        metavar="timm|timm:NAME|FILE",
        help="weights of the backbone for the baseline `weights`, as pretrain.backbone.weights takes them",
    )
    parser.add_argument(
        "--thresholds",
        metavar="FIRST:LAST:STEP",
        help="for the baseline `labels`: one number, or the best of several on the first split, which uses ground truth",
    )
    parser.add_argument("--only", metavar="NAME", help="measure this baseline alone")


def main(options: argparse.Namespace) -> None:
    """Measures what is missing and prints the table."""
    weights = _checked_weights(options.weights)
    thresholds = None if options.thresholds is None else parse_thresholds(options.thresholds)
    from stages.running.baselines import (
        LABELS_ALONE,
        NAMES,
        UNTRAINED,
        WEIGHTS,
        evaluated_splits,
        record_sub_run,
        sub_run,
    )
    from stages.running.results import print_results, settings_of_run
    from stages.running.runner import run_stages, select

    if options.only is not None and options.only not in NAMES:
        raise LussError(f"there is no baseline {options.only!r}: the baselines are {', '.join(NAMES)}")
    if options.only == WEIGHTS and weights is None:
        raise LussError("the baseline weights needs --weights timm, timm:NAME or FILE")
    if thresholds is not None and options.only not in (None, LABELS_ALONE):
        raise LussError(
            f"--thresholds belong to the baseline {LABELS_ALONE}: leave them out with --only {options.only}"
        )
    console = Console()
    run = settings_of_run(options.run)
    evaluated_splits(run)
    chosen = NAMES if options.only is None else (options.only,)
    _measure_simple(run, [name for name in chosen if name not in (UNTRAINED, WEIGHTS)], thresholds, console)
    for name, own in ((UNTRAINED, "random"), (WEIGHTS, weights)):
        if name not in chosen:
            continue
        if own is None:
            console.print(f"{name}: left out, it needs --weights timm, timm:NAME or FILE")
            continue
        console.rule(f"the same stages over a backbone with {own} weights")
        other = sub_run(run, name, own)
        run_stages(other, select(other), console=console)
        record_sub_run(run, name, own)
    print_results([run], console)


def _checked_weights(weights: str | None) -> str | None:
    if weights is None or weights == "timm" or weights.startswith("timm:"):
        return weights
    if not Path(weights).is_file():
        raise LussError(f"--weights {weights} is no file, and neither timm nor timm:NAME")
    return str(Path(weights).resolve())


def _measure_simple(
    run: "RunSettings", names: list[str], thresholds: tuple[float, ...] | None, console: Console
) -> None:
    from luss.data.skipped import SkippedFiles
    from luss.device import resolve_device
    from stages.base import StageContext
    from stages.pipeline import MANIFEST
    from stages.running.baselines import FOLDER, LABELS_ALONE, measure_labels, measure_simple
    from stages.running.console import ConsoleReporter
    from stages.running.folder import PROGRESS
    from stages.running.lock import run_lock
    from stages.running.signals import stop_on_signals
    from stages.running.state import States

    if not names:
        return
    folder = Path(run.output) / FOLDER
    with run_lock(folder), stop_on_signals() as stop:
        reporter = ConsoleReporter(FOLDER, folder, console=console)
        skipped = SkippedFiles(folder / "skipped.csv")
        # No stage's own work: it reads what the manifest has listed.
        place = replace(States(run).place(MANIFEST, stop), folder=folder)
        context = StageContext(**vars(place), device=resolve_device(run.device), reporter=reporter, skipped=skipped)
        try:
            measure_simple(context, [name for name in names if name != LABELS_ALONE])
            if LABELS_ALONE in names:
                measure_labels(context, thresholds)
        finally:
            reporter.close()
            (folder / PROGRESS).unlink(missing_ok=True)
