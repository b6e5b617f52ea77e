"""Stage 1: learns a representation without labels."""

from typing import Any

from luss.data.views import ViewDataset
from luss.methods import build_method
from luss.methods.collapse import CollapseWatch
from luss.models.backbone import Backbone, start_residuals_at_one
from luss.models.io import save_backbone, save_tensors, state_without_duplicates
from luss.models.weights import initialise
from luss.settings import PretrainSettings, RunSettings
from luss.training import distributed
from luss.training.representation import view_preparer
from stages.base import Stage, StageContext
from stages.parts.images import pretrain_manifests
from stages.parts.training import train


class Pretrain(Stage[PretrainSettings]):
    """Trains `pretrain.method`; products: `backbone.safetensors` (plain timm weights) and `method.safetensors` (its heads)."""

    version = 2
    seeded = True
    distributed = True
    work = "trained"

    def settings(self, run: RunSettings) -> dict[str, Any]:
        """Without the blocks of methods that are not chosen."""
        found = super().settings(run)
        if self.block(run).method != "pass_s":
            found = {key: value for key, value in found.items() if not key.startswith(f"{self.name}.pass_s.")}
        return found

    def run(self, context: StageContext) -> dict[str, Any]:
        """Trains from the newest checkpoint to the end and exports."""
        settings, run = self.block(context.run), context.run
        backbone = Backbone(settings.backbone.name, output_stride=settings.backbone.output_stride)
        if not settings.backbone.zero_init_residual:
            start_residuals_at_one(backbone)
        loaded = initialise(backbone, settings.backbone.weights)
        for problem in loaded.problems():
            context.reporter.warn(problem)
        for note in loaded.notes():
            context.reporter.message(note)
        method = build_method(backbone, settings)
        dataset = ViewDataset(
            pretrain_manifests(context),
            method.view_groups,
            settings.photometric,
            seed=run.seed,
            max_pixels=run.data.max_pixels,
        )
        steps = train(
            context,
            method,
            dataset,
            view_preparer(backbone.mean, backbone.std),
            settings,
            reporter=CollapseWatch(context.reporter),
        )
        if distributed.rank() == 0:
            save_tensors(context.folder / "method.safetensors", state_without_duplicates(method))
            save_backbone(context.folder, backbone, method.export(), method=settings.method, steps=steps)
        return {"steps": steps, "parameters": sum(parameter.numel() for parameter in method.parameters())}
