"""Stage 7: masks for every evaluated split."""

from pathlib import Path
from typing import Any

import numpy as np

from luss.data.imagenet_s import read_mask
from luss.data.images import read_image
from luss.data.manifest import Manifest
from luss.files import replacing
from luss.models.io import load_segmenter
from luss.predict import MaskNames, predict_images, write_masks
from luss.report.contact_sheet import cluster_sheet
from stages.base import Stage, StageContext
from stages.command import stage_main
from stages.manifest import data_layout, list_images, num_files, train_manifest


class Predict(Stage):
    """Products: `masks/<split>/<name>.png`, and a contact sheet `clusters-<split>.png`.

    Where no evaluated split exists, as in a plain folder of images, the training images themselves are segmented.
    """

    name = "predict"
    version = 1
    needs = ("manifest", "finetune")

    def settings(self, run: Any) -> dict[str, Any]:
        """Also which splits there are to predict."""
        return {**super().settings(run), "data.evaluate": list(run.data.evaluate)}

    def run(self, context: StageContext) -> dict[str, Any]:
        """Writes the masks that are missing: one file an image, each complete or absent."""
        network, _ = load_segmenter(context.of("finetune"))
        network = network.to(context.device)
        figures: dict[str, Any] = {}
        total = 0
        for split, manifest in self._splits(context).items():
            folder = context.folder / "masks" / split
            names = MaskNames(manifest)
            missing = [i for i in range(len(manifest)) if not (folder / names[i]).is_file()]
            done = len(manifest) - len(missing)
            context.reporter.start("image", len(manifest), done)
            predictions = predict_images(
                network,
                manifest,
                missing,
                context.run.predict,
                device=context.device,
                max_image_pixels=context.run.data.max_pixels,
                warn=context.reporter.warn,
            )
            for prediction in write_masks(predictions, names, folder):
                if prediction.unreadable is not None:
                    context.skipped.add(Path(prediction.unreadable[0]), prediction.unreadable[1])
                done += 1
                context.reporter.advance(done)
                context.stop.check()
            # The list of skipped files is one for all splits.
            total += num_files(manifest.folder, manifest.split)
            context.skipped.check(total, context.run.data.max_skipped_share)
            _write_sheet(manifest, names, folder, context.folder / f"clusters-{split}.png")
            figures[split] = len(manifest)
        figures["skipped"] = context.skipped.count
        return figures

    def _splits(self, context: StageContext) -> dict[str, Manifest]:
        layout = data_layout(context.run.data)
        found = {
            split: list_images(context, layout.images[split], split)
            for split in context.run.data.evaluate
            if split in layout.images and layout.images[split] != layout.root
        }
        return found or {"train": train_manifest(context)}


def _write_sheet(manifest: Manifest, names: MaskNames, folder: Path, path: Path) -> None:
    """A contact sheet of at most 2,000 images' masks, a row a cluster."""
    step = max(1, len(manifest) // 2000)
    shown = [i for i in range(0, len(manifest), step) if (folder / names[i]).is_file()]
    dominant = np.zeros(len(shown), np.int64)
    for place, index in enumerate(shown):
        counts = np.bincount(read_mask(folder / names[index]).ravel())
        counts[0] = 0
        dominant[place] = counts.argmax()

    def load(place: int) -> tuple[Any, Any]:
        index = shown[place]
        return read_image(manifest.path(index), min_side=64), read_mask(folder / names[index])

    sheet = cluster_sheet(dominant, load, max_clusters=60)
    with replacing(path) as temporary:
        sheet.save(temporary, format="png")


if __name__ == "__main__":
    stage_main("predict")
