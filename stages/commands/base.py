"""What a command module holds, and the arguments that several commands share."""

import argparse
import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from stages.running.screen import Console, shown

SECONDS = 20.0
"""Between two lines about progress, where there is no terminal."""

# Ends the help of every command that takes settings.
KEY_VALUE = """key=value sets one setting and wins over the file: the key is its dotted name, block first; of two words for one key the later wins.
`luss config CONFIG.yaml` lists every key with its value. Lists are written protocols=[distance_matching,semi_supervised]."""


class Command(Protocol):
    """A module of this package."""

    # One line for `luss --help`.
    HELP: str

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declares the arguments."""

    def main(self, options: argparse.Namespace) -> None:
        """Does the work; `stages.running.signals.guarded` turns its errors into messages and exit codes.

        Raises:
            LussError: A mistake that the user can mend.
        """


class _FileAndWords(argparse.Action):
    """Takes the file out of the words, among which it may stand anywhere."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        words = [namespace.config, *values]
        # A word in brackets is a list of files: `luss compare` takes such.
        namespace.config = next((word for word in words if "=" not in word and word[:1] != "["), words[0])
        words.remove(namespace.config)
        namespace.config, namespace.words = Path(namespace.config), words


def config_arguments(parser: argparse.ArgumentParser) -> None:
    """`CONFIG.yaml key=value ...`, in any order; options may stand anywhere between them."""
    parser.add_argument(
        "config", help="YAML file, such as mine.yaml, or a name that `luss configs` lists, such as demo"
    )
    parser.add_argument(
        "words", nargs="*", action=_FileAndWords, metavar="key=value",
        help="settings that win over the file, such as pretrain.epochs=10",
    )  # fmt: skip


def run_argument(parser: argparse.ArgumentParser) -> None:
    """`RUN`, the folder of a run."""
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder, such as outputs/demo")


def tell_changed(run_folder: Path, console: Console) -> None:
    """A line where the images of a run are no longer those that were listed."""
    from stages.parts.images import changed_since_listed

    if sentence := changed_since_listed(run_folder):
        console.print(f"warning: {sentence}", style="yellow")


def now_and_then(console: Console, what: str, *, at_end: bool = False) -> Callable[[int, int], None]:
    """Takes numbers of images, done and in all, and prints a line about them every `SECONDS`; with `at_end` also at the end."""
    last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > SECONDS or (at_end and done == total):
            last = time.monotonic()
            console.print(f"{what} {done} of {total} images")

    return show


@contextlib.contextmanager
def progress_bars(
    console: Console, title: str = "", *, lines: bool = False
) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each part of some work on a terminal; elsewhere, with `lines`, a line when a part is done.

    Yields:
        What to tell: the part, how much of it is done, and how much there is.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    tasks: dict[str, TaskID] = {}
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:

        def show(part: str, done: int, total: int) -> None:
            if part not in tasks:
                # Parts are named after folders.
                tasks[part] = bars.add_task(shown(f"{title} {part}".strip()), total=total)
            bars.update(tasks[part], completed=done, total=total)
            if lines and not console.is_terminal and done == total:
                console.print(f"{title}: {part}")

        yield show


def parsed(
    parser: argparse.ArgumentParser, commands: Mapping[str, argparse.ArgumentParser], arguments: Sequence[str]
) -> argparse.Namespace:
    """Reads a command line; options may stand anywhere between the words of a command.

    Args:
        parser, commands: The parser of all commands, and that of each.
        arguments: The command, which is `command` in the options returned, and its words.
    """
    if not arguments or arguments[0] not in commands:
        # Help, or what is wrong.
        return _expanded(parser.parse_args(arguments))
    # `parser` itself would take options only before or after all words.
    command, found = commands[arguments[0]], argparse.Namespace(command=arguments[0])
    try:
        return _expanded(command.parse_intermixed_args(arguments[1:], found))
    except TypeError:
        # It has commands of its own.
        return _expanded(command.parse_args(arguments[1:], found))


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _expanded(options: argparse.Namespace) -> argparse.Namespace:
    """`~` in every path: shells leave it where it does not begin a word, as in --out=~/masks."""
    for name, value in vars(options).items():
        if isinstance(value, Path):
            setattr(options, name, value.expanduser())
        elif isinstance(value, list):
            setattr(options, name, [each.expanduser() if isinstance(each, Path) else each for each in value])
    return options
