"""Stage 6: trains backbone and segmentation head on labels."""

from pathlib import Path
from typing import Any, Protocol

from luss import processes
from luss.labels.source import LabelSource
from luss.models.heads import start_convolutions
from luss.models.io import load_backbone, save_segmenter
from luss.models.segmenter import SegmentationNetwork
from luss.settings import FinetuneSettings, RunSettings
from luss.tasks.segmentation import LabelledCrops, SegmentationTask, noise_crops
from stages.base import AnyStage, BlockOf, Stage, StageContext
from stages.parts.training import first_backbone, train, try_forward


class Labels(Protocol):
    """What a segmenter learns from: a stage that makes label maps, or masks that lie beside the images."""

    # The label that counts in no loss.
    ignored_id: int | None

    def labels(self, context: StageContext) -> tuple[Path, LabelSource, int]:
        """The folder that the names of the images are relative to, the labels, and the largest id."""
        ...

    def edits(self, run_folder: Path) -> tuple[str, str]:
        """See `Stage.extra_identity`."""
        ...


class Finetune(Stage[FinetuneSettings]):
    """Products: `model.safetensors` and `config.json`: with them `luss predict` segments any folder."""

    seeded = True
    distributed = True
    work = "trained"

    def __init__(
        self,
        name: str,
        block: BlockOf[FinetuneSettings],
        manifest: AnyStage,
        *,
        start_from: AnyStage,
        learn_from: Labels,
    ) -> None:
        """As `Stage`; starts from the backbone of `start_from`, and is told what is right by `learn_from`."""
        made = [learn_from] if isinstance(learn_from, Stage) else []
        super().__init__(name, block, manifest, start_from, *made)
        self.start_from, self.learn_from = start_from, learn_from

    def extra_identity(self, run_folder: Path) -> tuple[str, str]:
        """The edits of the labels."""
        return self.learn_from.edits(run_folder)

    def try_step(self, run: RunSettings, num_images: int) -> None:
        """With labels that are all background."""
        settings = self.block(run)
        network = SegmentationNetwork(first_backbone(run, settings.output_stride), run.cluster.num_clusters)
        task = SegmentationTask(network, ignored_id=self.learn_from.ignored_id)
        try_forward(self.name, task, noise_crops(settings, num_images), num_images)

    def run(self, context: StageContext) -> dict[str, Any]:
        """Trains backbone and a new head from the newest checkpoint to the end."""
        run, settings = context.run, self.block(context.run)
        backbone = load_backbone(context.of(self.start_from), output_stride=settings.output_stride)
        image_root, source, num_classes = self.learn_from.labels(context)
        network = SegmentationNetwork(backbone, num_classes)
        start_convolutions(network.head, settings.convolution_start)
        dataset = LabelledCrops(image_root, source, settings, seed=run.seed, max_pixels=run.data.max_pixels)
        task = SegmentationTask(network, ignored_id=self.learn_from.ignored_id)
        steps = train(context, task, dataset, settings)
        if processes.rank() == 0:
            save_segmenter(context.folder, network, num_clusters=num_classes, fingerprint=context.fingerprint)
        return {"steps": steps}
