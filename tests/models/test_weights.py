"""First weights: timm's, or other people's files in whatever they wrap them, without running code from a file."""

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from luss.errors import LussError
from luss.models import weights
from luss.models.backbone import Backbone
from luss.models.build import build_backbone, create_timm
from luss.models.io import load_backbone, save_backbone, save_tensors
from luss.models.weight_files import read_weights
from luss.models.weights import initialise

Tensors = dict[str, Tensor]


def backbone(seed: int = 0, name: str = "test_resnet") -> Backbone:
    torch.manual_seed(seed)
    return build_backbone(name)


def under(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def same(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def doubled(tensors: Tensors) -> Tensors:
    return {name: tensor * 2 for name, tensor in tensors.items()}


HEAD = {"projection_head.0.weight": torch.ones(4, 96), "prototypes.weight": torch.ones(9, 4)}

# What each project writes, given the backbone's tensors.
LAYOUTS: dict[str, Any] = {
    "plain": lambda own: own,
    "torchvision": lambda own: {**own, "fc.weight": torch.ones(9, 96), "fc.bias": torch.ones(9)},
    "SwAV, release": lambda own: under("module.", {**own, **HEAD}),
    "SwAV, checkpoint": lambda own: {
        "epoch": 7,
        "state_dict": under("module.", {**own, **HEAD}),
        "amp": {"scale": 2.0},
    },
    "PASS": lambda own: {
        "epoch": 7,
        "arch": "resnet18",
        "state_dict": under("module.", {**own, **HEAD, "predictor_head_pixel.0.weight": torch.ones(4, 4, 1, 1)}),
    },
    "MoCo": lambda own: {
        "epoch": 7,
        "state_dict": {
            **under("module.encoder_k.", doubled(own)),
            **under("module.encoder_q.", {**own, "fc.0.weight": torch.ones(9, 96)}),
            "module.queue": torch.ones(4, 8),
        },
    },
    "MoCo v3": lambda own: {
        "state_dict": {**under("module.momentum_encoder.", doubled(own)), **under("module.base_encoder.", own)}
    },
    "DINO": lambda own: {
        "student": under("module.backbone.", doubled(own)),
        "teacher": under("backbone.", {**own, **HEAD}),
        "epoch": 7,
    },
    "one dictionary of student and teacher": lambda own: {
        "state_dict": {**under("student.backbone.", doubled(own)), **under("teacher.backbone.", own)}
    },
    "wrapped twice": lambda own: {"model": {"state_dict": under("module.net.", own)}},
    "without counters": lambda own: {name: value for name, value in own.items() if "num_batches" not in name},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_backbone_is_found_in_a_torch_file(tmp_path: Path, layout: str) -> None:
    source, target = backbone(seed=1), backbone()
    torch.save(LAYOUTS[layout](source.export()), tmp_path / "weights.pth")
    loaded = initialise(target, str(tmp_path / "weights.pth"))
    assert same(target.export(), source.export())
    assert loaded.problems() == []


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.model.", "module.encoder_q."])
def test_the_backbone_is_found_in_a_safetensors_file(tmp_path: Path, prefix: str) -> None:
    source, target = backbone(seed=1), backbone()
    save_tensors(tmp_path / "weights.safetensors", under(prefix, source.export()))
    assert initialise(target, str(tmp_path / "weights.safetensors")).prefix == prefix
    assert same(target.export(), source.export())


def test_torchvisions_resnet_has_the_keys_of_timms() -> None:
    import torchvision

    own = backbone(name="resnet18").export()
    theirs = {
        name: value for name, value in torchvision.models.resnet18().state_dict().items() if not name.startswith("fc.")
    }
    assert {name: value.shape for name, value in theirs.items()} == {name: value.shape for name, value in own.items()}


def test_heads_and_copies_are_left_out_and_listed(tmp_path: Path) -> None:
    torch.save(LAYOUTS["MoCo"](backbone(seed=1).export()), tmp_path / "weights.pth")
    loaded = initialise(backbone(), str(tmp_path / "weights.pth"))
    assert "module.queue" in loaded.unused
    assert "module.encoder_q.fc.0.weight" in loaded.unused
    assert len(loaded.unused) == len(backbone().export()) + 2
    (note,) = loaded.notes()
    assert f"left out {len(loaded.unused)} tensors" in note


def test_what_a_file_lacks_and_no_map_needs_is_listed_and_left_as_it_was(tmp_path: Path) -> None:
    source, target = moved("test_vit").export(), backbone(name="test_vit")
    given = {f"module.backbone.{name}": tensor for name, tensor in source.items() if name != "norm.weight"}
    given["module.backbone.norm.bias"] = torch.ones(7)
    torch.save(given, tmp_path / "weights.pth")
    loaded = initialise(target, str(tmp_path / "weights.pth"))
    assert (loaded.missing, loaded.other_shape) == (["norm.weight"], ["norm.bias"])
    lacks, shape = loaded.problems()
    assert "lacks 1 tensors (norm.weight): kept random" in lacks
    assert "in another shape 1 tensors (norm.bias)" in shape
    assert torch.equal(target.export()["norm.weight"], torch.ones(64))
    assert torch.equal(target.export()["blocks.0.attn.qkv.weight"], source["blocks.0.attn.qkv.weight"])


@pytest.mark.parametrize("lost", ["conv1.0.weight", "bn1.running_mean", "layer3."])
def test_a_layer_that_would_stay_random_is_refused_by_its_name(tmp_path: Path, lost: str) -> None:
    source, target = backbone(seed=1).export(), backbone()
    before = {name: tensor.clone() for name, tensor in target.export().items()}
    torch.save({name: tensor for name, tensor in source.items() if not name.startswith(lost)}, tmp_path / "w.pth")
    with pytest.raises(LussError, match=rf"w\.pth does not fit .*missing are .*{lost}.*Set pretrain\.backbone\.name"):
        initialise(target, str(tmp_path / "w.pth"))
    assert same(target.export(), before)


def test_a_file_with_more_layers_is_refused(tmp_path: Path) -> None:
    given = backbone(seed=1).export()
    given |= {name.replace("layer2.0", "layer2.1"): value for name, value in given.items() if "layer2.0" in name}
    torch.save(given, tmp_path / "deeper.pth")
    with pytest.raises(LussError, match=r"deeper\.pth does not fit .*it has more layers: .*layer2\.1\.conv1\.weight"):
        initialise(backbone(), str(tmp_path / "deeper.pth"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_their_name(tmp_path: Path, value: float) -> None:
    given, target = backbone(seed=1).export(), backbone()
    given["layer2.0.conv1.weight"][0, 0, 0, 0] = value
    torch.save({**given, "fc.weight": torch.full((3, 96), value)}, tmp_path / "w.pth")
    with pytest.raises(LussError, match=r"w\.pth holds .*no numbers \(NaN\) in 1 tensors \(layer2\.0\.conv1\.weight\)"):
        initialise(target, str(tmp_path / "w.pth"))
    assert same(target.export(), backbone().export())


def test_weights_of_another_network_are_refused_and_change_nothing(tmp_path: Path) -> None:
    torch.save({f"blocks.{i}.weight": torch.ones(3) for i in range(300)}, tmp_path / "vit.pth")
    target = backbone()
    before = {name: tensor.clone() for name, tensor in target.export().items()}
    with pytest.raises(
        LussError, match=r"vit\.pth does not fit the backbone 'test_resnet': 0 of .* missing are .*conv1"
    ):
        initialise(target, str(tmp_path / "vit.pth"))
    assert same(target.export(), before)


def test_a_larger_network_of_the_family_is_refused_although_many_small_tensors_fit(tmp_path: Path) -> None:
    given = backbone(seed=1).export()
    # The convolutions of the last stage hold most of the numbers.
    given = {
        name: torch.ones(2) if name.startswith("layer4") and "conv" in name else value for name, value in given.items()
    }
    torch.save(given, tmp_path / "other.pth")
    with pytest.raises(LussError, match=r"of another shape are .*Set pretrain\.backbone\.name"):
        initialise(backbone(), str(tmp_path / "other.pth"))


def test_random_weights_are_left_as_built() -> None:
    target = backbone()
    assert initialise(target, "random").problems() == []
    assert same(target.export(), backbone().export())


@pytest.mark.parametrize(
    ("word", "asked"), [("timm", "test_resnet"), ("timm:test_resnet.some_tag", "test_resnet.some_tag")]
)
def test_weights_of_timm_bring_their_normalisation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, word: str, asked: str
) -> None:
    source, target = backbone(seed=1), backbone()

    def create(name: str, *, pretrained: bool) -> Any:
        assert (name, pretrained) == (asked, True)
        cfg = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5)}
        return SimpleNamespace(state_dict=source.export, pretrained_cfg=cfg)

    monkeypatch.setattr(weights, "create_timm", create)
    initialise(target, word)
    assert same(target.export(), source.export())
    assert (target.mean, target.std) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    save_backbone(tmp_path, target, target.export())
    assert load_backbone(tmp_path).mean == (0.1, 0.2, 0.3)


def test_weights_of_timm_come_for_a_vision_transformer_too(monkeypatch: pytest.MonkeyPatch) -> None:
    # As timm makes it, but without a download.
    monkeypatch.setattr(weights, "create_timm", lambda name, *, pretrained, **options: create_timm(name, **options))
    initialise(build_backbone("test_vit"), "timm")


def test_weights_of_timm_for_another_network_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    other = SimpleNamespace(state_dict=lambda: {"a": torch.ones(1)}, pretrained_cfg={})
    monkeypatch.setattr(weights, "create_timm", lambda name, **options: other)
    with pytest.raises(LussError, match="do not fit the backbone 'test_resnet'"):
        initialise(backbone(), "timm:vit_small_patch16_224")


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


class Pickled(torch.nn.Module):
    """A whole module, as `torch.save(model, path)` writes it."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.module = network


def pickled(form: str) -> Any:
    network = backbone(seed=1).model
    forms = {
        "dictionary of DINO": lambda: {"teacher": network.state_dict(), "args": SimpleNamespace(lr=0.1)},
        "plain dictionary": lambda: {**network.state_dict(), "args": SimpleNamespace(lr=0.1)},
        "whole module": lambda: Pickled(network),
        "module in a dictionary": lambda: {"model": Pickled(network), "epoch": 3, "args": SimpleNamespace(lr=0.1)},
    }
    return forms[form]()


@pytest.mark.parametrize("form", ["dictionary of DINO", "plain dictionary", "whole module", "module in a dictionary"])
def test_a_file_that_holds_objects_says_how_to_take_the_tensors_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    torch.save(pickled(form), tmp_path / "it's pickled.pth")
    with pytest.raises(LussError, match=r"without running code.*\w+\.\w+.*If you trust its source") as caught:
        initialise(backbone(), str(tmp_path / "it's pickled.pth"))
    # What a person would paste; a screen would take square brackets for markup.
    line = str(caught.value).split("in Python: ")[1]
    assert "[" not in line
    monkeypatch.chdir(tmp_path)
    exec(line, {})
    target = backbone()
    assert initialise(target, str(tmp_path / "tensors.pth")).problems() == []
    assert same(target.export(), backbone(seed=1).export())


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
    with pytest.raises(LussError, match=r"is a folder: give a file of weights; pretrain\.weights takes a whole run"):
        initialise(backbone(), str(tmp_path))


def moved(name: str) -> Backbone:
    """A vision transformer whose every number is its own: class tokens and layer scales start nearly alike."""
    source = backbone(seed=1, name=name)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return source


def test_positions_and_patches_of_another_size_are_resized_as_timm_does(tmp_path: Path) -> None:
    from timm.layers.patch_embed import resample_patch_embed
    from timm.layers.pos_embed import resample_abs_pos_embed

    given, target = moved("test_vit").export(), backbone(name="test_vit")
    table = torch.randn(1, 1 + 7 * 7, 64)
    given["pos_embed"], given["patch_embed.proj.weight"] = table, torch.randn(64, 3, 14, 14)
    torch.save({"teacher": under("backbone.", {**given, **HEAD})}, tmp_path / "dino.pth")
    loaded = initialise(target, str(tmp_path / "dino.pth"))
    assert (loaded.problems(), len(loaded.unused)) == ([], len(HEAD))
    own = target.export()
    assert torch.equal(own["pos_embed"], resample_abs_pos_embed(table, new_size=[10, 10]))
    wanted = resample_patch_embed(given["patch_embed.proj.weight"], [16, 16])
    torch.testing.assert_close(own["patch_embed.proj.weight"], wanted)
    assert torch.equal(own["blocks.3.mlp.fc1.weight"], given["blocks.3.mlp.fc1.weight"])


@pytest.mark.parametrize("missing", ["pos_embed", "patch_embed.proj.weight", "cls_token"])
def test_a_vision_transformer_is_refused_where_a_part_that_matters_would_stay_random(
    tmp_path: Path, missing: str
) -> None:
    given, target = moved("test_vit").export(), backbone(name="test_vit")
    del given[missing]
    torch.save(given, tmp_path / "half.pth")
    before = target.export()["blocks.0.norm1.weight"].clone()
    with pytest.raises(LussError, match=rf"half\.pth does not fit the backbone 'test_vit'.*{missing}"):
        initialise(target, str(tmp_path / "half.pth"))
    assert torch.equal(target.export()["blocks.0.norm1.weight"], before)


def test_a_table_that_timm_cannot_resize_is_refused(tmp_path: Path) -> None:
    given = moved("test_vit").export()
    given["pos_embed"] = torch.randn(1, 1 + 7 * 7 + 3, 64)
    torch.save(given, tmp_path / "odd.pth")
    with pytest.raises(LussError, match=r"odd\.pth does not fit the backbone 'test_vit': timm cannot convert it"):
        initialise(backbone(name="test_vit"), str(tmp_path / "odd.pth"))
