"""Stage 2: learns which places of an image matter, over the frozen network of stage 1."""

from typing import Any

from luss.data.views import ViewDataset
from luss.models.io import load_backbone, load_tensors, save_backbone, save_tensors
from luss.settings import PixelAttentionSettings, ViewSettings
from luss.training import distributed
from luss.training.attention import AttentionTask, attention_clustering
from luss.training.representation import view_preparer
from stages.base import AnyStage, BlockOf, Stage, StageContext
from stages.parts.images import train_manifest
from stages.parts.training import train


class PixelAttentionStage(Stage[PixelAttentionSettings]):
    """Product: `attention.safetensors`; with `published` also the drifted backbone."""

    seeded = True
    distributed = True
    work = "trained"

    def __init__(
        self, name: str, block: BlockOf[PixelAttentionSettings], manifest: AnyStage, start_from: AnyStage
    ) -> None:
        """As `Stage`; `start_from` has left a backbone and what its prototypes are."""
        super().__init__(name, block, manifest, start_from)
        self.start_from = start_from

    def run(self, context: StageContext) -> dict[str, Any]:
        """Trains from the newest checkpoint to the end and exports."""
        run, settings = context.run, self.block(context.run)
        backbone = load_backbone(context.of(self.start_from))
        heads = load_tensors(context.of(self.start_from) / "method.safetensors")
        clustering = attention_clustering(heads, backbone.num_channels, run.pretrain.clustering, settings)
        task = AttentionTask(backbone, clustering, settings)
        groups = [settings.views]
        if settings.saliency.weight:
            # The teacher needs the border of the whole photograph, in its own colours.
            groups.append(ViewSettings(count=1, size=settings.views.size, scale=(1.0, 1.0), augment=False))
        dataset = ViewDataset(
            [train_manifest(context.run_folder)],
            groups,
            settings.photometric,
            seed=run.seed,
            max_pixels=run.data.max_pixels,
        )
        steps = train(context, task, dataset, view_preparer(backbone.mean, backbone.std), settings)
        if distributed.rank() == 0:
            save_tensors(context.folder / "attention.safetensors", task.attention.state_dict())
            if settings.published:
                save_backbone(context.folder, backbone, backbone.export())
        return {"steps": steps}
