"""Vision transformers through every stage of every protocol, as convolutional networks go."""

from pathlib import Path

import pytest
from PIL import Image
from running import Launcher

from luss.data.manifest import Manifest
from luss.data.names import mask_name
from luss.files import read_json
from luss.models.build import create_timm
from luss.models.io import load_tensors

# 40 pixels are no multiple of the patch: crops that learn must be, whole images are resized.
WORDS = (
    "pretrain.method.global_views.size=32", "pixel_attention.views.size=32", "finetune.size=32", "extract_features.resize=40",
    "extract_features.crop=40", "pseudo_labels.short_side=40", "predict.short_side=40", "predict.size_multiple=1",
    "extract_features.layout_stages=[0,4]", "cluster.layout_dim=8", "cluster.layout_weights=[1.0,0.5]",
    "distance_matching.short_side=40", "distance_matching.workers=0", "semi_finetune.size=32", "semi_finetune.epochs=1",
    "semi_finetune.batch_size=5", "semi_finetune.workers=0", "semi_predict.short_side=40", "semi_predict.workers=0",
    "protocols=[unsupervised,distance_matching,semi_supervised]",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_vit", "swin_tiny_patch4_window7_224"])
def test_every_stage_runs_on_transformers(luss: Launcher, config: Path, tmp_path: Path, name: str) -> None:
    run = tmp_path / "run"
    outcome = luss("run", str(config), f"output={run}", f"pretrain.backbone={name}", *WORDS)
    assert outcome.code == 0, outcome.output
    create_timm(name).load_state_dict(load_tensors(run / "pretrain" / "backbone.safetensors"), strict=True)
    for stage in ("evaluate", "distance_matching", "semi_evaluate"):
        miou = read_json(run / stage / "metrics.json")["splits"]["validation"]["miou"]
        assert 0 <= miou <= 100
    manifest = Manifest.open(run / "manifest" / "evaluated", "validation")
    for index in range(len(manifest)):
        with Image.open(run / "predict" / "masks" / "validation" / mask_name(manifest.name(index))) as mask:
            assert mask.size == manifest.size(index)
