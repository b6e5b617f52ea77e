"""Stage 2: learns which places of an image matter, over the frozen network of stage 1."""

from typing import Any

from luss import processes
from luss.data.views import ViewDataset
from luss.models.io import load_backbone, load_tensors, save_backbone, save_tensors
from luss.settings import ViewSettings
from luss.training.attention import AttentionTask, attention_clustering
from luss.training.representation import view_preparer
from stages.base import Stage, StageContext
from stages.command import stage_main
from stages.manifest import train_manifest
from stages.training import train


class PixelAttentionStage(Stage):
    """Product: `attention.safetensors`; with `published` also the drifted backbone."""

    name = "pixel_attention"
    version = 1
    needs = ("manifest", "pretrain")
    seeded = True
    distributed = True

    def run(self, context: StageContext) -> dict[str, Any]:
        """Trains from the newest checkpoint to the end and exports."""
        run, settings = context.run, context.run.pixel_attention
        backbone = load_backbone(context.of("pretrain"))
        heads = load_tensors(context.of("pretrain") / "method.safetensors")
        clustering = attention_clustering(heads, backbone.num_channels, run.pretrain.clustering, settings)
        task = AttentionTask(backbone, clustering, settings)
        groups = [settings.views]
        if settings.saliency.weight:
            # The teacher needs the border of the whole photograph, in its own colours.
            groups.append(ViewSettings(count=1, size=settings.views.size, scale=(1.0, 1.0), augment=False))
        dataset = ViewDataset(
            [train_manifest(context)], groups, settings.photometric, seed=run.seed, max_pixels=run.data.max_pixels
        )
        steps = train(context, task, dataset, view_preparer(backbone.mean, backbone.std), settings)
        if processes.rank() == 0:
            save_tensors(context.folder / "attention.safetensors", task.attention.state_dict())
            if settings.published:
                save_backbone(context.folder, backbone, backbone.export())
        return {"steps": steps}


if __name__ == "__main__":
    stage_main("pixel_attention")
