"""Networks as files, other people's weights, and files that are not what they should be."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from luss.errors import LussError
from luss.models.backbone import Backbone, create_timm, initialise, read_weights
from luss.models.io import load_backbone, load_segmenter, load_tensors, save_backbone, save_segmenter, save_tensors
from luss.models.segmenter import SegmentationNetwork


def backbone(seed: int = 0, output_stride: int = 32) -> Backbone:
    torch.manual_seed(seed)
    return Backbone("test_resnet", output_stride=output_stride)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_feature_maps_have_the_channels_and_strides_that_are_told() -> None:
    network = backbone()
    maps = network(torch.randn(2, 3, 64, 96))
    assert [tuple(m.shape) for m in maps] == [
        (2, channels, 64 // stride, 96 // stride)
        for channels, stride in zip(network.channels, network.strides, strict=True)
    ]
    assert network.num_channels == network.channels[-1] == 96
    assert network.strides == (4, 8, 16, 32)


@pytest.mark.parametrize("output_stride", [8, 16])
def test_a_smaller_output_stride_keeps_the_weights_and_enlarges_the_last_map(output_stride: int) -> None:
    network = backbone(output_stride=output_stride)
    network.load(backbone(seed=1).export())
    assert network(torch.randn(1, 3, 64, 64))[-1].shape[-1] == 64 // output_stride
    assert network.strides[-1] == output_stride


def test_an_unknown_network_is_an_error_that_names_near_ones() -> None:
    with pytest.raises(LussError, match=r"'resnet81'.*did you mean.*resnet18"):
        Backbone("resnet81")
    with pytest.raises(LussError, match="no model 'zzzzzzzz'"):
        Backbone("zzzzzzzz")


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


@pytest.mark.parametrize(
    "prefix", ["", "module.", "backbone.", "module.backbone.", "backbone.model.", "module.encoder_q."]
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_wrapped_weights_of_other_people_load(tmp_path: Path, prefix: str, suffix: str) -> None:
    source = backbone(seed=1).export()
    wrapped = {prefix + name: tensor for name, tensor in source.items()}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": wrapped, "epoch": 3}, path)
    else:
        save_tensors(path, wrapped)
    target = backbone()
    assert initialise(target, str(path)) == []
    assert same(target.export(), source)


def test_what_a_weights_file_lacks_is_listed_and_left_as_it_was(tmp_path: Path) -> None:
    source, target = backbone(seed=1).export(), backbone()
    before = target.export()["conv1.0.weight"].clone()
    given = {f"module.backbone.{name}": tensor for name, tensor in source.items() if name != "conv1.0.weight"}
    given["module.backbone.bn1.weight"] = torch.ones(7)
    given["module.prototypes.weight"] = torch.ones(3, 3)
    torch.save(given, tmp_path / "weights.pth")
    assert initialise(target, str(tmp_path / "weights.pth")) == ["conv1.0.weight", "bn1.weight"]
    assert torch.equal(target.export()["conv1.0.weight"], before)
    assert torch.equal(target.export()["layer1.0.conv1.weight"], source["layer1.0.conv1.weight"])


def test_weights_of_another_network_are_refused_and_change_nothing(tmp_path: Path) -> None:
    torch.save({f"blocks.{i}.weight": torch.ones(3) for i in range(300)}, tmp_path / "vit.pth")
    target = backbone()
    before = {name: tensor.clone() for name, tensor in target.export().items()}
    with pytest.raises(LussError, match=r"vit\.pth does not fit the backbone 'test_resnet': 0 of .* missing are conv1"):
        initialise(target, str(tmp_path / "vit.pth"))
    assert same(target.export(), before)


def test_random_weights_are_left_as_built() -> None:
    target = backbone()
    assert initialise(target, "random") == []
    assert same(target.export(), backbone().export())


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_bomb_is_refused_and_does_not_go_off(tmp_path: Path, legacy: bool) -> None:
    path, crater = tmp_path / "weights.pth", tmp_path / "crater"
    if legacy:
        path.write_bytes(pickle.dumps({"state_dict": {"a": torch.ones(1)}, "bomb": Bomb(crater)}))
    else:
        torch.save({"state_dict": {"a": torch.ones(1)}, "bomb": Bomb(crater)}, path)
    with pytest.raises(LussError, match=r"weights\.pth cannot be read as weights"):
        read_weights(path)
    assert not crater.exists()
    with open(path, "rb") as file:
        torch.load(file, weights_only=False) if not legacy else pickle.load(file)
    assert crater.exists(), "the bomb of this test is a dud"


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 not a zip"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_holds_no_weights_is_an_error(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(LussError, match="cannot be read as weights"):
        read_weights(path)


@pytest.mark.parametrize("content", [{}, [1, 2], {"epoch": 3}, torch.ones(2)])
def test_a_checkpoint_without_named_tensors_is_an_error(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(LussError, match="holds no tensors by name"):
        read_weights(tmp_path / "weights.pth")


def test_a_weights_file_that_is_absent_is_named(tmp_path: Path) -> None:
    with pytest.raises(LussError, match=r"nowhere\.pth does not exist"):
        initialise(backbone(), str(tmp_path / "nowhere.pth"))
