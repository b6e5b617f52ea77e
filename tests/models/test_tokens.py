"""Vision transformers: timm's own numbers at any size, subsets and hidden patches, attention, and published tables and segmenters."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from luss.features.layout import layout_descriptor, oriented_gradients
from luss.models.attended import AttendedBackbone
from luss.models.build import build_backbone, create_timm
from luss.models.pixel_attention import PixelAttention, upsample_to
from luss.models.segmenter import SegmentationNetwork
from luss.models.tokens import TokenBackbone, taps_of

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parents[1] / "golden" / "learners"
# Learned positions; no position for registers; rotary positions; rotary positions that differ from block to block; no class token.
NAMES = (
    "test_vit",
    "test_vit4",
    "vit_tiny_patch16_dinov3_qkvb",
    "eva02_tiny_patch14_224",
    "vit_small_patch16_rope_mixed_224",
)


@pytest.fixture(scope="module", params=NAMES)
def network(request: pytest.FixtureRequest) -> TokenBackbone:
    """Every number moved: layer scales of 1e-5 would hide what blocks do."""
    torch.manual_seed(0)
    backbone = build_backbone(request.param).eval()
    assert isinstance(backbone, TokenBackbone)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return backbone


def images(network: TokenBackbone, rows: int = 5, columns: int = 3) -> Tensor:
    return torch.randn(2, 3, rows * network.patch, columns * network.patch, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("size", [(4, 4), (5, 3), (3, 9)])
def test_maps_and_token_are_timms_own_features(network: TokenBackbone, size: tuple[int, int]) -> None:
    batch = images(network, *size)
    theirs = network.model.forward_features(batch)
    found = network(batch)
    patches = theirs[:, network.num_prefix_tokens :].transpose(1, 2).reshape(2, -1, *size)
    assert torch.equal(found.last, patches)
    assert (found.token is None) == (network.model.cls_token is None)
    assert found.token is None or torch.equal(found.token, theirs[:, 0])
    taken = network.model.forward_intermediates(batch, indices=list(network.taps), intermediates_only=True)
    assert all(torch.equal(*pair) for pair in zip(found.maps[:-1], taken[:-1], strict=True))


@torch.no_grad()
def test_keeping_all_patches_in_another_order_gives_the_same_tokens_in_that_order(network: TokenBackbone) -> None:
    batch, prefix = images(network), network.num_prefix_tokens
    whole = network.tokens(batch)
    keep = torch.stack([torch.randperm(15), torch.randperm(15)])
    kept = network.tokens(batch, keep=keep)
    torch.testing.assert_close(kept[:, :prefix], whole[:, :prefix], atol=1e-4, rtol=1e-4)
    wanted = whole[:, prefix:].gather(1, keep[:, :, None].expand(-1, -1, whole.shape[2]))
    torch.testing.assert_close(kept[:, prefix:], wanted, atol=1e-4, rtol=1e-4)
    outputs = network.block_outputs(batch, keep=keep)
    assert len(outputs) == len(network.model.blocks)
    assert torch.equal(network.model.norm(outputs[-1]), kept)
    assert torch.equal(outputs[-1], network.tokens(batch, keep=keep, normed=False))


@torch.no_grad()
def test_patches_that_are_not_kept_have_no_influence(network: TokenBackbone) -> None:
    one, keep = images(network), torch.tensor([[14, 0, 7], [3, 4, 5]])
    other = torch.randn_like(one)
    for image, places in enumerate(keep):
        for place in places:
            rows = slice(int(place) // 3 * network.patch, (int(place) // 3 + 1) * network.patch)
            columns = slice(int(place) % 3 * network.patch, (int(place) % 3 + 1) * network.patch)
            other[image, :, rows, columns] = one[image, :, rows, columns]
    found = network.tokens(one, keep=keep)
    assert found.shape[1] == network.num_prefix_tokens + 3
    torch.testing.assert_close(found, network.tokens(other, keep=keep), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_hidden_patches_are_the_mask_token_with_their_position(network: TokenBackbone) -> None:
    batch, token = images(network), torch.randn(network.num_channels)
    hidden = torch.zeros(2, 15, dtype=torch.bool)
    assert torch.equal(network.tokens(batch, hidden=hidden, mask_token=token), network.tokens(batch))
    hidden[:, 3:9] = True
    other = batch.clone()
    # Patches 3 to 8 are rows 1 and 2 of three columns.
    other[:, :, network.patch : 3 * network.patch] = 7.0
    found = network.tokens(batch, hidden=hidden, mask_token=token)
    assert torch.equal(found, network.tokens(other, hidden=hidden, mask_token=token))
    assert not torch.allclose(found, network.tokens(batch))


@torch.no_grad()
@pytest.mark.parametrize("block", [-1, 0])
def test_attention_logits_are_what_the_block_attends_by(network: TokenBackbone, block: int) -> None:
    batch = images(network)
    count = network.num_prefix_tokens + 15
    logits = network.attention_logits(batch, block=block)
    assert logits.shape == (2, network.model.blocks[0].attn.num_heads, count, count)
    seen: list[Tensor] = []
    real = F.scaled_dot_product_attention

    def spied(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        seen.append(torch.stack([logits.softmax(dim=-1) @ value, real(query, key, value, **options)]))
        return seen[-1][1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", spied)
        network.tokens(batch)
    torch.testing.assert_close(*seen[block], atol=1e-5, rtol=1e-4)


def test_maps_are_taken_at_quarters_of_the_depth() -> None:
    assert taps_of(12) == (2, 5, 8, 11)
    assert taps_of(24) == (5, 11, 17, 23)
    assert taps_of(6) == (1, 2, 4, 5)
    assert taps_of(2) == (0, 1)


@pytest.fixture(scope="module")
def tables() -> Iterator[Mapping[str, NDArray[Any]]]:
    with np.load(GOLDEN / "pos_embed.npz") as arrays:
        yield dict(arrays)


@torch.no_grad()
@pytest.mark.parametrize("size", [(6, 6), (16, 16), (16, 21), (32, 32)])
def test_positions_are_resized_as_timm_resizes_them(tables: Mapping[str, NDArray[Any]], size: tuple[int, int]) -> None:
    backbone = build_backbone("vit_tiny_patch16_224")
    model: Any = backbone.model
    model.pos_embed = torch.nn.Parameter(torch.from_numpy(tables["resize/table"]).repeat(1, 1, 32))
    model.cls_token.zero_()
    found = model._pos_embed(torch.zeros(1, *size, 192))
    wanted = tables[f"resize/timm_{size[0]}x{size[1]}"]
    np.testing.assert_allclose(found[:, :, :6], wanted, atol=2e-6)


@torch.no_grad()
def test_a_segmenter_over_tokens_equals_the_published_one() -> None:
    from timm.models.vision_transformer import VisionTransformer

    with np.load(GOLDEN / "seg_finetune.npz") as arrays:
        golden = {
            name: torch.from_numpy(arrays[name]) for name in arrays if name.startswith(("param/", "images", "logits"))
        }
    options: dict[str, Any] = {"img_size": 16, "patch_size": 4, "embed_dim": 8, "depth": 2, "num_classes": 0}
    model = VisionTransformer(**options, num_heads=2, dynamic_img_size=True)
    facts: dict[str, Any] = {"output_stride": 4, "channels": (8, 8), "strides": (4, 4), "multiple": 4, "patch": 4}
    network = SegmentationNetwork(TokenBackbone("golden", model, **facts), 4).eval()
    state = {name.removeprefix("param/"): value for name, value in golden.items() if name.startswith("param/")}
    network.head.load_state_dict({"weight": state.pop("head.weight"), "bias": state.pop("head.bias")})
    # Theirs reads the tokens before the norm and has a fresh one, which stands where ours has the network's.
    model.load_state_dict({name.replace("fc_norm", "norm"): value for name, value in state.items()})
    torch.testing.assert_close(network(golden["images"]).double(), golden["logits"].double(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("patch", "rows", "expected"), [(16, 4, 8), (14, 5, 9), (8, 5, 5)])
def test_maps_are_enlarged_to_a_target_stride(patch: int, rows: int, expected: int) -> None:
    features = torch.randn(2, 6, rows, rows + 1)
    found = upsample_to(features, stride=patch, target=8)
    assert found.shape[2:] == (expected, round((rows + 1) * patch / 8))
    wanted = F.interpolate(features, size=found.shape[2:], mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, wanted)


@torch.no_grad()
def test_attention_labels_and_layout_work_on_tokens() -> None:
    torch.manual_seed(0)
    backbone = build_backbone("vit_small_patch14_dinov2").eval()
    network = AttendedBackbone(backbone, PixelAttention(backbone.num_channels), target_stride=8).eval()
    batch = torch.randn(2, 3, 70, 98)
    labels, strength = network.label(batch, F.normalize(torch.randn(5, 384), dim=1), saliency=0.5)
    assert labels.shape == strength.shape == (2, round(70 / 8), round(98 / 8))
    assert network.vectors(batch).shape == (2, 384)
    rows = network.layout(batch, [0, 1, 4], 3)
    assert rows.shape == (2, (9 + 384 + 384) * 9)
    torch.testing.assert_close(
        rows, layout_descriptor([oriented_gradients(batch), *backbone(batch).maps], [0, 1, 4], 3)
    )


def test_plain_timm_gives_the_same_features_with_exported_weights() -> None:
    torch.manual_seed(0)
    backbone = build_backbone("test_vit").eval()
    plain = create_timm("test_vit").eval()
    plain.load_state_dict(backbone.export(), strict=True)
    size = plain.default_cfg["input_size"][1]
    batch = torch.randn(1, 3, size, size)
    with torch.no_grad():
        torch.testing.assert_close(plain.forward_features(batch)[:, 0], backbone(batch).token)
