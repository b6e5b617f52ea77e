"""What a command module holds, and the arguments that several commands share."""

import argparse
from pathlib import Path
from typing import Protocol


class Command(Protocol):
    """A module of this package."""

    # One line for `luss --help`.
    HELP: str

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declares the arguments."""
        ...

    def main(self, options: argparse.Namespace) -> None:
        """Does the work; `stages.commands.stage.guarded` turns its errors into messages and exit codes.

        Raises:
            LussError: A mistake that the user can mend.
        """
        ...


def config_arguments(parser: argparse.ArgumentParser) -> None:
    """`CONFIG.yaml key=value ...`; options may stand anywhere between them."""
    parser.add_argument("config", type=Path, help="YAML file, such as configs/demo.yaml")
    parser.add_argument(
        "words", nargs="*", metavar="key=value", help="settings that win over the file, such as pretrain.epochs=10"
    )


def run_argument(parser: argparse.ArgumentParser) -> None:
    """`RUN`, the folder of a run."""
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder, such as outputs/demo")
