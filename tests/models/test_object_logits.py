"""Deciding for pictures of one kind of object, and labelling with the image's own cluster."""

import pytest
import torch

from luss.models.attended import AttendedBackbone
from luss.models.build import build_backbone
from luss.models.pixel_attention import PixelAttention
from luss.models.segmenter import object_logits


def test_plain_logits_pass_unchanged() -> None:
    logits = torch.randn(2, 4, 3, 3)
    assert object_logits(logits, total_foreground=False, image_weight=0.0) is logits


def test_clusters_that_share_the_foreground_together_beat_the_background() -> None:
    # Background 0.4, three clusters 0.25, 0.2, 0.15: together 0.6.
    logits = torch.log(torch.tensor([0.4, 0.25, 0.2, 0.15])).view(1, 4, 1, 1)
    assert logits.argmax(dim=1).item() == 0
    assert object_logits(logits, total_foreground=True, image_weight=0.0).argmax(dim=1).item() == 1


def test_a_background_beyond_one_half_stays_background() -> None:
    logits = torch.log(torch.tensor([0.55, 0.2, 0.15, 0.1])).view(1, 4, 1, 1)
    assert object_logits(logits, total_foreground=True, image_weight=1.0).argmax(dim=1).item() == 0


def test_the_whole_image_decides_the_cluster_of_every_foreground_position() -> None:
    logits = torch.full((1, 3, 2, 2), -9.0)
    logits[0, 1, 0] = 5.0  # cluster 1, clearly, in the upper row
    logits[0, 1:, 1, 0] = torch.tensor([1.0, 1.5])  # cluster 2 by a little
    logits[0, 0, 1, 1] = 5.0  # background
    alone = object_logits(logits, total_foreground=True, image_weight=0.0).argmax(dim=1)
    together = object_logits(logits, total_foreground=True, image_weight=1.0).argmax(dim=1)
    assert alone[0].tolist() == [[1, 1], [2, 0]]
    assert together[0].tolist() == [[1, 1], [1, 0]]


def test_an_image_whose_background_leads_by_far_everywhere_stays_background() -> None:
    logits = torch.zeros(1, 4, 3, 3)
    logits[:, 0] = 200.0
    found = object_logits(logits, total_foreground=True, image_weight=1.0)
    assert found.isfinite().all()
    assert found.argmax(dim=1).unique().tolist() == [0]


@pytest.fixture(scope="module")
def network() -> AttendedBackbone:
    torch.manual_seed(0)
    backbone = build_backbone("test_resnet")
    return AttendedBackbone(backbone, PixelAttention(backbone.num_channels), target_stride=16).eval()


def test_full_image_weight_gives_every_position_the_images_cluster(network: AttendedBackbone) -> None:
    centroids = torch.nn.functional.normalize(torch.randn(5, network.backbone.num_channels), dim=1)
    own = torch.tensor([3, 0])
    labels, _ = network.label(torch.randn(2, 3, 64, 64), centroids, image_clusters=own, image_weight=1.0)
    assert [set(image.flatten().tolist()) for image in labels] == [{4}, {1}]


def test_full_saliency_replaces_the_learned_attention(network: AttendedBackbone) -> None:
    images = torch.zeros(1, 3, 64, 64)
    images[:, :, 20:44, 20:44] = 2.0
    centroids = torch.nn.functional.normalize(torch.randn(3, network.backbone.num_channels), dim=1)
    _, attention = network.label(images, centroids, saliency=1.0)
    inside, border = attention[0, attention.shape[1] // 2, attention.shape[2] // 2], attention[0, 0, 0]
    assert inside > border + 0.4
    _, learned = network.label(images, centroids)
    assert not torch.allclose(attention, learned, atol=0.1)


def test_mirrored_layout_does_not_say_which_way_an_object_faces(network: AttendedBackbone) -> None:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    seen, turned = (network.layout(each, [0, 4], 4, mirror=True) for each in (images, images.flip(-1)))
    assert torch.allclose(seen, turned, atol=1e-4)
    plain = network.layout(images, [0, 4], 4)
    assert not torch.allclose(plain, network.layout(images.flip(-1), [0, 4], 4), atol=1e-2)
    assert torch.allclose(seen, (plain + network.layout(images.flip(-1), [0, 4], 4)) / 2, atol=1e-6)
