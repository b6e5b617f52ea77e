"""Stage 0: lists the images of every split once; draws the embedded data set when it is asked for."""

import difflib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from luss.data.imagenet_s import Layout, category_ids, find_layout
from luss.data.manifest import Manifest, ManifestStopped, build_manifest
from luss.data.shapes import RECORD, make_shapes
from luss.data.skipped import SkippedFiles
from luss.errors import LussError
from luss.files import read_json
from luss.progress import Interrupted, StopFlag
from luss.settings import DataSettings, RunSettings, ShapesSettings
from luss.settings.fields import changing_settings
from stages.base import Stage, StageContext
from stages.commands.stage import stage_main
from stages.running.lock import listing_lock

EMBEDDED = "shapes"
# Folder of the listings of evaluated splits, in the manifest's own: it is moved aside with it when the data changes.
_EVALUATED = "evaluated"


def data_root(data: DataSettings) -> Path:
    """The folder of the images."""
    return Path(data.shapes.folder) if data.root == EMBEDDED else Path(data.root)


def data_layout(data: DataSettings) -> Layout:
    """The layout of the run's data.

    Raises:
        LussError: The folder does not exist.
    """
    root = data_root(data)
    if not root.is_dir():
        raise LussError(
            f"data.root is {data.root!r}, which is not a folder: give the folder of your images, or the word {EMBEDDED}"
        )
    return find_layout(root)


def num_classes(run: RunSettings, layout: Layout) -> int:
    """The largest id in masks and predictions: there may be more categories than clusters, or fewer."""
    categories = category_ids(layout.images["train"]) if "train" in layout.images else {}
    return max(run.cluster.num_clusters, len(categories))


def list_images(context: StageContext, image_folder: Path, split: str) -> Manifest:
    """The manifest of a folder inside a stage's own folder, built where it is missing."""
    folder = context.folder / "manifest"
    return _list(context.run.data, image_folder, folder, split, context.skipped, context.stop, context.reporter.message)


def _list(
    data: DataSettings,
    image_folder: Path,
    folder: Path,
    split: str,
    skipped: SkippedFiles,
    stop: StopFlag,
    message: Callable[[str], None],
) -> Manifest:
    if not (folder / f"{split}.json").is_file():
        message(f"listing the images of {image_folder}")
        try:
            summary = build_manifest(
                image_folder,
                folder,
                split,
                max_pixels=data.max_pixels,
                workers=data.workers,
                verify="full" if data.verify == "full" else "header",
                should_stop=lambda: bool(stop),
                skipped=skipped,
            )
        except ManifestStopped as stopped:
            raise Interrupted(stop.reason) from stopped
        if summary.num_skipped > data.max_skipped_share * num_files(folder, split):
            # What was listed is forgotten: the files will be mended, or the limit raised.
            (folder / f"{split}.json").unlink()
            skipped.check(summary.num_images + summary.num_skipped, data.max_skipped_share)
    return Manifest.open(folder, split)


def listed_split(
    run: RunSettings,
    run_folder: Path,
    split: str,
    *,
    stop: StopFlag | None = None,
    message: Callable[[str], None] = lambda text: None,
) -> Manifest:
    """The manifest of a split that is evaluated.

    The manifest stage lists those of `data.evaluate`; one that was added since is listed at the first call, while other processes wait.

    Args:
        run: Settings.
        run_folder: The run's folder, in which the manifest stage is done.
        split: One of the data's splits.
        stop: Ends waiting and listing.
        message: Told before images are listed.

    Raises:
        LussError: There is no such split, or too many of its images cannot be used.
        Interrupted: `stop` was set.
    """
    folder, stop = run_folder / "manifest" / _EVALUATED, stop or StopFlag()
    if not (folder / f"{split}.json").is_file():
        with listing_lock(run_folder, stop=stop):
            skipped = SkippedFiles(run_folder / "manifest" / "skipped.csv")
            image_folder = data_layout(run.data).image_folder(split)
            return _list(run.data, image_folder, folder, split, skipped, stop, message)
    return Manifest.open(folder, split)


def evaluated_splits(data: DataSettings) -> list[str]:
    """The splits of `data.evaluate` that the data has; none in a plain folder of images."""
    layout = data_layout(data)
    return [split for split in data.evaluate if split in layout.images and layout.images[split] != layout.root]


def evaluated_manifests(run: RunSettings, run_folder: Path, *, stop: StopFlag | None = None) -> dict[str, Manifest]:
    """The manifests of the images that are segmented: those of all evaluated splits; where there are none, the training images.

    Args:
        run: Settings.
        run_folder: The run's folder, in which the manifest stage is done.
        stop: As for `listed_split`.

    Raises:
        LussError: As for `listed_split`.
    """
    found = {split: listed_split(run, run_folder, split, stop=stop) for split in evaluated_splits(run.data)}
    return found or {"train": train_manifest_of(run_folder)}


def num_trained(run_folder: Path) -> int:
    """Images that are clustered and labelled; the manifest stage is done."""
    return _num_listed(run_folder, "train")


def num_pretrained(run: RunSettings, run_folder: Path) -> int:
    """Images that the representation is learned from; the manifest stage is done."""
    return sum(_num_listed(run_folder, name) for name in ["train", *map(list_name, run.data.extra)])


def _num_listed(run_folder: Path, name: str) -> int:
    return int(read_json(run_folder / "manifest" / "manifest" / f"{name}.json")["num_images"])


def listed_folders(data: DataSettings, layout: Layout) -> dict[str, Path]:
    """The folders of training images by the name of their listing: "train", and those of `data.extra`.

    Raises:
        LussError: One that the settings name is no folder.
    """
    train = layout.root / data.train
    if not train.is_dir():
        if data.train != DataSettings.train:
            raise LussError(
                f"data.train names {data.train!r}, but {train} is not a folder{nearest_split(data.train, layout)}"
            )
        train = layout.image_folder("train")
    found = {"train": train}
    for extra in data.extra:
        if not (layout.root / extra).is_dir():
            raise LussError(f"data.extra names {extra!r}, but {layout.root / extra} is not a folder")
        found[list_name(extra)] = layout.root / extra
    return found


def nearest_split(name: str, layout: Layout) -> str:
    """A question for whoever mistyped the name of a split; empty where none is near."""
    near = difflib.get_close_matches(name, layout.images, n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""


def list_name(folder: str) -> str:
    """The name of the listing of a folder of `data.extra`: its own where it lies in the data's root, else one that leads nowhere."""
    if Path(folder).name == folder:
        return folder
    return f"{Path(folder).name}-{hashlib.blake2b(folder.encode(), digest_size=4).hexdigest()}"


def num_files(folder: Path, split: str) -> int:
    """Image files that were found when a manifest was built, those that could not be read included."""
    facts = read_json(folder / f"{split}.json")
    return int(facts["num_images"]) + int(facts["num_skipped"])


def train_manifest(context: StageContext) -> Manifest:
    """The manifest of the images that are clustered and labelled."""
    return train_manifest_of(context.run_folder)


def train_manifest_of(run_folder: Path) -> Manifest:
    """The same, from the run's folder.

    Raises:
        LussError: The manifest stage is not done.
    """
    return Manifest.open(run_folder / "manifest" / "manifest", "train")


def pretrain_manifests(context: StageContext) -> list[Manifest]:
    """The manifests of all images that the representation is learned from."""
    folder = context.of("manifest") / "manifest"
    return [Manifest.open(folder, name) for name in ["train", *map(list_name, context.run.data.extra)]]


class ManifestStage(Stage):
    """Lists images: sorted relative path, size in pixels, id."""

    name = "manifest"
    version = 1

    def settings(self, run: RunSettings) -> dict[str, Any]:
        """Only what decides which training images there are: which splits are evaluated may change, they are listed when they are added."""
        found = changing_settings(run.data)
        if run.data.root != EMBEDDED:
            found = {key: value for key, value in found.items() if not key.startswith("shapes.")}
        found.pop("evaluate", None)
        # Decides whether a stage fails, never what it makes: who raises it after a failure keeps everything done.
        found.pop("max_skipped_share", None)
        # Not as typed: a slash more at its end is no other folder.
        return {f"data.{key}": value for key, value in found.items()} | {"data.root": os.path.normpath(run.data.root)}

    def run(self, context: StageContext) -> dict[str, Any]:
        """Builds `manifest/<split>.tsv` for the training folder and each extra one, and `evaluated/<split>.tsv`."""
        data = context.run.data
        if data.root == EMBEDDED:
            context.reporter.message(f"drawing the embedded data set in {data.shapes.folder}")
            _draw_shapes(data.shapes, workers=data.workers)
        layout = data_layout(data)
        figures: dict[str, Any] = {}
        for name, folder in listed_folders(data, layout).items():
            title = "images" if name == "train" else f"images of {name}"
            figures[title] = len(list_images(context, folder, name))
        for split in evaluated_splits(data):
            with listing_lock(context.run_folder, stop=context.stop):
                found = _list(
                    data,
                    layout.image_folder(split),
                    context.folder / _EVALUATED,
                    split,
                    context.skipped,
                    context.stop,
                    context.reporter.message,
                )
            figures[f"images of {split}"] = len(found)
        return figures


def _draw_shapes(settings: ShapesSettings, *, workers: int) -> None:
    """Draws the embedded data set unless it is there.

    Raises:
        LussError: The folder holds it with other parameters: drawing it anew would change the data of another run under its feet.
    """
    parameters = {
        "num_train": settings.num_train,
        "num_validation": settings.num_validation,
        "num_test": settings.num_validation,
        "size": settings.size,
        "difficulty": settings.difficulty,
        "seed": settings.seed,
    }
    folder = Path(settings.folder)
    if (folder / RECORD).is_file():
        record = read_json(folder / RECORD)
        present = record.get("parameters", {}) if isinstance(record, dict) else {}
        changed = [f"{name} {present[name]}, not {value}" for name, value in parameters.items()
                   if present.get(name, value) != value]  # fmt: skip
        if changed:
            raise LussError(
                f"{folder} holds the embedded data set with other parameters ({', '.join(changed)}), which another run may use: "
                "set data.shapes.folder to another folder, or delete this one"
            )
    make_shapes(folder, **parameters, workers=workers)  # type: ignore[arg-type]


if __name__ == "__main__":
    stage_main("manifest")
