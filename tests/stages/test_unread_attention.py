"""Attention that nothing would read is not trained; where something reads it, it is."""

from pathlib import Path
from typing import Any

import pytest
import torch
from running import Launcher, copy_until

from luss.config import load_config
from luss.files import read_json
from luss.models.attended import AttendedBackbone
from luss.models.build import build_backbone
from luss.models.pixel_attention import PixelAttention
from stages.base import fingerprint
from stages.pipeline import STAGES

UNREAD = (
    "extract_features.layout_stages=[0,4]", "cluster.layout_dim=8", "cluster.layout_weights=[1.0,0.5]", "pseudo_labels.image_weight=1",
    "pseudo_labels.saliency=1",
)  # fmt: skip


def identities(config: Path, *words: str) -> dict[str, Any]:
    run = load_config(config, words)
    return {name: fingerprint(stage, run) for name, stage in STAGES.items()}


def test_nothing_becomes_stale_by_how_an_unread_attention_would_be_trained(config: Path) -> None:
    assert identities(config, *UNREAD, "pixel_attention.lr=9") == identities(config, *UNREAD)
    assert identities(config, *UNREAD, "pixel_attention.target_stride=4") != identities(config, *UNREAD)


@pytest.mark.parametrize(
    "word",
    [
        "cluster.layout_dim=0", "pseudo_labels.image_weight=0.9", "pseudo_labels.saliency=0.9",
        "pseudo_labels.threshold=validation",
    ],
)  # fmt: skip
def test_attention_that_anything_reads_counts(config: Path, word: str) -> None:
    assert identities(config, *UNREAD, word, "pixel_attention.lr=9") != identities(config, *UNREAD, word)


def test_an_unread_attention_is_not_trained_and_says_so(
    luss: Launcher, config: Path, finished: Path, tmp_path: Path
) -> None:
    run = copy_until(finished, tmp_path, "pixel_attention")
    outcome = luss("run", str(config), f"output={run}", *UNREAD, "--until", "pseudo_labels")
    assert outcome.code == 0, outcome.output
    assert "the attention is not trained: nothing reads it" in outcome.output
    assert read_json(run / "pixel_attention" / "DONE.json")["figures"]["steps"] == 0
    assert (run / "pseudo_labels" / "labels" / "labels.h5").is_file()


def test_with_those_weights_labels_hang_on_neither_attention_nor_centroids() -> None:
    torch.manual_seed(0)
    backbone = build_backbone("test_resnet").eval()
    images, clusters = backbone.normalise(torch.rand(2, 3, 64, 64)), torch.tensor([1, 2])
    found = []
    for _ in range(2):
        attention = PixelAttention(backbone.num_channels).eval()
        network = AttendedBackbone(backbone, attention, target_stride=8)
        centroids = torch.nn.functional.normalize(torch.randn(4, backbone.num_channels), dim=1)
        found.append(network.label(images, centroids, image_clusters=clusters, image_weight=1.0, saliency=1.0))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
