"""`luss demo`: the embedded data set through every stage, and an untrained network beside it."""

import argparse
import time
from pathlib import Path

from rich.console import Console

from luss.config import load_config

HELP = "the embedded data set through every stage, and an untrained network beside it"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("--config", type=Path, default=Path("configs/demo.yaml"))
    parser.add_argument("words", nargs="*", metavar="key=value")


def main(options: argparse.Namespace) -> None:
    """Runs the pipeline twice, prints both rows and writes the page of the first."""
    run = load_config(options.config, options.words)
    floor = load_config(
        options.config, [*options.words, f"name={run.name}-floor", f"output={run.output}-floor", "pretrain.epochs=0"]
    )
    from stages.commands.report import write_report
    from stages.preflight import preflight
    from stages.runner import run_stages, select
    from stages.summary import print_results

    console = Console()
    started = time.monotonic()
    for title, settings in (("the pipeline", run), ("the floor: the same stages over an untrained backbone", floor)):
        console.rule(title)
        preflight(settings, console)
        run_stages(settings, select(settings), console=console)
    print_results([run, floor], console)
    write_report(Path(run.output), Path(run.output) / "report", console)
    console.print(f"demo finished in {time.monotonic() - started:.0f} s", highlight=False)
