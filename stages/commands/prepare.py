"""`luss prepare`: data sets in the layout that `luss` reads."""

import argparse
import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from luss.errors import LussError
from luss.files import remove_leftovers, replacing
from stages.commands.base import progress_bars
from stages.running.screen import Console

if TYPE_CHECKING:
    from luss.data.imagenet_s_build import Built, Missing

HELP = "build a data set: ImageNet-S from ImageNet and the published annotations"

_SHOWN = 20
_EPILOG = """exit code 0: everything is there and every number is the published one; 2: something is missing or differs (what could be
built is built; the same command completes it)"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    sets = parser.add_subparsers(dest="data_set", required=True, metavar="DATA_SET")
    what = "ImageNet-S-50, -300 and -919 from ImageNet and the published annotations"
    one = sets.add_parser("imagenet-s", help=what, description=f"{what}. Makes only what is missing.", epilog=_EPILOG)
    one.add_argument("--imagenet", required=True, type=Path, metavar="DIR", help="holds train/<wnid>/ and val/")
    one.add_argument(
        "--annotations",
        required=True,
        type=Path,
        metavar="DIR_OR_ZIP",
        help="a release archive (ImageNetS50-*.zip), its unpacked folder, or a folder of several",
    )
    one.add_argument("--out", required=True, type=Path, metavar="DIR", help="gets ImageNetS50 and so on")
    one.add_argument(
        "--lists",
        type=Path,
        metavar="DIR",
        help="the toolkit's folder data: names the test images, which have no public masks",
    )
    one.add_argument(
        "--sets",
        nargs="+",
        type=int,
        choices=[50, 300, 919],
        metavar="N",
        help="50, 300, 919; default: those of the archive",
    )
    kind = one.add_mutually_exclusive_group()
    kind.add_argument("--link", dest="copy", action="store_false", help="links to ImageNet's files (default)")
    kind.add_argument("--copy", dest="copy", action="store_true", help="copies: about 130 GB for 919")
    one.set_defaults(copy=False)


def main(options: argparse.Namespace) -> None:
    """Builds the sets one by one; ends with an error when something is missing or differs from the published numbers."""
    from luss.data.imagenet_s_build import build_set
    from luss.data.imagenet_s_build_archive import open_annotations
    from luss.data.imagenet_s_build_sources import ImageNet, Lists
    from stages.running.lock import run_lock

    console = Console()
    imagenet = ImageNet.open(options.imagenet)
    lists = None if options.lists is None else Lists.open(options.lists)
    missing = MissingFile(options.out / "missing.txt")
    with run_lock(options.out), missing.written() as add:
        with progress_bars(console, "unpacking", lines=True) as shown:
            progress = partial(shown, "annotations")
            found = open_annotations(options.annotations, options.out / "annotations", on_progress=progress)
        if absent := [number for number in options.sets or [] if number not in found]:
            raise LussError(
                f"{options.annotations} holds the sets {', '.join(map(str, found))}, not {absent[0]}: see --sets"
            )
        built, build = [], partial(build_set, copy=options.copy, lists=lists, on_missing=add)
        for number in options.sets or found:
            with progress_bars(console, f"ImageNetS{number}", lines=True) as shown:
                built.append(build(number, found[number], imagenet, options.out, on_progress=shown))
    _report(console, built, missing)


def _report(console: Console, built: "list[Built]", missing: "MissingFile") -> None:
    table = Table(title="numbers of images", title_justify="left")
    for heading in ("set", "what", "published", "found", ""):
        table.add_column(heading, justify="right" if heading in ("published", "found") else "left")
    for one in built:
        for count in one.counts:
            same = count.expected == count.found
            table.add_row(one.name, count.what, f"{count.expected:,}", f"{count.found:,}", "" if same else "differs")
    console.print(table)
    for one in built:
        kind = f"{one.num_made} files made now" if one.num_made else "nothing was to be done"
        for line in (f"{one.name}: {kind}; data.root={one.folder}", *one.notes):
            console.print(line)
    if missing.count:
        console.print(f"missing, the first {len(missing.first)} of {missing.count}; all are in {missing.path}:")
        for line in missing.first:
            console.print(f"  {line}")
    if unlike := [one.name for one in built if not one.as_published]:
        reasons = [f"{missing.count} files or folders are missing"] if missing.count else []
        if any(count.expected != count.found for one in built for count in one.counts):
            reasons.append("numbers differ from the published ones")
        raise LussError(
            f"{', '.join(unlike)}: {' and '.join(reasons)}; what could be built is there. Results on it cannot be compared with "
            "published ones: complete the source and run the same command again"
        )


class MissingFile:
    """A file of what is missing, written as it is found: it may be much. The first lines are kept for the screen."""

    def __init__(self, path: Path) -> None:
        self.path, self.count, self.first = path, 0, list[str]()

    @contextlib.contextmanager
    def written(self) -> Iterator[Callable[["Missing"], None]]:
        """Yields what adds a line; at the end the file gets its name or, where nothing is missing, an older one goes."""
        remove_leftovers([self.path])
        with replacing(self.path) as temporary, open(temporary, "w", encoding="utf-8") as file:

            def add(missing: "Missing") -> None:
                line = f"{missing.data_set}/{missing.split}/{missing.name}\t{missing.reason}"
                file.write(line + "\n")
                self.count += 1
                if len(self.first) < _SHOWN:
                    self.first.append(line.replace("\t", ": "))

            yield add
        if not self.count:
            self.path.unlink()
