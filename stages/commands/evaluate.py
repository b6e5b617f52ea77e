"""`luss evaluate`: the metrics of ImageNet-S for anybody's predictions."""

import argparse
import contextlib
import os
from collections.abc import Callable, Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from luss.errors import LussError
from luss.files import write_json, write_text
from stages.commands.base import now_and_then, num_cores
from stages.running.screen import Console

if TYPE_CHECKING:
    from luss.benchmark.metrics import Metrics

HELP = "the metrics of ImageNet-S for a folder of predictions, of any method"

_EPILOG = """Files: PREDICTIONS and MASKS are folders <category>/<name>.png of the same names and sizes, RGB, id = R + 256 G:
0 background, 1..C clusters or categories, in masks also 1000 for pixels that do not count.

examples:
  luss evaluate predictions validation-segmentation --num-classes 50 --json metrics.json
  luss evaluate validation validation-segmentation --num-classes 50 --save-matching match.json
  luss evaluate test test-segmentation --num-classes 50 --matching match.json
  luss evaluate unfiltered validation-segmentation --num-classes 50 --attention attention --thresholds 0:0.8:0.01
"""
_MAX_THRESHOLDS = 10_000


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.epilog = _EPILOG
    parser.add_argument("predictions", type=Path, metavar="PREDICTIONS", help="folder of predicted ids")
    parser.add_argument("masks", type=Path, metavar="MASKS", help="folder of true ids")
    parser.add_argument("--num-classes", type=int, required=True, metavar="C", help="categories without background")
    parser.add_argument(
        "--num-clusters", type=int, default=0, metavar="K",
        help="ids of predictions where they are more than C: means stay over the C categories, unmatched clusters are wrong",
    )  # fmt: skip
    parser.add_argument(
        "--matching", default="hungarian", metavar="HOW",
        help="hungarian (found here; the default), identity (ids are categories already), or the JSON file of a matching",
    )  # fmt: skip
    parser.add_argument("--save-matching", type=Path, metavar="FILE", help="write the matching as JSON")
    parser.add_argument(
        "--attention", type=Path, metavar="FOLDER",
        help="<category>/<name>.npy, or pseudo labels of luss (labels.h5 or its folder): pixels below the best threshold become background",
    )  # fmt: skip
    parser.add_argument(
        "--thresholds", metavar="FIRST:LAST:STEP", help="thresholds to search, or one number (default 0:0.8:0.01)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers as JSON")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write a row a category and summary rows as CSV")
    parser.add_argument("--workers", type=int, default=num_cores(), metavar="N", help="processes (default: the cores)")
    parser.add_argument(
        "--allow-foreign-ids", action="store_true",
        help="count predictions with ids above C as the published code does, instead of refusing them",
    )  # fmt: skip


def main(options: argparse.Namespace) -> None:
    """Checks the arguments, evaluates, prints a table and writes the files asked for."""
    from luss.benchmark.evaluator import evaluate_folders
    from luss.benchmark.label_attention import attention_source
    from luss.benchmark.matching import save_matching
    from luss.benchmark.tables import metrics_csv

    console = Console()
    thresholds = None if options.thresholds is None else parse_thresholds(options.thresholds)
    _check_outputs(options)
    matching = _matching(options.matching)
    attention = None if options.attention is None else attention_source(options.attention)
    with _progress(console) as progress:
        metrics = evaluate_folders(
            options.predictions,
            options.masks,
            num_classes=options.num_classes,
            num_clusters=options.num_clusters,
            matching=matching,  # type: ignore[arg-type]
            attention=attention,
            thresholds=thresholds,
            workers=options.workers,
            allow_foreign_ids=options.allow_foreign_ids,
            progress=progress,
        )
    _print(metrics, console)
    if options.save_matching is not None:
        save_matching(options.save_matching, metrics.matching)
    if options.json is not None:
        write_json(options.json, metrics.to_json())
    if options.csv is not None:
        write_text(options.csv, metrics_csv(metrics, _category_names(options.masks, options.num_classes)))


def parse_thresholds(text: str) -> tuple[float, ...]:
    """Thresholds from FIRST:LAST:STEP (both ends belong to them) or from one number.

    Computed in decimals, so that 0:0.8:0.01 gives exactly the 81 numbers one would write.

    Raises:
        LussError: The text is neither; nothing lies between first and last; too many thresholds.
    """
    try:
        numbers = [Decimal(part) for part in text.split(":")]
    except InvalidOperation:
        numbers = []
    if len(numbers) not in (1, 3) or not all(number.is_finite() for number in numbers):
        raise LussError(f"--thresholds {text} is neither FIRST:LAST:STEP, such as 0:0.8:0.01, nor a number")
    if len(numbers) == 1:
        return (float(numbers[0]),)
    first, last, step = numbers
    if step <= 0 or last < first:
        raise LussError(f"--thresholds {text}: the step must be above 0 and the last one not below the first")
    num = int((last - first) / step) + 1
    if num > _MAX_THRESHOLDS:
        raise LussError(
            f"--thresholds {text} asks for {num} thresholds: take a larger step, {_MAX_THRESHOLDS} are the most"
        )
    return tuple(float(first + place * step) for place in range(num))


def _matching(text: str) -> str | Path:
    """The word, or the file."""
    if text in ("hungarian", "identity"):
        return text
    path = Path(text)
    if not path.is_file():
        raise LussError(f"--matching {text} is no file, and neither hungarian nor identity")
    return path


def _check_outputs(options: argparse.Namespace) -> None:
    """Finds out now, not after counting, that a file cannot be written.

    Raises:
        LussError: It cannot, or two are the same.
    """
    words = {"--json": options.json, "--csv": options.csv, "--save-matching": options.save_matching}
    seen: dict[Path, str] = {}
    for word, path in words.items():
        if path is None:
            continue
        if path.is_dir():
            raise LussError(f"{word} {path} is a folder: give the name of a file")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LussError(f"{word} {path} cannot be written: {error}") from error
        if not os.access(path.parent, os.W_OK):
            raise LussError(f"{word} {path} cannot be written: no permission in {path.parent}")
        if (other := seen.setdefault(path.resolve(), word)) != word:
            raise LussError(f"{other} and {word} name the same file {path}")


@contextlib.contextmanager
def _progress(console: Console) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, a line now and then elsewhere."""
    if console.is_terminal:
        columns = (TextColumn("evaluating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("", total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    yield now_and_then(console, "evaluated", at_end=True)


def _print(metrics: "Metrics", console: Console) -> None:
    clusters = f" and {len(metrics.matching) - 1} clusters" if len(metrics.matching) != len(metrics.ious) else ""
    title = f"{metrics.num_images} images, {len(metrics.ious) - 1} categories{clusters}, percent"
    if metrics.threshold is not None and metrics.curve is not None:
        title += f"; attention threshold {metrics.threshold:g}, the best mIoU of {len(metrics.curve)}"
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    groups = metrics.groups["miou"]
    for heading in ("all", *groups):
        table.add_column(heading, justify="right")
    for name, key, value in (("mIoU", "miou", metrics.miou), ("boundary mIoU", "boundary_miou", metrics.boundary_miou)):
        table.add_row(name, f"{value:.2f}", *(_shown(metrics.groups[key][group]) for group in groups))
    table.add_row("image accuracy", f"{metrics.image_accuracy:.2f}")
    table.add_row("F-measure", f"{metrics.f_measure:.2f}")
    console.print(table)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _category_names(masks: Path, num_classes: int) -> dict[int, str] | None:
    """Names from the folders of masks; None when they are not one a category, because ids could then not be told."""
    from luss.data.imagenet_s import category_ids

    ids = category_ids(masks)
    return {category: name for name, category in ids.items()} if len(ids) == num_classes else None
