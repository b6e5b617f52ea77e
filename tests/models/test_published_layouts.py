"""Files as their publishers' own classes write them: the network that takes one computes what the class does."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from luss.errors import LussError
from luss.models.backbone import Backbone
from luss.models.build import build_backbone
from luss.models.io import save_tensors
from luss.models.weights import initialise

Net = nn.Module


def theirs(name: str) -> Net:
    """A network of torchvision; its norms have seen images, so that their statistics matter."""
    import torchvision

    torch.manual_seed(1)
    options = {"init_weights": False, "transform_input": False} if name == "inception_v3" else {}
    network: Net = torchvision.models.get_model(name, **options).eval()
    return shaken(network)


def shaken(network: Net) -> Net:
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.copy_(tensor + 0.2 * torch.rand_like(tensor) if "var" in name or "weight" in name else tensor)
    return network


def compare(ours: Backbone, expected: Tensor, images: Tensor) -> None:
    with torch.no_grad():
        found = ours.eval()(images).last
    assert found.std() > 0
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


# torchvision's name, timm's, and torchvision's way to the last map.
FAMILIES: dict[str, tuple[str, Callable[[Net], Callable[[Tensor], Tensor]]]] = {
    "mobilenet_v2": ("mobilenetv2_100", lambda net: net.features[:-1]),
    "mobilenet_v3_small": ("mobilenetv3_small_100", lambda net: net.features),
    "efficientnet_b0": ("efficientnet_b0", lambda net: net.features[:-1]),
    "convnext_tiny": ("convnext_tiny", lambda net: net.features),
    "regnet_y_400mf": ("regnety_004", lambda net: nn.Sequential(net.stem, net.trunk_output)),
    "regnet_x_400mf": ("regnetx_004_tv", lambda net: nn.Sequential(net.stem, net.trunk_output)),
}


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "regnet_y_400mf"])
def test_a_file_of_torchvision_gives_the_features_of_torchvisions_network(tmp_path: Path, name: str) -> None:
    source, path = theirs(name), tmp_path / "w.pth"
    torch.save(source.state_dict(), path)
    target, images = build_backbone(FAMILIES[name][0]), torch.randn(1, 3, 64, 64)
    assert initialise(target, str(path)).problems() == []
    with torch.no_grad():
        expected = FAMILIES[name][1](source)(images)
    compare(target, expected, images)


@pytest.mark.parametrize("name", ["densenet121", "vgg11_bn", "inception_v3", "wide_resnet50_2"])
def test_other_families_of_torchvision_have_timms_names(name: str) -> None:
    with torch.device("meta"):
        own = build_backbone(name)
        given = theirs(name).state_dict()
    read = {key for key, parameter in own.model.named_parameters() if parameter.requires_grad}
    assert {key: given[key].shape for key in read} == {key: own.model.get_parameter(key).shape for key in read}


@pytest.mark.parametrize(
    ("name", "wrapped"),
    [("mobilenet_v3_small", ""), ("mobilenet_v3_small", "module.model."), ("regnet_y_400mf", "module.")],
)
def test_torchvisions_names_are_found_under_a_prefix_and_in_any_order(tmp_path: Path, name: str, wrapped: str) -> None:
    given = theirs(name).state_dict()
    # safetensors keeps no order of names, and old files have no counters.
    kept = {wrapped + key: value for key, value in given.items() if "num_batches" not in key}
    save_tensors(tmp_path / "w.safetensors", kept)
    torch.save(given, tmp_path / "w.pth")
    one, other = build_backbone(FAMILIES[name][0]), build_backbone(FAMILIES[name][0])
    loaded = initialise(one, str(tmp_path / "w.safetensors"))
    initialise(other, str(tmp_path / "w.pth"))
    assert all(torch.equal(tensor, other.export()[key]) for key, tensor in one.export().items())
    assert loaded.problems() == []
    assert any("classifier.3" in key or "fc." in key for key in loaded.unused)


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("swin_t", "swin_tiny_patch4_window7_224"),
        ("regnet_x_400mf", "regnetx_004"),
        ("mobilenet_v2", "mobilenetv2_140"),
    ],
)
def test_networks_of_torchvision_that_do_not_fit_are_refused_with_those_that_are_taken(
    tmp_path: Path, name: str, own: str
) -> None:
    torch.save(theirs(name).state_dict(), tmp_path / "w.pth")
    said = rf"does not fit .*{own}.*of torchvision's files those of ResNet, .* are taken .*_tv"
    with pytest.raises(LussError, match=said):
        initialise(build_backbone(own), str(tmp_path / "w.pth"))


class Block(nn.Module):
    """A block of a transformer under the names of DINO and DINOv2; the latter scales its branches."""

    def __init__(self, dim: int, hidden: int, heads: int, *, scaled: bool) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(dim, 3 * dim), "proj": nn.Linear(dim, dim)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim, hidden), "fc2": nn.Linear(hidden, dim)})
        for name in ("ls1", "ls2") if scaled else ():
            self.add_module(name, nn.ParameterDict({"gamma": torch.rand(dim)}))

    def forward(self, tokens: Tensor) -> Tensor:
        batch, length, dim = tokens.shape
        parts = self.attn["qkv"](self.norm1(tokens)).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = (parts[0] @ parts[1].transpose(-2, -1) * (dim // self.heads) ** -0.5).softmax(dim=-1)
        attended = self.attn["proj"]((weights @ parts[2]).transpose(1, 2).reshape(tokens.shape))
        tokens = tokens + attended * (self.ls1["gamma"] if hasattr(self, "ls1") else 1)
        grown = self.mlp["fc2"](nn.functional.gelu(self.mlp["fc1"](self.norm2(tokens))))
        return tokens + grown * (self.ls2["gamma"] if hasattr(self, "ls2") else 1)


class Transformer(nn.Module):
    """A vision transformer under the names of DINO, and with registers under those of DINOv2: positions hold the class token's."""

    def __init__(
        self, dim: int, hidden: int, depth: int, heads: int, patch: int, grid: int, *, registers: int = 0
    ) -> None:
        super().__init__()
        self.cls_token, self.pos_embed = (nn.Parameter(torch.randn(1, n, dim)) for n in (1, 1 + grid**2))
        if registers:
            self.register_tokens = nn.Parameter(torch.randn(1, registers, dim))
            self.mask_token = nn.Parameter(torch.zeros(1, dim))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, dim, patch, patch)})
        self.blocks = nn.ModuleList(Block(dim, hidden, heads, scaled=registers > 0) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.patch_embed["proj"](images)
        tokens = torch.cat([self.cls_token, maps.flatten(2).transpose(1, 2)], dim=1) + self.pos_embed
        extra = self.register_tokens if hasattr(self, "register_tokens") else tokens[:, :0]
        tokens = torch.cat([tokens[:, :1], extra, tokens[:, 1:]], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        patches: Tensor = self.norm(tokens)[:, 1 + extra.shape[1] :]
        return patches.transpose(1, 2).reshape(maps.shape)


def test_a_checkpoint_of_dino_gives_the_features_of_its_own_class(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source, images = Transformer(64, 192, 6, 2, 16, 10), torch.randn(1, 3, 160, 160)
    state = {f"backbone.{name}": tensor for name, tensor in source.state_dict().items()}
    students = {f"module.{name}": tensor * 2 for name, tensor in state.items()}
    torch.save({"student": students, "teacher": {**state, "head.mlp.0.weight": torch.ones(4, 64)}}, tmp_path / "w.pth")
    target = build_backbone("test_vit")
    assert initialise(target, str(tmp_path / "w.pth")).problems() == []
    with torch.no_grad():
        compare(target, source(images), images)


@pytest.mark.slow
def test_a_checkpoint_of_dinov2_gives_the_features_of_its_own_class(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source, images = Transformer(384, 1536, 12, 6, 14, 37, registers=4), torch.randn(1, 3, 518, 518)
    torch.save(source.state_dict(), tmp_path / "released.pth")
    target = build_backbone("vit_small_patch14_reg4_dinov2")
    assert initialise(target, str(tmp_path / "released.pth")).problems() == []
    with torch.no_grad():
        compare(target, source(images), images)


def test_blocks_that_come_in_chunks_are_counted_through(tmp_path: Path) -> None:
    source, target = Transformer(64, 192, 6, 2, 16, 10).state_dict(), build_backbone("test_vit")
    chunks = {
        re.sub(r"^blocks\.(\d)", lambda found: f"blocks.{int(found[1]) // 3}.{found[1]}", name): tensor
        for name, tensor in source.items()
    }
    torch.save({"teacher": {f"backbone.{name}": tensor for name, tensor in chunks.items()}}, tmp_path / "training.pth")
    assert initialise(target, str(tmp_path / "training.pth")).problems() == []
    assert all(torch.equal(tensor, target.export()[name]) for name, tensor in source.items())


def dinov3(own: dict[str, Tensor], bias: float) -> Iterator[tuple[str, Tensor]]:
    """A checkpoint of DINOv3 under its authors' names, made of timm's: scales, registers, and biases whose keys are masked."""
    for name, tensor in own.items():
        for mine, their in (("gamma_1", "ls1.gamma"), ("gamma_2", "ls2.gamma"), ("reg_token", "storage_tokens")):
            name = name.replace(mine, their)
        yield name, tensor
        if name.endswith("qkv.weight"):
            biases = torch.full((len(tensor),), bias)
            yield name.replace("weight", "bias"), biases
            yield name.replace("weight", "bias_mask"), torch.full_like(biases, torch.nan)
    yield "mask_token", torch.zeros(1, 384)
    yield "rope_embed.periods", torch.ones(16)


@pytest.mark.slow
def test_dinov3s_own_names_are_understood_and_biases_are_not_lost(tmp_path: Path) -> None:
    torch.manual_seed(1)
    target = build_backbone("vit_small_patch16_dinov3")
    own = {name: torch.randn_like(tensor) for name, tensor in target.export().items()}
    torch.save(dict(dinov3(own, 0.0)), tmp_path / "w.pth")
    assert initialise(target, str(tmp_path / "w.pth")).problems() == []
    assert all(torch.equal(tensor, target.export()[key]) for key, tensor in own.items())
    torch.save(dict(dinov3(own, 0.5)), tmp_path / "biased.pth")
    with pytest.raises(LussError, match=r"has biases of queries and values .*vit_small_patch16_dinov3_qkvb"):
        initialise(target, str(tmp_path / "biased.pth"))
    with_biases = build_backbone("vit_small_patch16_dinov3_qkvb")
    initialise(with_biases, str(tmp_path / "biased.pth"))
    assert float(with_biases.export()["blocks.3.attn.q_bias"].mean()) == 0.5


def test_torchvisions_vision_transformer_is_the_same_here(tmp_path: Path) -> None:
    from torchvision.models import VisionTransformer

    torch.manual_seed(1)
    source = shaken(VisionTransformer(160, 16, num_layers=6, num_heads=2, hidden_dim=64, mlp_dim=192).eval())
    torch.save({f"module.{name}": tensor for name, tensor in source.state_dict().items()}, tmp_path / "w.pth")
    target, images = build_backbone("test_vit"), torch.randn(1, 3, 160, 160)
    assert initialise(target, str(tmp_path / "w.pth")).problems() == []
    with torch.no_grad():
        tokens = source.encoder(torch.cat([source.class_token, source._process_input(images)], dim=1))
        compare(target, tokens[:, 1:].transpose(1, 2).reshape(1, -1, 10, 10), images)


def of_authors(name: str) -> str:
    """A name of timm's ConvNeXt as its authors have it."""
    if "downsample." in name:
        return name.replace("stages.", "downsample_layers.").replace("downsample.", "")
    pairs = (
        ("stem.", "downsample_layers.0."),
        (".blocks.", "."),
        ("conv_dw", "dwconv"),
        ("mlp.fc", "pwconv"),
        ("head.norm", "norm"),
    )
    for mine, their in pairs:
        name = name.replace(mine, their)
    return name


def test_convnexts_own_names_are_understood_and_of_two_networks_the_teacher_is_taken(tmp_path: Path) -> None:
    source, target = build_backbone("test_convnext").export(), build_backbone("test_convnext")
    given = {of_authors(name): tensor for name, tensor in source.items()}
    torch.save({"model": given}, tmp_path / "released.pth")
    students = {f"student.backbone.{name}": tensor * 2 for name, tensor in given.items()}
    torch.save(
        {"model": students | {f"teacher.backbone.{name}": t for name, t in given.items()}}, tmp_path / "training.pth"
    )
    for path in (tmp_path / "released.pth", tmp_path / "training.pth"):
        assert initialise(target, str(path)).problems() == []
        assert all(torch.equal(tensor, target.export()[key]) for key, tensor in source.items())
