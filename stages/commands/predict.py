"""`luss predict`: segments any folder of images with a trained model."""

import argparse
import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from luss.errors import LussError
from luss.export import PREDICTED
from stages.running.screen import Console

if TYPE_CHECKING:
    from luss.data.walk import Met
    from luss.export.job import ExportFolder
    from luss.export.predicted import SegmentedImages
    from luss.progress import StopFlag
    from luss.segmenter import Segmenter
    from stages.running.console import ConsoleReporter

HELP = "segment any folder of images with a trained model"

# Gives names below the root, and tells what was met besides.
Names = Callable[["Met"], Iterator[str]]

_MANIFEST_THREADS = 4
_SHOWN_CLASSES = 20


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.epilog = """formats:
  png       id = R + 256 G at the image's size, as ImageNet-S has it (0 = background)
  palette   indexed PNG in colours; up to 255 clusters
  npz       arrays `labels` (uint16) and `confidence` (float16): the softmax probability of the class a pixel was given
  coco      one coco.json with a run-length mask for each cluster of an image
  label-studio, cvat   what `luss export` writes for these tools, to correct masks by hand

The same command continues after a stop, at the block of 1024 images where it was, and adds images that have come since;
where those that are done have changed or are gone, it begins anew. What cannot be read is listed in OUT/skipped.csv.
OUT/summary.json holds names, colours, pixels and images of every id."""
    parser.add_argument(
        "model", type=Path, metavar="RUN_OR_MODEL", help="a run such as outputs/demo, or the folder of a model"
    )
    parser.add_argument(
        "images",
        type=Path,
        nargs="+",
        metavar="IMAGES",
        help="folders (with all their folders), images, or a .txt with a path a line",
    )
    parser.add_argument("--out", required=True, type=Path, help="the folder to write")
    parser.add_argument("--format", default="png", choices=PREDICTED, help="default: png")
    parser.add_argument("--overlay", action="store_true", help="also write the images under the colours of their masks")
    parser.add_argument("--names", type=Path, metavar="NAMES.json", help='names of clusters: {"3": "dog"}')
    parser.add_argument(
        "--min-confidence",
        type=float,
        default=0.0,
        metavar="T",
        help="pixels less sure than this, 0 to 1, become background",
    )
    parser.add_argument("--batch-size", type=int, help="images of one shape that are segmented together")
    parser.add_argument("--workers", type=int, help="processes that read images ahead; 0: none")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")


def main(options: argparse.Namespace) -> None:
    """Segments what is missing and prints a table."""
    if not 0 <= options.min_confidence <= 1:
        raise LussError(f"--min-confidence is {options.min_confidence}: give a number from 0 to 1")
    if options.batch_size is not None and options.batch_size < 1:
        raise LussError(f"--batch-size is {options.batch_size}: give 1 or more")
    if options.workers is not None and options.workers < 0:
        raise LussError(f"--workers is {options.workers}: give 0 or more")
    from luss.export.job import ExportFolder
    from luss.export.predicted import OVERLAYS, check_format
    from luss.segmenter import Segmenter, find_model
    from stages.running.console import ConsoleReporter
    from stages.running.folder import PROGRESS
    from stages.running.lock import run_lock
    from stages.running.signals import stop_on_signals

    console, out = Console(), options.out
    find_model(options.model)  # before the images are looked at, which may take long
    root, names = image_source(options.images, out)
    segmenter = Segmenter.load(options.model, device=options.device)
    if options.names is not None:
        _rename(segmenter, options.names, console)
    given = {"batch_size": options.batch_size, "workers": options.workers}
    given = {name: value for name, value in given.items() if value is not None}
    segmenter.settings = dataclasses.replace(segmenter.settings, **given)
    check_format(options.format, segmenter.num_clusters)
    with run_lock(out), stop_on_signals() as stop:
        folder = ExportFolder(out, _identity(segmenter, root, options), segmenter.num_clusters, grows=True)
        if options.overlay and folder.start and OVERLAYS not in folder.position:
            folder.restart()
        if not folder.start:
            folder.save(0, {})
        named = f"{options.images[0]}" + (f" and {len(options.images) - 1} more" if options.images[1:] else "")
        console.print(f"listing the images of {named}")
        try:
            with contextlib.closing(ConsoleReporter("predict", out, console=console)) as reporter:
                images = _list_images(segmenter, folder, root, names, options, stop, reporter)
                sentence = _segment(segmenter, folder, images, options, stop, reporter)
        finally:
            (out / PROGRESS).unlink(missing_ok=True)
    console.print(sentence)


def image_source(images: Sequence[Path], out: Path) -> tuple[Path, Names]:
    """The root of the images, and what gives their names below it.

    A shell's `photos/*` names files of other kinds too: among several paths only folders and pictures count, unless all are lists.

    Raises:
        LussError: There is nothing to segment, or `out` would mix with the images.
    """
    from luss.data.formats import IMAGE_SUFFIXES, is_picture
    from luss.data.image_list import ImageList
    from luss.data.walk import Met, find_images

    for path in images:
        if not path.exists():
            raise LussError(f"{path} does not exist: give a folder of images, a list of them (.txt), or images")
        if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
            raise LussError(
                f"--out {out} lies in the folder of images {path}, whose masks would be taken for images: give another"
            )
    if all(path.is_file() and path.suffix.lower() == ".txt" for path in images):
        listed = ImageList(*images)
        return listed.root, listed.names
    wanted = [path for path in images if path.is_dir() or is_picture(path.name)]
    if not wanted:
        raise LussError(f"{images[0]} is not a folder of images, a list of them (.txt), or an image")
    if len(wanted) > 1 or not wanted[0].is_dir():
        listed = ImageList(*wanted)
        return listed.root, listed.names
    met, root = Met(), wanted[0].absolute()
    if next(find_images(root, met), None) is None:
        met.check_listed()
        raise LussError(
            f"{wanted[0]} holds no images: looked, also in its folders, for names ending in {' '.join(sorted(IMAGE_SUFFIXES))}"
        )
    return root, lambda met: find_images(root, met)


def _rename(segmenter: "Segmenter", path: Path, console: Console) -> None:
    from luss.labels.layers import read_edits
    from luss.segmenter import check_names

    edits = read_edits(path)
    segmenter.given_names |= check_names(edits.names, segmenter.num_clusters, source=str(path))
    if edits.merge or edits.drop:
        console.print(f"{path}: only the names are used here; `luss labels` merges and drops")


def _identity(segmenter: "Segmenter", root: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What decides the content of the masks."""
    from luss.data.skipped import escape_path
    from luss.models.io import WEIGHTS_NAME, sha256_of
    from luss.segmenter import decoding_identity

    return {
        "model": segmenter.description.get("sha256") or sha256_of(segmenter.folder / WEIGHTS_NAME),
        "images": escape_path(str(root)),
        "format": options.format,
        "min_confidence": options.min_confidence,
        **decoding_identity(segmenter.settings),
    }


def _list_images(
    segmenter: "Segmenter",
    folder: "ExportFolder",
    root: Path,
    names: Names,
    options: argparse.Namespace,
    stop: "StopFlag",
    reporter: "ConsoleReporter",
) -> "SegmentedImages":
    """The images, listed anew by every call: some may have come since."""
    from luss.data.manifest import Manifest, build_manifest
    from luss.data.skipped import SkippedFiles
    from luss.data.walk import Met
    from luss.export.predicted import SegmentedImages, earlier_first, relist
    from luss.predict import predict_images
    from luss.settings import DataSettings

    place, max_pixels = folder.path / "manifest", DataSettings(root="").max_pixels
    unreadable = SkippedFiles(place / "skipped.csv")
    said: set[str] = set()

    def make_list(earlier: bool) -> SegmentedImages:
        met = Met()
        listed = names(met)
        if earlier and (place / "images.json").is_file():
            listed = earlier_first(Manifest.open(place, "images"), listed)
        listing = build_manifest(
            root,
            place,
            "images",
            skipped=unreadable,
            max_pixels=max_pixels,
            workers=_MANIFEST_THREADS,
            names=listed,
            met=met,
            stop=stop,
        )
        # What has changed is listed twice.
        for sentence in set(listing.sentences) - said:
            said.add(sentence)
            reporter.warn(sentence)
        manifest = Manifest.open(place, "images")
        segment = functools.partial(
            predict_images,
            segmenter.network,
            manifest,
            settings=segmenter.settings,
            device=segmenter.device,
            max_image_pixels=max_pixels,
            warn=reporter.warn,
            with_confidence=options.format == "npz",
            min_confidence=options.min_confidence,
        )
        return SegmentedImages(manifest, segmenter.names, segment)

    return relist(folder, unreadable, make_list)


def _segment(
    segmenter: "Segmenter",
    folder: "ExportFolder",
    images: "SegmentedImages",
    options: argparse.Namespace,
    stop: "StopFlag",
    reporter: "ConsoleReporter",
) -> str:
    """Segments what is missing and prints the table; returns a sentence for the screen."""
    from luss.export.job import export_images
    from luss.export.predicted import make_writer, summary
    from luss.files import write_json

    before, started = folder.tally.num_images, time.monotonic()

    def on_progress(done: int, total: int) -> None:
        for path, note in images.notes:
            folder.skipped.add(Path(path), note)
        images.notes.clear()
        reporter.advance(done)
        stop.check()

    def finish() -> None:
        write_json(folder.path / "summary.json", summary(folder.tally, segmenter.names))

    reporter.start("image", len(images), folder.start)
    export_images(
        folder,
        images,
        functools.partial(make_writer, folder.path, images, format=options.format, with_overlay=options.overlay),
        on_progress=on_progress,
        finish=finish,
    )
    seconds, num_new = time.monotonic() - started, folder.tally.num_images - before
    _print_table(summary(folder.tally, segmenter.names)["classes"], reporter.console)
    if images.kept_apart:
        reporter.message(images.kept_apart)
    parts = [f"{num_new} images segmented" + (f" ({num_new / max(seconds, 1e-9):.1f} images/s)" if num_new else "")]
    parts += [f"{before} were done before"] if before else []
    if folder.skipped.count:
        parts += [f"{folder.skipped.count} could not be read, see {folder.skipped.path}"]
    return f"{', '.join(parts)}: {folder.path}"


def _print_table(classes: list[dict[str, Any]], console: Console) -> None:
    table = Table(title="pixels of each cluster, the largest first", title_justify="left")
    for heading in ("id", "name", "colour", "pixels", "share", "images"):
        table.add_column(heading, justify="left" if heading in ("name", "colour") else "right")
    all_pixels = max(1, sum(entry["pixels"] for entry in classes))
    found = sorted((entry for entry in classes if entry["pixels"]), key=lambda entry: -int(entry["pixels"]))
    for entry in found[:_SHOWN_CLASSES]:
        share = f"{100 * entry['pixels'] / all_pixels:.1f} %"
        numbers = f"{entry['pixels']:,}", share, f"{entry['images']:,}"
        table.add_row(str(entry["id"]), entry["name"], entry["colour"], *numbers)
    console.print(table)
    if len(found) > _SHOWN_CLASSES:
        console.print(f"and {len(found) - _SHOWN_CLASSES} more, all of them in summary.json")
