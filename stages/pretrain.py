"""Stage 1: learns a representation without labels."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luss import processes
from luss.data.categories import categories_of, numbered_categories
from luss.data.manifest import Manifest
from luss.data.views import ViewDataset
from luss.errors import LussError
from luss.files import read_record, write_json
from luss.methods.saved import save_heads
from luss.methods.start import start_method
from luss.models.io import save_backbone
from luss.models.weight_files import content_mark
from luss.settings import PretrainSettings, RunSettings
from stages.base import Stage, StageContext
from stages.parts.images import pretrain_manifests
from stages.parts.training import plateau, train, try_forward

_GIVEN = "given.json"


class Pretrain(Stage[PretrainSettings]):
    """Trains `pretrain.method`; products: `backbone.safetensors` (plain timm weights) and `method.safetensors` (its heads).

    Where it was given weights, `given.json` says which files, and what was taken of them.
    """

    version = 4
    seeded = True
    distributed = True
    work = "trained"

    def extra_identity(self, run_folder: Path) -> tuple[str, str]:
        """The contents of the files that the first weights came from, where they are others than they were; files that are gone are not."""
        path = run_folder / self.name / _GIVEN
        if not path.is_file():
            return "", ""
        try:
            record = read_record(path, {"files": list, "mark": str, "source": str})
        except LussError:
            # A product as others: whoever looks at those names it, and the stage can be forced.
            return "", ""
        mark = content_mark([Path(str(file)) for file in record["files"]])
        changed = mark and mark != record["mark"]
        return (mark, f"the weights {record['source']} are others now") if changed else ("", "")

    def try_step(self, run: RunSettings, num_images: int) -> None:
        """The learner with random weights: given ones were looked at by themselves."""
        settings = self.block(run)
        plain = replace(settings, weights="", backbone=replace(settings.backbone, weights="random"))
        method = start_method(plain, categories=lambda: torch.arange(2)).method
        dataset = ViewDataset([], method.views, seed=0, max_pixels=1, patch=method.backbone.patch or 16)
        try_forward(self.name, method, dataset.noise(num_images), num_images)

    def run(self, context: StageContext) -> dict[str, Any]:
        """Trains from the newest checkpoint to the end and exports."""
        settings, run = self.block(context.run), context.run
        images = pretrain_manifests(context)
        start = start_method(settings, categories=lambda: _categories(images))
        method = start.method
        for problem in start.problems:
            context.reporter.warn(problem)
        for note in start.notes:
            context.reporter.message(note)
        if start.record and processes.rank() == 0:
            write_json(context.folder / _GIVEN, start.record)
        patch = method.backbone.patch or 16
        dataset = ViewDataset(images, method.views, seed=run.seed, max_pixels=run.data.max_pixels, patch=patch)
        steps = train(context, method, dataset, settings)
        if processes.rank() == 0:
            # Prototypes that never trained would teach the attention nothing.
            save_heads(context.folder, method, method.prototypes() if steps or start.clustering else None)
            backbone = method.exported()
            save_backbone(context.folder, backbone, backbone.export(), method=settings.method.name, steps=steps)
        head = method.prototypes()
        stood = plateau(context, head.settings.num_prototypes) if head is not None else {}
        return {"steps": steps, "parameters": sum(parameter.numel() for parameter in method.parameters()), **stood}


def _categories(manifests: Sequence[Manifest]) -> Tensor:
    """The folders' categories of the training images, and none of those of `data.extra`, which are photographs of anything."""
    train, *extra = manifests
    numbers, _ = numbered_categories(categories_of(train.names()), len(train))
    return torch.cat([torch.from_numpy(numbers), torch.full((sum(map(len, extra)),), -1, dtype=torch.int32)])
