"""A learner's first weights: a whole pretraining of luss, or one of PASS or SwAV in the layouts that they publish."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_pass import tiny_parts
from torch import Tensor, nn

from luss.errors import LussError
from luss.methods.base import Method
from luss.methods.pass_s import PassS, PassSSettings
from luss.methods.saved import load_heads, save_heads
from luss.methods.start import Start, start_method
from luss.methods.swav import SwAV, SwAVSettings
from luss.models.build import build_backbone
from luss.models.io import save_backbone
from luss.settings import BackboneSettings, MethodSettings, PixelAttentionSettings, PretrainSettings
from luss.tasks.attention import attention_clustering

Tensors = dict[str, Tensor]
# Channels of the last and the third stage of test_resnet.
DEEP, SHALLOW = 96, 192


class Published(nn.Module):
    """The modules of PASS's own code by their names there (`shallow=[3]`), or of SwAV's, which has neither pixel heads nor a last norm."""

    def __init__(self, of: str, *, prototypes: int = 8, dim: int = 16, hidden: int = 12) -> None:
        super().__init__()
        for name, module in build_backbone("test_resnet").model.named_children():
            self.add_module(name, module)
        self.prototypes = nn.Linear(dim, prototypes, bias=False)
        self.projection_head = self.image_head(DEEP, hidden, dim, last_norm=of == "PASS")
        if of == "PASS":
            image, pixel = self.image_head(SHALLOW, hidden, dim), self.pixel_head(SHALLOW, hidden, SHALLOW)
            self.projection_head_shallow = nn.ModuleDict({"projection_head_shallow3": image})
            self.projection_head_pixel_shallow = nn.ModuleDict({"projection_head_pixel3": pixel})
            self.projection_head_pixel = self.pixel_head(DEEP, hidden, dim)
            first = nn.Conv2d(dim, dim, 1, bias=False)
            self.predictor_head_pixel = nn.Sequential(first, nn.BatchNorm2d(dim), nn.ReLU(), nn.Conv2d(dim, dim, 1))

    @staticmethod
    def image_head(inputs: int, hidden: int, dim: int, *, last_norm: bool = True) -> nn.Sequential:
        layers: list[nn.Module] = [nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, dim)]
        return nn.Sequential(*layers, *([nn.BatchNorm1d(dim, affine=False)] if last_norm else []))

    @staticmethod
    def pixel_head(inputs: int, hidden: int, dim: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for size, following in ((inputs, hidden), (hidden, hidden)):
            layers += [nn.Conv2d(size, following, 1, bias=False), nn.BatchNorm2d(following), nn.ReLU()]
        return nn.Sequential(*layers, nn.Conv2d(hidden, dim, 1, bias=False), nn.BatchNorm2d(dim, affine=False))


def published(of: str, **sizes: int) -> nn.Module:
    """Its numbers all differ, statistics of norms too; wrapped as their training wraps it."""
    torch.manual_seed(3)
    network = nn.Module()
    network.module = Published(of, **sizes)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(0.1 * torch.rand_like(tensor))
    return network


def checkpoint(path: Path, network: nn.Module, change: Callable[[Tensors], object] = lambda state: None) -> Path:
    state = dict(network.state_dict())
    change(state)
    torch.save({"epoch": 200, "arch": "resnet", "state_dict": state, "optimizer": {"lr": 0.6}, "amp": {}}, path)
    return path


def settings(path: Path | str, method: type[MethodSettings] = PassSSettings, **clustering: Any) -> PretrainSettings:
    own: dict[str, Any] = {"grid_size": 3} if method is PassSSettings else {}
    block = method(**own, **tiny_parts(clustering=clustering))
    network = BackboneSettings(name="test_resnet")
    return PretrainSettings(epochs=0, batch_size=4, backbone=network, method=block, weights=str(path))


def kept(folder: Path, start: Start) -> Path:
    """As the stage leaves it after no step."""
    method = start.method
    save_heads(folder, method, method.prototypes() if start.clustering else None)
    save_backbone(folder, method.backbone, method.backbone.export())
    return folder


# Where PASS's modules are here.
PLACES = {
    "clustering.projector": "projection_head",
    "clustering.prototypes": "prototypes",
    "pixel_projector": "projection_head_pixel",
    "pixel_predictor": "predictor_head_pixel",
    "shallow.3.image": "projection_head_shallow.projection_head_shallow3",
    "shallow.3.pixel": "projection_head_pixel_shallow.projection_head_pixel3",
}


def test_a_checkpoint_of_pass_gives_every_head_to_the_bit(tmp_path: Path) -> None:
    source = published("PASS")
    start = start_method(settings(checkpoint(tmp_path / "checkpoint.pth.tar", source)))
    for here, there in PLACES.items():
        expected = source.get_submodule(f"module.{there}").state_dict()
        found = start.method.get_submodule(here).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items()), here
    own = {name: tensor for name, tensor in source.state_dict().items() if name.startswith("module.layer2")}
    assert own
    assert all(torch.equal(start.method.backbone.export()[name[7:]], tensor) for name, tensor in own.items())
    assert (start.problems, start.clustering, start.record["left_out"]) == ([], True, [])
    assert start.notes[0].startswith(f"{tmp_path / 'checkpoint.pth.tar'}: took the backbone and ")
    assert start.record["heads"]["missing"] == []


@pytest.mark.parametrize("of", ["PASS", "SwAV"])
def test_the_given_network_computes_what_the_published_one_does(tmp_path: Path, of: str) -> None:
    source = published(of).eval()
    found = settings(checkpoint(tmp_path / "w.pth", source), SwAVSettings, projector_norm=of == "PASS")
    method = start_method(found).method.eval()
    assert isinstance(method, SwAV)
    images = torch.randn(3, 3, 64, 64)
    maps = images
    for name in ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3", "layer4"):
        maps = source.get_submodule(f"module.{name}")(maps)
    embeddings = nn.functional.normalize(source.get_submodule("module.projection_head")(maps.mean(dim=(2, 3))))
    expected = source.get_submodule("module.prototypes")(embeddings)
    own = method.clustering
    scores = own.score(own.embed(method.backbone(images).pooled()))
    torch.testing.assert_close(scores, expected)


def test_the_pixel_attention_starts_from_the_given_prototypes_to_the_bit(tmp_path: Path) -> None:
    source = published("PASS")
    weight = source.get_parameter("module.prototypes.weight").detach()
    weight.copy_(nn.functional.normalize(weight))
    start = start_method(settings(checkpoint(tmp_path / "w.pth", source), temperature=0.2))
    head = load_heads(kept(tmp_path / "pretrain", start))
    assert head is not None
    assert head.settings.temperature == 0.2
    found = attention_clustering(head.settings, PixelAttentionSettings(batch_size=4), DEEP, head.state)
    assert torch.equal(found.prototypes.weight, weight)
    expected = source.get_submodule("module.projection_head").state_dict()
    assert all(torch.equal(found.projector.state_dict()[name], tensor) for name, tensor in expected.items())


def test_swavs_projector_has_no_last_norm_which_is_said_with_the_setting(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "swav.pth", published("SwAV"))
    with pytest.raises(
        LussError, match=r"ends without batch norm.*set pretrain\.method\.clustering\.projector_norm=false"
    ):
        start_method(settings(path, SwAVSettings))
    start = start_method(settings(path, SwAVSettings, projector_norm=False))
    assert (start.problems, start.clustering) == ([], True)
    with pytest.raises(LussError, match=r"ends with a batch norm.*projector_norm=true"):
        start_method(settings(checkpoint(tmp_path / "w.pth", published("PASS")), projector_norm=False))


def test_what_swav_lacks_of_pass_is_said_by_name(tmp_path: Path) -> None:
    start = start_method(settings(checkpoint(tmp_path / "swav.pth", published("SwAV")), projector_norm=False))
    (problem,) = start.problems
    assert "lacks" in problem
    assert "pixel_projector.0.weight" in problem
    assert start.clustering


def test_heads_of_another_width_are_refused_with_the_sizes_to_type(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "w.pth", published("PASS", prototypes=9, dim=20, hidden=24))
    with pytest.raises(
        LussError, match=r"heads of other sizes than pretrain\.method: .*clustering\.projector\.0\.weight"
    ) as caught:
        start_method(settings(path))
    words = [f"pretrain.method.clustering.{word}" for word in ("num_prototypes=9", "embedding_dim=20", "hidden_dim=24")]
    assert all(word in str(caught.value) for word in (*words, f"pretrain.backbone.weights={path}"))
    sizes = {"num_prototypes": 9, "embedding_dim": 20, "hidden_dim": 24}
    assert start_method(settings(path, **sizes)).problems == []


def test_without_prototypes_there_is_no_trained_clustering_head(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "w.pth", published("PASS"), lambda state: state.pop("module.prototypes.weight"))
    start = start_method(settings(path))
    lacks, untrained = start.problems
    assert "lacks 1 tensors (clustering.prototypes.weight): kept random" in lacks
    assert "no trained clustering head" in untrained
    assert load_heads(kept(tmp_path / "pretrain", start)) is None


def test_a_backbone_without_heads_is_no_whole_pretraining(tmp_path: Path) -> None:
    torch.save(build_backbone("test_resnet").export(), tmp_path / "w.pth")
    with pytest.raises(
        LussError, match=r"holds no heads of PassS: pretrain\.backbone\.weights=.*w\.pth takes its backbone"
    ):
        start_method(settings(tmp_path / "w.pth"))


def test_weights_of_heads_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    path = checkpoint(
        tmp_path / "w.pth", published("PASS"), lambda state: state["module.prototypes.weight"].fill_(torch.nan)
    )
    with pytest.raises(LussError, match=r"no numbers \(NaN\) in 1 tensors \(clustering\.prototypes\.weight\)"):
        start_method(settings(path))


def trained(folder: Path, *, steps: int = 3) -> Method:
    """A pretraining of luss, in the folder of a run; `steps` = 0: its prototypes never trained."""
    torch.manual_seed(4)
    start = start_method(settings(""))
    method = start.method
    assert isinstance(method, PassS)
    method.clustering.queue_filled.fill_(7)
    method.backbone.set_normalisation((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    save_heads(folder / "pretrain", method, method.prototypes() if steps else None)
    save_backbone(folder / "pretrain", method.backbone, method.backbone.export())
    return method


@pytest.mark.parametrize("word", ["", "pretrain", "pretrain/backbone.safetensors", "pretrain/method.safetensors"])
def test_a_run_of_luss_gives_all_of_its_pretraining_but_the_queue(tmp_path: Path, word: str) -> None:
    source = trained(tmp_path).state_dict()
    start = start_method(settings(tmp_path / word))
    found = start.method.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in source.items() if "queue" not in name)
    assert int(found["clustering.queue_filled"]) == 0
    assert start.method.backbone.mean == (0.1, 0.2, 0.3)
    assert (start.problems, start.clustering) == ([], True)


def test_prototypes_of_a_run_that_never_trained_them_do_not_count(tmp_path: Path) -> None:
    trained(tmp_path, steps=0)
    start = start_method(settings(tmp_path))
    assert not start.clustering
    assert "no trained clustering head" in start.problems[0]


def test_what_the_given_run_had_set_otherwise_is_said(tmp_path: Path) -> None:
    trained(tmp_path)
    temperature, draw = start_method(settings(tmp_path, temperature=0.3, draw_prototypes_steps=9)).problems
    assert "clustering.temperature=0.1, this run has 0.3" in temperature
    assert "draw_prototypes_steps replaces the given prototypes" in draw


def test_a_run_over_another_network_is_refused_by_its_name(tmp_path: Path) -> None:
    trained(tmp_path)
    other = replace(settings(tmp_path), backbone=BackboneSettings(name="resnet18"))
    with pytest.raises(LussError, match=r"a pretraining of 'test_resnet': set pretrain\.backbone\.name=test_resnet"):
        start_method(other)


@pytest.mark.parametrize(
    ("word", "said"),
    [("nowhere", "does not exist"), ("run", r"is no finished pretraining: .*lacks backbone\.safetensors and method")],
)
def test_a_pretraining_that_is_not_there_is_named(tmp_path: Path, word: str, said: str) -> None:
    (tmp_path / "run" / "pretrain").mkdir(parents=True)
    with pytest.raises(LussError, match=said):
        start_method(settings(tmp_path / word))


def backbone_alone(path: Path, **clustering: Any) -> Start:
    whole = settings("", **clustering)
    return start_method(replace(whole, backbone=BackboneSettings(name="test_resnet", weights=str(path))))


def test_a_backbone_alone_says_that_its_heads_fit_and_what_to_type(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "w.pth", published("PASS"))
    start = backbone_alone(path)
    assert not start.clustering
    assert any(
        "comes with heads that fit PassS" in note and f"pretrain.weights={path} " in note for note in start.notes
    )
    trained(tmp_path)
    assert any("heads that fit" in note for note in backbone_alone(tmp_path / "pretrain/backbone.safetensors").notes)
    for other in (backbone_alone(path, num_prototypes=9), backbone_alone(checkpoint(path, published("SwAV")))):
        assert not any("heads that fit" in note for note in other.notes)


def test_the_backbone_comes_from_one_place() -> None:
    both = PretrainSettings(weights="outputs/a", backbone=BackboneSettings(weights="w.pth"))
    assert "weights and backbone.weights are both set" in both.problems()[0]
