"""Stage 0: lists the training images once; draws the embedded data set when it is asked for."""

from pathlib import Path
from typing import Any

from luss.config import changing_settings
from luss.data.imagenet_s import Layout, category_ids, find_layout
from luss.data.manifest import Manifest, ManifestStopped, build_manifest
from luss.data.shapes import make_shapes
from luss.errors import LussError
from luss.files import read_json
from luss.progress import Interrupted
from luss.settings import DataSettings, RunSettings
from stages.base import Stage, StageContext
from stages.command import stage_main

EMBEDDED = "shapes"


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
    data = context.run.data
    if not (folder / f"{split}.json").is_file():
        context.reporter.message(f"listing the images of {image_folder}")
        try:
            summary = build_manifest(
                image_folder,
                folder,
                split,
                max_pixels=data.max_pixels,
                workers=data.workers,
                verify="full" if data.verify == "full" else "header",
                should_stop=lambda: bool(context.stop),
                skipped=context.skipped,
            )
        except ManifestStopped as stopped:
            raise Interrupted(context.stop.reason) from stopped
        if summary.num_skipped > data.max_skipped_share * num_files(folder, split):
            # What was listed is forgotten: the files will be mended, or the limit raised.
            (folder / f"{split}.json").unlink()
            context.skipped.check(summary.num_images + summary.num_skipped, data.max_skipped_share)
    return Manifest.open(folder, split)


def num_files(folder: Path, split: str) -> int:
    """Image files that were found when a manifest was built, those that could not be read included."""
    facts = read_json(folder / f"{split}.json")
    return int(facts["num_images"]) + int(facts["num_skipped"])


def train_manifest(context: StageContext) -> Manifest:
    """The manifest of the images that are clustered and labelled."""
    return Manifest.open(context.of("manifest") / "manifest", "train")


def pretrain_manifests(context: StageContext) -> list[Manifest]:
    """The manifests of all images that the representation is learned from."""
    folder = context.of("manifest") / "manifest"
    return [Manifest.open(folder, split) for split in ["train", *context.run.data.extra]]


class ManifestStage(Stage):
    """Lists images: sorted relative path, size in pixels, id."""

    name = "manifest"
    version = 1

    def settings(self, run: RunSettings) -> dict[str, Any]:
        """Only what decides which training images there are: other splits are listed by the stages that use them."""
        found = changing_settings(run.data)
        if run.data.root != EMBEDDED:
            found = {key: value for key, value in found.items() if not key.startswith("shapes.")}
        found.pop("evaluate", None)
        # Decides whether a stage fails, never what it makes: who raises it after a failure keeps everything done.
        found.pop("max_skipped_share", None)
        return {f"data.{key}": value for key, value in found.items()} | {"data.root": run.data.root}

    def run(self, context: StageContext) -> dict[str, Any]:
        """Builds `manifest/<split>.tsv` for the training folder and each extra one."""
        data = context.run.data
        if data.root == EMBEDDED:
            own = data.shapes
            context.reporter.message(f"drawing the embedded data set in {own.folder}")
            make_shapes(
                Path(own.folder),
                num_train=own.num_train,
                num_validation=own.num_validation,
                num_test=own.num_validation,
                size=own.size,
                difficulty=own.difficulty,
                seed=own.seed,
                workers=data.workers,
            )
        layout = data_layout(data)
        train = layout.root / data.train if (layout.root / data.train).is_dir() else layout.image_folder("train")
        figures: dict[str, Any] = {"images": len(list_images(context, train, "train"))}
        for extra in data.extra:
            folder = layout.root / extra
            if not folder.is_dir():
                raise LussError(f"data.extra names {extra!r}, but {folder} is not a folder")
            figures[f"images of {extra}"] = len(list_images(context, folder, extra))
        figures["skipped"] = context.skipped.count
        return figures


if __name__ == "__main__":
    stage_main("manifest")
