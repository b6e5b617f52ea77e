"""Stage 6: trains backbone and segmentation head on the pseudo labels."""

from typing import Any

from luss.labels.store import LabelStore
from luss.models.io import load_backbone, save_segmenter
from luss.models.segmenter import SegmentationNetwork
from luss.training import distributed
from luss.training.loop import Trainer, TrainJob
from luss.training.segmentation import LabelledCrops, SegmentationTask
from stages.base import CHECKPOINTS, Stage, StageContext, fingerprint
from stages.command import stage_main
from stages.manifest import train_manifest
from stages.training import note_unreadable


class Finetune(Stage):
    """Products: `model.safetensors` and `config.json`: with them `luss predict` segments any folder."""

    name = "finetune"
    version = 1
    needs = ("manifest", "pretrain", "pseudo_labels")
    seeded = True
    distributed = True

    def run(self, context: StageContext) -> dict[str, Any]:
        """Starts from the backbone of stage 1; the head is new."""
        from stages.registry import STAGES

        run, settings = context.run, context.run.finetune
        backbone = load_backbone(context.of("pretrain"), output_stride=settings.output_stride)
        network = SegmentationNetwork(backbone, run.cluster.num_clusters)
        store = LabelStore.open(context.of("pseudo_labels") / "labels")
        dataset = LabelledCrops(
            train_manifest(context).image_root, store, settings, seed=run.seed, max_pixels=run.data.max_pixels
        )
        task = SegmentationTask(network)
        trainer = Trainer(
            TrainJob(
                key=self.name,
                model=task,
                dataset=dataset,
                prepare=task.prepare,
                settings=settings,
                folder=context.folder / CHECKPOINTS,
                device=context.device,
                seed=run.seed,
                reporter=context.reporter,
                stop=context.stop,
                on_unreadable=note_unreadable(context, len(dataset)),
            )
        )
        steps = trainer.run()
        if distributed.rank() == 0:
            save_segmenter(
                context.folder,
                network,
                num_clusters=run.cluster.num_clusters,
                short_side=run.predict.short_side,
                fingerprint=fingerprint(self, run, STAGES),
            )
        return {"steps": steps}


if __name__ == "__main__":
    stage_main("finetune")
