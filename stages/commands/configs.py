"""`luss configs`: the configurations that luss brings."""

import argparse

from luss.config import shipped_configs
from stages.running.screen import Console

HELP = "list the configurations that luss brings, with what each is for"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments: none."""
    parser.epilog = (
        "`luss run NAME` runs one, `luss config NAME` lists its settings, `luss init NAME` copies it to edit.\n"
        "Those below methods/ are laid over another: luss run objects27_cpu methods/swav"
    )


def main(options: argparse.Namespace) -> None:
    """Prints a line each: its name, and the first line of its file."""
    found, console = shipped_configs(), Console()
    width = max(map(len, found), default=0)
    for name, path in found.items():
        first = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("#").strip()
        console.write(f"{name:<{width}}  {first}\n")
