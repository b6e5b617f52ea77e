"""Every kind of backbone: maps of the told shapes at any size, gradients everywhere, plain timm weights, files that bring all back."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from luss.errors import LussError
from luss.models.backbone import IMAGENET_MEAN, Backbone, Features
from luss.models.build import build_backbone, create_timm
from luss.models.io import load_backbone, load_segmenter, save_backbone, save_segmenter
from luss.models.segmenter import SegmentationNetwork

pytestmark = pytest.mark.slow

TOKENS = ("test_vit", "vit_tiny_patch16_224", "vit_small_patch14_dinov2", "vit_small_patch16_dinov3")
WINDOWS = ("swin_tiny_patch4_window7_224",)
# A small member of each family of timm's convolutional networks that has other modules than a ResNet.
CONVOLUTIONAL = (
    "test_resnet",
    "resnet10t",
    "test_convnext",
    "test_efficientnet",
    "test_nfnet",
    "mobilenetv3_small_050",
    "regnetx_002",
    "densenet121",
    "hrnet_w18_small",
    "starnet_s050",
    "edgenext_xx_small",
    "efficientvit_b0",
    "efficientvit_m0",
)
NAMES = (*TOKENS, *WINDOWS, *CONVOLUTIONAL)


@pytest.fixture(scope="module", params=NAMES)
def network(request: pytest.FixtureRequest) -> Backbone:
    """Built once a module; every number moved, because layer scales of 1e-5 would hide what blocks do."""
    torch.manual_seed(0)
    backbone = build_backbone(request.param).eval()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return backbone


def images(backbone: Backbone, rows: int = 64, columns: int = 96) -> Tensor:
    step = backbone.multiple
    size = (max(rows // step, 1) * step, max(columns // step, 2) * step)
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(rows))


@pytest.mark.parametrize("size", [(64, 96), (96, 64)])
def test_maps_have_the_told_channels_and_strides_at_any_aspect(network: Backbone, size: tuple[int, int]) -> None:
    batch = images(network, *size)
    with torch.no_grad():
        maps = network(batch).maps
    assert 3 <= len(maps) == len(network.channels) == len(network.strides) <= 4
    for features, channels, stride in zip(maps, network.channels, network.strides, strict=True):
        assert features.shape[:2] == (2, channels)
        for side, positions in zip(batch.shape[2:], features.shape[2:], strict=True):
            assert abs(positions - side / stride) < 1
            assert side % stride or positions == side // stride
    assert all(torch.isfinite(features).all() for features in maps)


def test_gradients_reach_every_parameter_that_trains(network: Backbone) -> None:
    network.train()
    found = network(images(network))
    torch.stack([(part * torch.randn_like(part)).sum() for part in found.maps]).sum().backward()
    network.eval()
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert {name for name, parameter in network.named_parameters() if parameter.grad is not None} == trained
    assert len(trained) > 0.5 * len(list(network.parameters()))
    network.zero_grad(set_to_none=True)


def test_weights_load_strictly_into_plain_timm(network: Backbone) -> None:
    create_timm(network.name).load_state_dict(network.export(), strict=True)


def test_files_bring_back_the_same_bits(network: Backbone, tmp_path: Path) -> None:
    network.set_normalisation((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    save_backbone(tmp_path, network, network.export())
    loaded = load_backbone(tmp_path).eval()
    assert loaded.describe() == network.describe()
    assert (loaded.multiple, loaded.patch, loaded.mean) == (network.multiple, network.patch, (0.1, 0.2, 0.3))
    batch = images(network)
    with torch.no_grad():
        one, other = network(batch), loaded(batch)
    assert all(torch.equal(*pair) for pair in zip(one.maps, other.maps, strict=True))
    assert one.token is None or (other.token is not None and torch.equal(one.token, other.token))


@pytest.mark.parametrize(
    ("name", "sides", "size"),
    [("coat_lite_tiny", 224, (224, 224)), ("levit_128s", 224, (224, 224)), ("pit_ti_224", 224, (224, 224))],
)
def test_a_network_of_one_size_says_so(name: str, sides: int, size: tuple[int, int]) -> None:
    backbone = build_backbone(name)
    assert (backbone.multiple, backbone.fixed_size) == (sides, size)
    backbone.check_side(224, "pretrain.global_views.size")
    with pytest.raises(LussError, match=r"local_views\.size is 96, but .* takes images of 224 x 224 pixels only"):
        backbone.check_side(96, "pretrain.local_views.size")
    assert backbone.nearest_side(400) == 224


@pytest.mark.parametrize(("name", "multiple"), [("resnet10t", 1), ("hrnet_w18_small", 32), ("test_vit", 16)])
def test_what_sides_must_be_multiples_of_is_found(name: str, multiple: int) -> None:
    backbone = build_backbone(name)
    assert (backbone.multiple, backbone.fixed_size) == (multiple, None)
    backbone.check_side(multiple * 5, "finetune.size")
    if multiple > 1:
        with pytest.raises(LussError, match=rf"finetune\.size is 81, but {name} .* multiples of {multiple}: set "):
            backbone.check_side(81, "finetune.size")


@pytest.mark.parametrize("stride", [0, 16, 32])
def test_a_vision_transformer_has_its_own_stride_by_any_of_its_names(stride: int) -> None:
    backbone = build_backbone("test_vit", output_stride=stride)
    assert (backbone.stride, backbone.output_stride, backbone.patch) == (16, 16, 16)


def test_a_vision_transformer_has_no_other_stride() -> None:
    with pytest.raises(
        LussError, match=r"test_vit cannot be built with output_stride 8: .* its patch, 16, only; use 32"
    ):
        build_backbone("test_vit", output_stride=8)


def test_looking_at_a_network_draws_no_random_numbers() -> None:
    torch.manual_seed(3)
    first = build_backbone("test_efficientnet_ln").export()
    torch.manual_seed(3)
    plain = create_timm("test_efficientnet_ln").state_dict()
    assert first.keys() == plain.keys()
    assert all(torch.equal(first[name], plain[name]) for name in plain)


def test_stochastic_depth_is_on_where_asked_for_and_refused_where_there_is_none() -> None:
    torch.manual_seed(0)
    backbone = build_backbone("test_vit", drop_path=0.5).train()
    batch = torch.randn(4, 3, 32, 32)
    assert not torch.equal(backbone(batch).last, backbone(batch).last)
    with pytest.raises(LussError, match="vgg11 has no stochastic depth: set drop_path to 0"):
        build_backbone("vgg11", drop_path=0.1)


def test_modules_that_share_a_tensor_are_saved(tmp_path: Path) -> None:
    backbone = build_backbone("coat_lite_tiny")
    save_backbone(tmp_path, backbone, backbone.export())
    loaded = load_backbone(tmp_path).export()
    assert all(torch.equal(value, loaded[name]) for name, value in backbone.export().items())


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_normalising_and_colours_are_each_others_inverse(name: str) -> None:
    backbone = build_backbone(name)
    backbone.set_normalisation((0.1, 0.2, 0.3), (0.5, 0.25, 2.0))
    pixels = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    result = backbone.normalise(pixels)
    for channel, (mean, std) in enumerate(((0.1, 0.5), (0.2, 0.25), (0.3, 2.0))):
        torch.testing.assert_close(result[:, channel], (pixels[:, channel].float() / 255 - mean) / std)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(backbone.normalise(pixels.float() / 255), result)
    torch.testing.assert_close(backbone.colours(result), pixels.float() / 255)
    assert not {"_mean", "_std"} & set(backbone.state_dict())


def test_vision_transformers_start_with_imagenets_colours() -> None:
    assert create_timm("vit_tiny_patch16_224").default_cfg["mean"] == (0.5, 0.5, 0.5)
    assert build_backbone("vit_tiny_patch16_224").mean == IMAGENET_MEAN


def test_the_mean_over_positions_is_the_pooled_vector() -> None:
    maps = (torch.randn(2, 4, 6, 6), torch.randn(2, 5, 3, 3))
    features = Features(maps)
    assert torch.equal(features.pooled(), maps[1].mean(dim=(2, 3)))
    assert features.last is maps[1]


def test_a_segmenter_over_tokens_is_saved_and_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = SegmentationNetwork(build_backbone("test_vit"), 7).eval()
    save_segmenter(tmp_path, network, num_clusters=7)
    loaded, _ = load_segmenter(tmp_path)
    batch = torch.randn(1, 3, 48, 80)
    with torch.no_grad():
        assert network(batch).shape == (1, 8, 3, 5)
        assert torch.equal(loaded(batch), network(batch))
