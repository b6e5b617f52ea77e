"""`luss export RUN --format timm`: the backbones of a run for timm."""

from luss.errors import LussError
from luss.export.timm_backbone import export_backbones
from luss.models.backbone import Backbone
from luss.models.io import load_backbone, load_segmenter
from stages.exports.base import ExportRequest


def export(request: ExportRequest) -> str:
    """Writes the pretrained backbone, and the fine-tuned one where there is one."""
    backbones: dict[str, Backbone] = {}
    if (request.folder / "pretrain" / "backbone.json").is_file():
        backbones["pretrained"] = load_backbone(request.folder / "pretrain")
    if (request.folder / "finetune" / "config.json").is_file():
        backbones["finetuned"] = load_segmenter(request.folder / "finetune")[0].backbone
    if not backbones:
        raise LussError(f"the run {request.folder} has no backbone yet: run its pretrain stage first")
    paths = export_backbones(backbones, request.out)
    name = next(iter(backbones.values())).name
    return f"{' and '.join(map(str, paths))}: weights for timm.create_model({name!r}, num_classes=0)"
