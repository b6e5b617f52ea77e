"""`luss export`: a run's model, masks or pseudo labels in the formats of other programs."""

import argparse
import importlib
from pathlib import Path

from rich.console import Console

from luss.errors import LussError
from stages.commands.base import run_argument

HELP = "write a run's model, masks or pseudo labels for other programs"

# Format -> its module in stages/exports, and what it is. Imported only when asked for: some need extra packages.
FORMATS: dict[str, tuple[str, str]] = {}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "formats:\n" + "\n".join(f"  {name:<16}{text}" for name, (_, text) in FORMATS.items())
    run_argument(parser)
    parser.add_argument("--format", required=True, choices=list(FORMATS), metavar="FORMAT", help="one of those below")
    parser.add_argument("--out", required=True, type=Path, help="file or folder to write")
    parser.add_argument("--split", default="", help="train, validation, ...; each format has its usual one")


def main(options: argparse.Namespace) -> None:
    """Writes one format."""
    from stages.exports.base import ExportRequest
    from stages.summary import settings_of_run

    console = Console()
    module = importlib.import_module(f"stages.exports.{FORMATS[options.format][0]}")
    run = settings_of_run(options.run)
    if not options.run.is_dir():
        raise LussError(f"{options.run} is not the folder of a run")
    request = ExportRequest(run, options.run, options.out, options.split, console)
    console.print(module.export(request), highlight=False, soft_wrap=True)
