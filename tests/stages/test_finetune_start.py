"""Which backbone fine-tuning starts from: that of stage 1, also where stage 2 has written one of its own."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
from running import Launcher, copy_until

from luss.config import load_config
from luss.data.resized import cropped_batches
from luss.features.store import FeatureStore
from luss.models.attended import AttendedBackbone
from luss.models.io import load_backbone, load_tensors
from luss.models.pixel_attention import PixelAttention
from stages.parts.images import train_manifest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def untrained(luss: Launcher, config: Path, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run with a fine-tuning of no step."""
    run = copy_until(finished, tmp_path_factory.mktemp("untrained"), "finetune")
    words = [f"output={run}", "finetune.epochs=0", "finetune.convolution_start=kaiming", "--until", "finetune"]
    outcome = luss("run", str(config), *words)
    assert outcome.code == 0, outcome.output
    return run


@pytest.fixture(scope="module")
def published(luss: Launcher, config: Path, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after the attention of the published code, whose frozen backbone drifts."""
    run = copy_until(finished, tmp_path_factory.mktemp("published"), "pixel_attention")
    words = [f"output={run}", "pixel_attention.batch_norm=drifting", "finetune.epochs=0", "--until", "finetune"]
    outcome = luss("run", str(config), *words)
    assert outcome.code == 0, outcome.output
    return run


def bits(path: Path, prefix: str = "") -> dict[str, bytes]:
    """The bytes of the tensors whose names begin with a prefix, by their names without it."""
    tensors = safetensors.torch.load_file(path)
    return {
        name.removeprefix(prefix): tensor.numpy().tobytes()
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


@pytest.mark.parametrize("which", ["untrained", "published"])
def test_fine_tuning_starts_from_the_backbone_of_stage_1(request: pytest.FixtureRequest, which: str) -> None:
    run = request.getfixturevalue(which)
    started = bits(run / "finetune" / "model.safetensors", "backbone.")
    assert len(started) > 10
    assert started == bits(run / "pretrain" / "backbone.safetensors")


def test_the_segmentation_head_starts_as_published_where_asked(untrained: Path) -> None:
    head = safetensors.torch.load_file(untrained / "finetune" / "model.safetensors")["head.weight"]
    assert float(head.std()) == pytest.approx((2 / len(head)) ** 0.5, rel=0.1)


def test_the_published_attention_writes_a_backbone_whose_statistics_alone_have_drifted(published: Path) -> None:
    before = bits(published / "pretrain" / "backbone.safetensors")
    after = bits(published / "pixel_attention" / "backbone.safetensors")
    assert after.keys() == before.keys()
    changed = {name.rpartition(".")[2] for name in before if before[name] != after[name]}
    assert {"running_mean", "running_var"} <= changed <= {"running_mean", "running_var", "num_batches_tracked"}


def pooled(run: Path, config: Path, backbone_of: str) -> np.ndarray:
    """(60, L) attention-pooled vectors of the training images by the backbone in a stage's folder."""
    settings = load_config(config, [f"output={run}"])
    backbone = load_backbone(run / backbone_of)
    attention = PixelAttention(backbone.num_channels, shared=False)
    attention.load_state_dict(load_tensors(run / "pixel_attention" / "attention.safetensors"))
    network = AttendedBackbone(backbone, attention, target_stride=settings.pixel_attention.target_stride).eval()
    manifest = train_manifest(run)
    rows = np.zeros((len(manifest), backbone.num_channels), np.float32)
    for batch in cropped_batches(
        manifest, range(len(manifest)), settings.extract_features, max_pixels=settings.data.max_pixels
    ):
        images = backbone.normalise(batch.images)
        rows[batch.indices] = network.vectors(images).numpy()
    return rows


def test_features_come_from_the_drifted_backbone_where_there_is_one(published: Path, config: Path) -> None:
    store = FeatureStore.open(published / "extract_features" / "features")
    stored = store.read(0, len(store))
    np.testing.assert_allclose(stored, pooled(published, config, "pixel_attention"), atol=1e-5)
    assert np.abs(stored - pooled(published, config, "pretrain")).max() > 1e-3
