"""Networks as files, other people's weights, and files that are not what they should be."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from luss.errors import LussError
from luss.models.backbone import Backbone
from luss.models.build import build_backbone, create_timm
from luss.models.io import (
    decoding_settings,
    load_backbone,
    load_segmenter,
    load_tensors,
    save_backbone,
    save_segmenter,
    save_tensors,
)
from luss.models.segmenter import SegmentationNetwork
from luss.settings import PredictSettings


def backbone(seed: int = 0, output_stride: int = 32, *, name: str = "test_resnet") -> Backbone:
    torch.manual_seed(seed)
    return build_backbone(name, output_stride=output_stride)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# Families whose modules have other names, other norms and other stems than a ResNet's.
@pytest.mark.parametrize(
    ("name", "num_channels"),
    [("test_resnet", 96), ("test_efficientnet", 64), ("test_convnext", 64), ("test_nfnet", 192)],
)
def test_feature_maps_have_the_channels_and_strides_that_are_told(name: str, num_channels: int) -> None:
    network = backbone(name=name)
    maps = network(torch.randn(2, 3, 64, 96)).maps
    assert [tuple(m.shape) for m in maps] == [
        (2, channels, 64 // stride, 96 // stride)
        for channels, stride in zip(network.channels, network.strides, strict=True)
    ]
    assert network.num_channels == network.channels[-1] == num_channels
    assert network.strides == (4, 8, 16, 32)


@pytest.mark.parametrize(
    ("name", "behind"),
    [
        ("test_resnet", set()),
        ("test_efficientnet", {"conv_head.weight", "bn2.weight", "bn2.bias"}),
        ("test_convnext", {"head.norm.weight", "head.norm.bias"}),
    ],
)
def test_layers_behind_the_last_feature_map_are_kept_but_do_not_train(name: str, behind: set[str]) -> None:
    network = backbone(name=name)
    assert {name for name, parameter in network.model.named_parameters() if not parameter.requires_grad} == behind
    assert network.export().keys() == create_timm(name).state_dict().keys() >= behind


@pytest.mark.parametrize("output_stride", [8, 16])
def test_a_smaller_output_stride_keeps_the_weights_and_enlarges_the_last_map(output_stride: int) -> None:
    network = backbone(output_stride=output_stride)
    network.load(backbone(seed=1).export())
    assert network(torch.randn(1, 3, 64, 64)).last.shape[-1] == 64 // output_stride
    assert network.strides[-1] == output_stride


def test_an_unknown_network_is_an_error_that_names_near_ones() -> None:
    with pytest.raises(LussError, match=r"'resnet81'.*did you mean.*resnet18"):
        build_backbone("resnet81")
    with pytest.raises(LussError, match="no model 'zzzzzzzz'"):
        build_backbone("zzzzzzzz")


def test_an_impossible_stride_is_an_error_that_says_what_works() -> None:
    with pytest.raises(LussError, match=r"output_stride 5.*use 32"):
        create_timm("test_resnet", output_stride=5)


def test_a_saved_backbone_comes_back_with_its_stride_and_bits(tmp_path: Path) -> None:
    saved = backbone(output_stride=16)
    save_backbone(tmp_path, saved, saved.export(), epochs=3)
    loaded = load_backbone(tmp_path)
    assert (loaded.name, loaded.output_stride) == ("test_resnet", 16)
    assert same(loaded.export(), saved.export())
    assert load_backbone(tmp_path, output_stride=32).output_stride == 32
    description = json.loads((tmp_path / "backbone.json").read_text())
    assert description["mean"] == list(saved.mean)
    assert description["epochs"] == 3


def test_a_saved_segmenter_comes_back_in_eval_mode_with_equal_logits(tmp_path: Path) -> None:
    network = SegmentationNetwork(backbone(), 5).eval()
    save_segmenter(tmp_path, network, num_clusters=5, palette="any")
    loaded, description = load_segmenter(tmp_path)
    assert not loaded.training
    assert description["palette"] == "any"
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(images), network(images))


def test_the_normalisation_of_a_model_comes_back_with_it(tmp_path: Path) -> None:
    own = backbone()
    own.mean, own.std = (0.5, 0.4, 0.3), (0.2, 0.2, 0.2)
    save_segmenter(tmp_path / "model", SegmentationNetwork(own, 5), num_clusters=5)
    save_backbone(tmp_path / "backbone", own, own.export())
    for loaded in (load_segmenter(tmp_path / "model")[0].backbone, load_backbone(tmp_path / "backbone")):
        assert (loaded.mean, loaded.std) == (own.mean, own.std)


def test_a_model_says_how_its_logits_become_labels(tmp_path: Path) -> None:
    settings = PredictSettings(short_side=48, total_foreground=True, image_weight=0.5, max_pixels=7, batch_size=99)
    save_segmenter(tmp_path, SegmentationNetwork(backbone(), 5), num_clusters=5, decoding=settings)
    _, description = load_segmenter(tmp_path)
    found = decoding_settings(description, source=tmp_path / "config.json")
    # Where and how fast does not belong to the model.
    assert found == dataclasses.replace(settings, batch_size=PredictSettings().batch_size)


def test_without_settings_in_the_model_the_usual_ones_count(tmp_path: Path) -> None:
    _, description = load_segmenter(saved_segmenter(tmp_path))
    assert decoding_settings(description, source=tmp_path / "config.json") == PredictSettings()


@pytest.mark.parametrize(
    "decoding",
    [
        {"short_side": "big"},
        {"short_side": 0},
        {"total_foreground": 1},
        {"max_aspect": 0.5},
        {"short_side": 10**6},
        {"max_aspect": float("inf")},
        [32],
    ],
)
def test_wrong_settings_in_a_model_are_an_error(tmp_path: Path, decoding: Any) -> None:
    edit(saved_segmenter(tmp_path) / "config.json", decoding=decoding)
    with pytest.raises(LussError, match=r"config\.json has a wrong entry .*decoding"):
        decoding_settings(load_segmenter(tmp_path)[1], source=tmp_path / "config.json")


def test_exchanged_weights_are_refused(tmp_path: Path) -> None:
    folder, other = saved_segmenter(tmp_path / "a"), saved_segmenter(tmp_path / "b")
    torch.manual_seed(3)
    save_segmenter(other, SegmentationNetwork(backbone(seed=3), 5), num_clusters=5)
    shutil.copy(other / "model.safetensors", folder)
    with pytest.raises(LussError, match=r"model\.safetensors is not the file that .*config\.json was written for"):
        load_segmenter(folder)


def test_one_changed_bit_of_the_weights_is_found(tmp_path: Path) -> None:
    path = saved_segmenter(tmp_path) / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(LussError, match="sha256 differs"):
        load_segmenter(tmp_path)


def test_a_model_of_format_1_has_no_digest_and_still_loads(tmp_path: Path) -> None:
    edit(saved_segmenter(tmp_path) / "config.json", format=1, sha256=None)
    assert load_segmenter(tmp_path)[1]["num_clusters"] == 5


def test_a_model_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    edit(saved_segmenter(tmp_path) / "config.json", format=3)
    with pytest.raises(LussError, match=r"has format 3, this luss reads 1 and 2"):
        load_segmenter(tmp_path)


def saved_segmenter(folder: Path) -> Path:
    save_segmenter(folder, SegmentationNetwork(backbone(), 5), num_clusters=5)
    return folder


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in {**content, **changes}.items() if value is not None}))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (saved_segmenter(tmp_path) / name).unlink()
    with pytest.raises(LussError, match=f"{name} does not exist"):
        load_segmenter(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_clusters": None}, "config.json lacks 'num_clusters'"),
        ({"num_clusters": "many"}, "config.json has a wrong entry"),
        ({"output_stride": [32]}, "config.json has a wrong entry"),
        ({"num_clusters": 6}, "model.safetensors does not fit its config.json"),
        ({"name": "resnet18"}, "do not fit the backbone 'resnet18'"),
        ({"name": "resnet81"}, "no model 'resnet81'"),
        ({"mean": [0.5]}, "config.json has a wrong entry .mean"),
        ({"std": [1, 0, 1]}, "config.json has a wrong entry .std"),
        ({"num_clusters": 10**12}, "1000000000000 clusters, and a head of the shape"),
        ({"output_stride": float("inf")}, "config.json has a wrong entry"),
    ],
)
def test_an_edited_description_is_an_error(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    edit(saved_segmenter(tmp_path) / "config.json", **changes)
    with pytest.raises(LussError, match=message):
        load_segmenter(tmp_path)


def test_a_backbone_description_without_a_name_is_an_error(tmp_path: Path) -> None:
    save_backbone(tmp_path, backbone(), backbone().export())
    edit(tmp_path / "backbone.json", name=None)
    with pytest.raises(LussError, match=r"backbone\.json lacks 'name'"):
        load_backbone(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x10\0\0\0\0\0\0\0{}", b"\xff" * 100])
def test_a_damaged_tensor_file_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(LussError, match=r"model\.safetensors is damaged.*--force"):
        load_tensors(path)


def test_a_truncated_tensor_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_tensors(path, {"a": torch.randn(100)})
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(LussError, match="is damaged"):
        load_tensors(path)
