"""Stage 6: trains backbone and segmentation head on the pseudo labels."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from luss import processes
from luss.labels.layers import current_layer
from luss.labels.source import LabelSource
from luss.labels.store import LabelStore
from luss.models.io import load_backbone, save_segmenter
from luss.models.segmenter import SegmentationNetwork
from luss.settings import FinetuneSettings
from luss.tasks.segmentation import LabelledCrops, SegmentationTask
from stages.base import Stage, StageContext, fingerprint
from stages.commands.stage import stage_main
from stages.manifest import train_manifest
from stages.parts.training import train


@dataclass(frozen=True)
class Labels:
    """What a segmenter learns from.

    Attributes:
        image_root: The folder that the names of the source are relative to.
        source: The labels.
        num_classes: Ids are 0..num_classes.
    """

    image_root: Path
    source: LabelSource
    num_classes: int


class Finetune(Stage):
    """Products: `model.safetensors` and `config.json`: with them `luss predict` segments any folder."""

    name = "finetune"
    version = 1
    needs: ClassVar[tuple[str, ...]] = ("manifest", "pretrain", "pseudo_labels")
    seeded = True
    distributed = True
    # The stage that the network is made for.
    predicted_by: ClassVar[str] = "predict"
    # The label that counts in no loss.
    ignored_id: ClassVar[int | None] = None

    def extra_identity(self, run_folder: Path) -> tuple[str, str]:
        """The edits of `luss labels`, where it learns from pseudo labels."""
        if "pseudo_labels" not in self.needs:
            return "", ""
        layer = current_layer(run_folder / "pseudo_labels" / "labels")
        what = f"layer {layer.number}" if layer.identity else "they are as stored again"
        return layer.identity, f"the labels were edited: {what}"

    def labels(self, context: StageContext) -> Labels:
        """The pseudo labels."""
        return Labels(
            train_manifest(context).image_root,
            LabelStore.open(context.of("pseudo_labels") / "labels"),
            context.run.cluster.num_clusters,
        )

    def run(self, context: StageContext) -> dict[str, Any]:
        """Starts from the backbone of stage 1; the head is new."""
        from stages.pipeline import STAGES

        run = context.run
        settings: FinetuneSettings = getattr(run, self.name)
        backbone = load_backbone(context.of("pretrain"), output_stride=settings.output_stride)
        labels = self.labels(context)
        network = SegmentationNetwork(backbone, labels.num_classes)
        dataset = LabelledCrops(
            labels.image_root, labels.source, settings, seed=run.seed, max_pixels=run.data.max_pixels
        )
        task = SegmentationTask(network, ignored_id=self.ignored_id)
        steps = train(context, task, dataset, settings)
        if processes.rank() == 0:
            save_segmenter(
                context.folder,
                network,
                num_clusters=labels.num_classes,
                short_side=getattr(run, self.predicted_by).short_side,
                fingerprint=fingerprint(self, run, STAGES),
            )
        return {"steps": steps}


if __name__ == "__main__":
    stage_main("finetune")
