"""Stage 2: learns which places of an image matter, over the frozen network of stage 1."""

from typing import Any

from luss import processes
from luss.data.views import ViewDataset
from luss.methods.saved import load_heads
from luss.models.io import load_backbone, save_backbone, save_tensors
from luss.settings import ViewSettings, no_colours
from luss.tasks.attention import AttentionTask, attention_clustering
from stages.base import Stage, StageContext
from stages.commands.stage import stage_main
from stages.manifest import train_manifest
from stages.parts.training import train


class PixelAttentionStage(Stage):
    """Product: `attention.safetensors`; with `batch_norm: drifting` also the drifted backbone."""

    name = "pixel_attention"
    version = 2
    needs = ("manifest", "pretrain")
    seeded = True
    distributed = True

    def run(self, context: StageContext) -> dict[str, Any]:
        """Trains from the newest checkpoint to the end and exports."""
        run, settings = context.run, context.run.pixel_attention
        backbone = load_backbone(context.of("pretrain"))
        head = load_heads(context.of("pretrain"))
        pretrained = None
        if head is None:
            context.reporter.message("pretraining left no prototypes: a clustering head trains beside the attention")
        else:
            pretrained = attention_clustering(head.settings, settings, backbone.num_channels, head.state)
        task = AttentionTask(backbone, settings, pretrained)
        groups = [settings.views]
        if settings.saliency.weight:
            # The teacher needs the border of the whole photograph, in its own colours.
            size = settings.views.size
            groups.append(ViewSettings(count=1, size=size, scale=(1.0, 1.0), flip=0.0, colours=no_colours()))
        dataset = ViewDataset([train_manifest(context)], groups, seed=run.seed, max_pixels=run.data.max_pixels)
        steps = train(context, task, dataset, settings)
        if processes.rank() == 0:
            save_tensors(context.folder / "attention.safetensors", task.attention.state_dict())
            if settings.batch_norm == "drifting":
                save_backbone(context.folder, backbone, backbone.export())
        return {"steps": steps}


if __name__ == "__main__":
    stage_main("pixel_attention")
