"""Stage 1: learns a representation without labels."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from luss import processes
from luss.data.categories import categories_of, numbered_categories
from luss.data.manifest import Manifest
from luss.data.views import ViewDataset
from luss.methods import method_class
from luss.methods.base import Given
from luss.methods.saved import save_heads
from luss.models.backbone import Backbone, start_residuals_at_one
from luss.models.build import build_backbone
from luss.models.io import save_backbone
from luss.models.weights import initialise
from luss.settings import BackboneSettings, PretrainSettings
from stages.base import Stage, StageContext
from stages.parts.images import pretrain_manifests
from stages.parts.training import train


class Pretrain(Stage[PretrainSettings]):
    """Trains `pretrain.method`; products: `backbone.safetensors` (plain timm weights) and `method.safetensors` (its heads)."""

    version = 4
    seeded = True
    distributed = True
    work = "trained"

    def run(self, context: StageContext) -> dict[str, Any]:
        """Trains from the newest checkpoint to the end and exports."""
        settings, run = self.block(context.run), context.run
        images = pretrain_manifests(context)
        given = Given(
            lambda: _first_backbone(context, settings.backbone),
            settings.images_a_pass,
            categories=(lambda: _categories(images)) if settings.method.USES_LABELS else None,
        )
        method = method_class(settings.method.name)(settings.method, given)
        patch = method.backbone.patch or 16
        dataset = ViewDataset(images, method.views, seed=run.seed, max_pixels=run.data.max_pixels, patch=patch)
        steps = train(context, method, dataset, settings)
        if processes.rank() == 0:
            # Prototypes that never trained would teach the attention nothing.
            save_heads(context.folder, method, method.prototypes() if steps else None)
            backbone = method.exported()
            save_backbone(context.folder, backbone, backbone.export(), method=settings.method.name, steps=steps)
        return {"steps": steps, "parameters": sum(parameter.numel() for parameter in method.parameters())}


def _categories(manifests: Sequence[Manifest]) -> Tensor:
    """The folders' categories of the training images, and none of those of `data.extra`, which are photographs of anything."""
    train, *extra = manifests
    numbers, _ = numbered_categories(categories_of(train.names()), len(train))
    return torch.cat([torch.from_numpy(numbers), torch.full((sum(map(len, extra)),), -1, dtype=torch.int32)])


def _first_backbone(context: StageContext, settings: BackboneSettings) -> Backbone:
    """The network with its first weights; says what of them was missing."""
    backbone = build_backbone(settings.name, output_stride=settings.output_stride)
    if not settings.zero_init_residual:
        start_residuals_at_one(backbone)
    loaded = initialise(backbone, settings.weights)
    for problem in loaded.problems():
        context.reporter.warn(problem)
    for note in loaded.notes():
        context.reporter.message(note)
    return backbone
