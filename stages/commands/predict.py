"""`luss predict`: segments any folder of images with a trained model."""

import argparse
import dataclasses
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from luss.errors import LussError

if TYPE_CHECKING:
    from luss.data.manifest import Manifest
    from luss.data.skipped import SkippedFiles
    from luss.export.predictions import PredictionFolder, Totals
    from luss.progress import StopFlag
    from luss.segmenter import Segmenter
    from stages.running.console import ConsoleReporter

HELP = "segment any folder of images with a trained model"

# Those of `luss.export.predictions`, whose import takes seconds: `--help` answers at once.
_FORMATS = ("png", "palette", "npz", "coco")
# Images whose shapes are looked at together to make batches: memory does not grow with the folder.
_BLOCK = 4096
_MANIFEST_THREADS = 4
_SHOWN_CLASSES = 20


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = """formats:
  png       id = R + 256 G at the image's size, as ImageNet-S has it (0 = background)
  palette   indexed PNG in colours; up to 255 clusters
  npz       arrays `labels` (uint16) and `confidence` (float16): the softmax probability of the class a pixel was given
  coco      one coco.json with a run-length mask for each cluster of an image

The same command continues after a stop and leaves out what is done. What cannot be read is listed in OUT/skipped.csv.
OUT/summary.json holds names, colours, pixels and images of every id."""
    parser.add_argument(
        "model", type=Path, metavar="RUN_OR_MODEL", help="a run such as outputs/demo, or the folder of a model"
    )
    parser.add_argument(
        "images",
        type=Path,
        metavar="IMAGES",
        help="a folder (with all its folders), a .txt with a path a line, or one image",
    )
    parser.add_argument("--out", required=True, type=Path, help="the folder to write")
    parser.add_argument("--format", default="png", choices=_FORMATS, help="default: png")
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
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")


def main(options: argparse.Namespace) -> None:
    """Segments what is missing and prints a table."""
    if not 0 <= options.min_confidence <= 1:
        raise LussError(f"--min-confidence is {options.min_confidence}: give a number from 0 to 1")
    if options.batch_size is not None and options.batch_size < 1:
        raise LussError(f"--batch-size is {options.batch_size}: give 1 or more")
    from luss.export.predictions import check_format, claim
    from luss.segmenter import Segmenter, find_model
    from stages.running.lock import run_lock
    from stages.running.signals import stop_on_signals

    console = Console()
    find_model(options.model)  # before the images are looked at, which may take long
    root, names = image_source(options.images, options.out)
    segmenter = Segmenter.load(options.model, device=options.device)
    if options.names is not None:
        _rename(segmenter, options.names, console)
    if options.batch_size is not None:
        segmenter.settings = dataclasses.replace(segmenter.settings, batch_size=options.batch_size)
    check_format(options.format, segmenter.num_clusters)
    with run_lock(options.out), stop_on_signals() as stop:
        claim(options.out, _made_with(segmenter, root, options))
        _segment(segmenter, root, names, options, stop, console)


def image_source(images: Path, out: Path) -> tuple[Path, Iterable[str] | None]:
    """The root of the images and their names below it; None = all in the folder.

    Raises:
        LussError: There is nothing to segment, or `out` would mix with the images.
    """
    from luss.data.image_list import ImageList
    from luss.data.images import IMAGE_SUFFIXES
    from luss.data.manifest import find_images

    if images.is_file() and images.suffix.lower() == ".txt":
        listed = ImageList(images)
        return listed.root, listed.names()
    if images.is_file() and images.suffix.lower() in IMAGE_SUFFIXES:
        return images.absolute().parent, [images.name]
    if not images.is_dir():
        raise LussError(f"{images} is not a folder of images, a list of them (.txt), or an image")
    if out.resolve().is_relative_to(images.resolve()):
        raise LussError(
            f"--out {out} lies in the folder of images {images}, whose masks would be taken for images: give another"
        )
    unlisted: list[str] = []
    if next(find_images(images, report=lambda path, reason: unlisted.append(f"{path}: {reason}")), None) is None:
        raise LussError(
            f"{images} holds no images: looked, also in its folders, for names ending in {' '.join(sorted(IMAGE_SUFFIXES))}"
            + "".join(f"\n  {problem}" for problem in unlisted[:10])
        )
    return images.absolute(), None


def _rename(segmenter: "Segmenter", path: Path, console: Console) -> None:
    from luss.labels.layers import read_edits
    from luss.segmenter import read_names

    segmenter.given_names |= read_names(path, segmenter.num_clusters)
    edits = read_edits(path)
    if edits.merge or edits.drop:
        console.print(f"{path}: only the names are used here; `luss labels` merges and drops", highlight=False)


def _made_with(segmenter: "Segmenter", root: Path, options: argparse.Namespace) -> dict[str, Any]:
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


def _segment(
    segmenter: "Segmenter",
    root: Path,
    names: Iterable[str] | None,
    options: argparse.Namespace,
    stop: "StopFlag",
    console: Console,
) -> None:
    from luss.data.skipped import SkippedFiles
    from luss.export.predictions import PredictionFolder
    from stages.running.console import ConsoleReporter
    from stages.running.folder import PROGRESS

    skipped = SkippedFiles(options.out / "skipped.csv")
    console.print(f"listing the images of {options.images}", highlight=False, soft_wrap=True)
    manifest = list_images(root, names, options.out, skipped, stop)
    folder = PredictionFolder(
        options.out, manifest, format=options.format, with_overlay=options.overlay, names=segmenter.names
    )
    reporter = ConsoleReporter("predict", options.out, console=console)
    try:
        started = time.monotonic()
        num_new = _segment_missing(segmenter, folder, skipped, options.min_confidence, stop, reporter)
        seconds = time.monotonic() - started
        totals = folder.finish()
    finally:
        reporter.close()
        folder.journal.close()
        (options.out / PROGRESS).unlink(missing_ok=True)
    _print_table(totals, console)
    console.print(_last_line(totals, num_new, seconds, skipped, options.out), highlight=False, soft_wrap=True)


def list_images(
    root: Path, names: Iterable[str] | None, out: Path, skipped: "SkippedFiles", stop: "StopFlag"
) -> "Manifest":
    """The manifest of the images, made anew by every call: images may have come since."""
    from luss.data.manifest import Manifest, ManifestStopped, build_manifest
    from luss.progress import Interrupted
    from luss.settings import DataSettings

    try:
        build_manifest(
            root,
            out / "manifest",
            "images",
            skipped=skipped,
            max_pixels=DataSettings(root="").max_pixels,
            workers=_MANIFEST_THREADS,
            names=names,
            should_stop=lambda: bool(stop),
        )
    except ManifestStopped as stopped:
        raise Interrupted(stop.reason) from stopped
    return Manifest.open(out / "manifest", "images")


def _segment_missing(
    segmenter: "Segmenter",
    folder: "PredictionFolder",
    skipped: "SkippedFiles",
    min_confidence: float,
    stop: "StopFlag",
    reporter: "ConsoleReporter",
) -> int:
    """Returns the number of images that were segmented now."""
    from luss.predict import predict_images
    from luss.settings import DataSettings

    manifest, missing = folder.manifest, folder.missing()
    done, num_new = len(manifest) - len(missing), 0
    reporter.start("image", len(manifest), done)
    for first in range(0, len(missing), _BLOCK):
        for prediction in predict_images(
            segmenter.network,
            manifest,
            missing[first : first + _BLOCK].tolist(),
            segmenter.settings,
            device=segmenter.device,
            max_image_pixels=DataSettings(root="").max_pixels,
            warn=reporter.warn,
            with_confidence=folder.needs_confidence,
            min_confidence=min_confidence,
        ):
            if prediction.unreadable is not None:
                skipped.add(Path(prediction.unreadable[0]), prediction.unreadable[1])
            else:
                folder.add(prediction)
                num_new += 1
            done += 1
            reporter.advance(done)
            stop.check()
    return num_new


def _print_table(totals: "Totals", console: Console) -> None:
    table = Table(title="pixels of each cluster, the largest first", title_justify="left")
    for heading in ("id", "name", "colour", "pixels", "share", "images"):
        table.add_column(heading, justify="left" if heading in ("name", "colour") else "right")
    all_pixels = max(1, sum(total.pixels for total in totals.classes))
    found = sorted((total for total in totals.classes if total.pixels), key=lambda total: -total.pixels)
    for total in found[:_SHOWN_CLASSES]:
        share = f"{100 * total.pixels / all_pixels:.1f} %"
        table.add_row(str(total.id), total.name, total.colour, f"{total.pixels:,}", share, f"{total.images:,}")
    console.print(table)
    if len(found) > _SHOWN_CLASSES:
        console.print(f"and {len(found) - _SHOWN_CLASSES} more, all of them in summary.json", highlight=False)


def _last_line(totals: "Totals", num_new: int, seconds: float, skipped: "SkippedFiles", out: Path) -> str:
    earlier = totals.images - num_new
    parts = [f"{num_new} images segmented" + (f" ({num_new / max(seconds, 1e-9):.1f} images/s)" if num_new else "")]
    parts += [f"{earlier} were done before"] if earlier else []
    parts += [f"{skipped.count} could not be read, see {skipped.path}"] if skipped.count else []
    return f"{', '.join(parts)}: {out}"
