"""Attention, upsampling and pooling against the published module's numbers, and what stages 3 and 5 make of them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from luss.errors import LussError
from luss.models.attended import AttendedBackbone, load_attended
from luss.models.build import build_backbone
from luss.models.io import save_backbone, save_tensors
from luss.models.pixel_attention import PixelAttention, attention_pool, upsample_to
from luss.models.saliency import border_saliency

GOLDEN = Path(__file__).parents[1] / "golden" / "pass_losses.npz"


@pytest.fixture(scope="module")
def golden() -> Iterator[Mapping[str, NDArray[Any]]]:
    with np.load(GOLDEN) as arrays:
        yield {name.removeprefix("attn/"): arrays[name] for name in arrays if name.startswith("attn/")}


def golden_attention(golden: Mapping[str, NDArray[Any]]) -> PixelAttention:
    names = {
        "mlp.0.weight": "w1",
        "mlp.0.bias": "b1",
        "mlp.1.running_mean": "bn1_mean",
        "mlp.1.running_var": "bn1_var",
        "mlp.1.weight": "bn1_w",
        "mlp.1.bias": "bn1_b",
        "mlp.3.weight": "w2",
        "mlp.3.bias": "b2",
        "mlp.4.running_mean": "bn2_mean",
        "mlp.4.running_var": "bn2_var",
        "mlp.4.weight": "bn2_w",
        "mlp.4.bias": "bn2_b",
        "theta": "theta",
    }
    attention = PixelAttention(48)
    state = {own: torch.from_numpy(golden[published]) for own, published in names.items()}
    loaded = attention.load_state_dict(state, strict=False)
    assert {name.split(".")[-1] for name in loaded.missing_keys} <= {"num_batches_tracked"}
    assert not loaded.unexpected_keys
    return attention.eval()


def test_upsampling_equals_the_published_one(golden: Mapping[str, NDArray[Any]]) -> None:
    larger = upsample_to(torch.from_numpy(golden["features"]), stride=32, target=8)
    np.testing.assert_allclose(larger, golden["upsampled"], atol=1e-5)


@torch.no_grad()
def test_attention_equals_the_published_one(golden: Mapping[str, NDArray[Any]]) -> None:
    features = F.normalize(upsample_to(torch.from_numpy(golden["features"]), stride=32, target=8), dim=1)
    attention = golden_attention(golden)(features)
    np.testing.assert_allclose(attention.mean(dim=1, keepdim=True), golden["attention_mean"], atol=1e-5)


@torch.no_grad()
def test_pooled_vectors_equal_the_published_ones(golden: Mapping[str, NDArray[Any]]) -> None:
    features = upsample_to(torch.from_numpy(golden["features"]), stride=32, target=8)
    normalised = F.normalize(features, dim=1)
    attention = golden_attention(golden)(normalised)
    np.testing.assert_allclose(attention_pool(normalised, attention), golden["pooled_training"], atol=1e-5)
    np.testing.assert_allclose(attention_pool(features, attention), golden["pooled_clustering"], atol=1e-5)


def test_attention_of_resnet18_has_as_many_parameters_as_the_published_one() -> None:
    assert sum(parameter.numel() for parameter in PixelAttention(512).parameters()) == 527872


def test_theta_starts_at_zero_and_moves_every_position_alike() -> None:
    attention = PixelAttention(6).eval()
    assert not attention.theta.any()
    features = F.normalize(torch.randn(2, 6, 3, 3), dim=1)
    before = attention.logits(features).detach()
    attention.theta.data.fill_(0.5)
    torch.testing.assert_close(attention.logits(features).detach(), before + 0.5)
    torch.testing.assert_close(attention(features).detach(), torch.sigmoid(before + 0.5))


def test_shared_attention_is_one_map_for_all_channels() -> None:
    attention = PixelAttention(6, shared=True).eval()
    features = torch.randn(2, 6, 3, 3)
    assert attention(features).shape == (2, 1, 3, 3)
    pooled = attention_pool(features, attention(features))
    torch.testing.assert_close(pooled, attention_pool(features, attention(features).expand(-1, 6, -1, -1)))


def test_pooling_is_a_mean_over_positions() -> None:
    features, attention = torch.randn(2, 3, 2, 2), torch.rand(2, 3, 2, 2)
    expected = torch.zeros(2, 3)
    for row in range(2):
        for column in range(2):
            expected += features[:, :, row, column] * attention[:, :, row, column] / 4
    torch.testing.assert_close(attention_pool(features, attention), expected)


@pytest.fixture(scope="module")
def attended() -> AttendedBackbone:
    torch.manual_seed(0)
    backbone = build_backbone("test_resnet")
    return AttendedBackbone(backbone, PixelAttention(backbone.num_channels), target_stride=16).eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_vectors_pool_what_attention_was_trained_on_or_the_raw_features(
    attended: AttendedBackbone, images: torch.Tensor
) -> None:
    features, attention = attended.maps(images)
    assert features.shape[2:] == (4, 6)
    unit, raw = attended.vectors(images), attended.vectors(images, pool="raw")
    for vectors in (unit, raw):
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
    normalised = F.normalize(features, dim=1)
    torch.testing.assert_close(unit, F.normalize((normalised * attention).mean(dim=(2, 3)), dim=1))
    torch.testing.assert_close(raw, F.normalize((features * attention).mean(dim=(2, 3)), dim=1))


@torch.no_grad()
def test_every_position_gets_the_centroid_of_the_largest_cosine(
    attended: AttendedBackbone, images: torch.Tensor
) -> None:
    centroids = F.normalize(
        torch.randn(7, attended.backbone.num_channels, generator=torch.Generator().manual_seed(1)), dim=1
    )
    labels, attention = attended.label(images, centroids)
    features, channels = attended.maps(images)
    for image in range(2):
        for row in range(4):
            for column in range(6):
                cosines = F.cosine_similarity(features[image, :, row, column][None], centroids)
                assert int(labels[image, row, column]) == int(cosines.argmax()) + 1
    torch.testing.assert_close(attention, channels.mean(dim=1))


@torch.no_grad()
def test_with_full_image_weight_an_image_has_one_cluster(attended: AttendedBackbone, images: torch.Tensor) -> None:
    centroids = F.normalize(
        torch.randn(7, attended.backbone.num_channels, generator=torch.Generator().manual_seed(1)), dim=1
    )
    labels, _ = attended.label(images, centroids, image_weight=1.0)
    expected = (attended.vectors(images) @ centroids.T).argmax(dim=1) + 1
    assert torch.equal(labels, expected[:, None, None].expand_as(labels))


@pytest.mark.parametrize("weight", [0.25, 0.4])
def test_a_part_of_image_weight_wins_the_positions_whose_own_cluster_leads_by_less(
    monkeypatch: pytest.MonkeyPatch, attended: AttendedBackbone, images: torch.Tensor, weight: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    # Features of few channels, whose cosines fill the range from -1 to 1.
    features, centroids = (
        F.normalize(torch.randn(*shape, generator=generator), dim=1) for shape in ((2, 4, 9, 9), (5, 4))
    )
    monkeypatch.setattr(attended, "maps", lambda _: (features, torch.ones(2, 1, 9, 9)))
    cosines = torch.einsum("blhw,cl->bhwc", features, centroids)
    own = torch.tensor([3, 1])
    lead = cosines.amax(dim=3) - torch.stack([cosines[0, ..., 3], cosines[1, ..., 1]])
    # The image's cluster scores (1 - weight) cosine + weight, every other one (1 - weight) cosine.
    won = lead < weight / (1 - weight)
    assert (won & (lead > weight)).any()
    labels, _ = attended.label(images, centroids, image_clusters=own, image_weight=weight)
    assert torch.equal(labels, torch.where(won, own[:, None, None], cosines.argmax(dim=3)) + 1)


@torch.no_grad()
def test_a_part_of_saliency_is_that_part_of_the_attention(attended: AttendedBackbone, images: torch.Tensor) -> None:
    centroids = torch.eye(attended.backbone.num_channels)[:3]
    learned, mixed = (attended.label(images, centroids, saliency=share)[1] for share in (0.0, 0.3))
    mean, std = (torch.tensor(each)[:, None, None] for each in (attended.backbone.mean, attended.backbone.std))
    salient = border_saliency((images * std + mean).clamp(0, 1), size=(4, 6))
    assert float((learned - salient).abs().mean()) > 0.1
    torch.testing.assert_close(mixed, 0.7 * learned + 0.3 * salient)


def test_the_products_of_two_stages_make_the_network_again(
    tmp_path: Path, attended: AttendedBackbone, images: torch.Tensor
) -> None:
    save_backbone(tmp_path / "pretrain", attended.backbone, attended.backbone.export())
    save_tensors(tmp_path / "attention" / "attention.safetensors", attended.attention.state_dict())
    again = load_attended(tmp_path / "pretrain", tmp_path / "attention", shared=False, target_stride=16)
    assert not again.training
    assert torch.equal(again.vectors(images), attended.vectors(images))


def test_the_attention_stage_s_own_backbone_wins(tmp_path: Path, attended: AttendedBackbone) -> None:
    save_backbone(tmp_path / "pretrain", build_backbone("test_resnet"), build_backbone("test_resnet").export())
    save_backbone(tmp_path / "attention", attended.backbone, attended.backbone.export())
    save_tensors(tmp_path / "attention" / "attention.safetensors", attended.attention.state_dict())
    again = load_attended(tmp_path / "pretrain", tmp_path / "attention", shared=False, target_stride=16)
    own = attended.backbone.export()
    assert all(torch.equal(tensor, own[name]) for name, tensor in again.backbone.export().items())


def test_attention_of_another_kind_is_an_error_that_names_the_setting(
    tmp_path: Path, attended: AttendedBackbone
) -> None:
    save_backbone(tmp_path, attended.backbone, attended.backbone.export())
    save_tensors(tmp_path / "attention.safetensors", attended.attention.state_dict())
    with pytest.raises(LussError, match=r"attention\.safetensors.*pixel_attention\.shared=True"):
        load_attended(tmp_path, tmp_path, shared=True, target_stride=16)
