"""`luss init`: a copy of a configuration, to edit."""

import argparse
from pathlib import Path

from luss.config import nearest_config, shipped_configs
from luss.errors import LussError
from luss.files import create_text
from stages.running.screen import Console

HELP = "copy a configuration that luss brings into a file of your own, to edit"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.epilog = """examples:
  luss init objects27_cpu                objects27_cpu.yaml in this folder
  luss init objects27_cpu photos.yaml    under another name; `luss run photos.yaml` runs it"""
    parser.add_argument("name", metavar="NAME", help="one that `luss configs` lists")
    parser.add_argument(
        "file", nargs="?", type=Path, metavar="FILE", help="where to (default: NAME.yaml in this folder)"
    )


def main(options: argparse.Namespace) -> None:
    """Copies; never writes over a file."""
    found = shipped_configs()
    name = options.name.removeprefix("configs/").removesuffix(".yaml")
    if name not in found:
        raise LussError(f"luss brings no configuration {name}{nearest_config(Path(name))}")
    target = options.file or Path(f"{Path(name).name}.yaml")
    target = target / f"{Path(name).name}.yaml" if target.is_dir() else target
    if not create_text(target, found[name].read_text(encoding="utf-8")):
        raise LussError(f"{target} is there already: give another file, or move it away")
    Console().print(
        f"{target} holds the settings of {name}: edit it, then give it in place of the name",
    )
