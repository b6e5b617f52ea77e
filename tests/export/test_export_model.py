"""A model as one folder, and backbones for timm."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from luss.errors import LussError
from luss.export.model import export_model
from luss.export.timm_backbone import export_backbones
from luss.models.build import build_backbone
from luss.models.io import load_segmenter, save_segmenter
from luss.models.segmenter import SegmentationNetwork
from luss.segmenter import Segmenter
from luss.settings import PredictSettings

SETTINGS = PredictSettings(short_side=48, total_foreground=True, image_weight=0.5)


def network(seed: int = 0) -> SegmentationNetwork:
    torch.manual_seed(seed)
    return SegmentationNetwork(build_backbone("test_resnet"), 5).eval()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    save_segmenter(tmp_path / "finetune", network(), num_clusters=5, fingerprint="abc", short_side=96)
    return tmp_path / "finetune"


def test_the_copy_holds_all_that_its_use_needs(source: Path, tmp_path: Path) -> None:
    out = export_model(source, tmp_path / "out" / "model", decoding=SETTINGS, names={3: "dog"})
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "model.safetensors"]
    config = json.loads((out / "config.json").read_text())
    assert config["name"] == "test_resnet"
    assert config["num_clusters"] == 5
    assert config["names"] == {"3": "dog"}
    assert config["fingerprint"] == "abc"
    assert len(config["sha256"]) == 64
    assert len(config["mean"]) == len(config["std"]) == 3
    assert config["decoding"]["short_side"] == 48
    assert "short_side" not in config
    segmenter = Segmenter.load(out)
    assert segmenter.settings == SETTINGS
    assert segmenter.names[3] == "dog"
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(segmenter.network(images), load_segmenter(source)[0](images))


def test_a_model_of_an_older_format_gets_a_digest(source: Path, tmp_path: Path) -> None:
    config = json.loads((source / "config.json").read_text())
    del config["sha256"]
    (source / "config.json").write_text(json.dumps({**config, "format": 1}))
    export_model(source, tmp_path / "model", decoding=SETTINGS, names={})
    found = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (found["format"], len(found["sha256"])) == (2, 64)
    load_segmenter(tmp_path / "model")


def test_an_earlier_export_is_replaced_and_other_folders_are_not(source: Path, tmp_path: Path) -> None:
    out = export_model(source, tmp_path / "model", decoding=SETTINGS, names={})
    save_segmenter(source, network(seed=1), num_clusters=5)
    export_model(source, out, decoding=SETTINGS, names={})
    assert torch.equal(load_segmenter(out)[0].head.weight, network(seed=1).head.weight)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("dear")
    with pytest.raises(LussError, match="is not empty and holds no earlier export"):
        export_model(source, tmp_path / "mine", decoding=SETTINGS, names={})
    with pytest.raises(LussError, match="is a file"):
        export_model(source, tmp_path / "mine" / "thesis.tex", decoding=SETTINGS, names={})


@pytest.mark.parametrize("theirs", ['{"architectures": ["Segformer"], "format": 1}', '["list"]', "no JSON"])
def test_a_model_of_another_program_is_not_overwritten(source: Path, tmp_path: Path, theirs: str) -> None:
    out = tmp_path / "some-hf-model"
    out.mkdir()
    (out / "config.json").write_text(theirs)
    (out / "model.safetensors").write_bytes(b"years of work")
    with pytest.raises(LussError, match="holds no earlier export of this format"):
        export_model(source, out, decoding=SETTINGS, names={})
    with pytest.raises(LussError, match="holds no earlier export of this format"):
        export_backbones({"pretrained": build_backbone("test_resnet")}, out)
    assert (out / "model.safetensors").read_bytes() == b"years of work"
    assert [(path.name) for path in sorted(out.iterdir())] == ["config.json", "model.safetensors"]


def test_one_format_does_not_write_over_the_other_nor_over_a_stage(source: Path, tmp_path: Path) -> None:
    model = export_model(source, tmp_path / "model", decoding=SETTINGS, names={})
    backbones = {"pretrained": build_backbone("test_resnet")}
    (weights,) = export_backbones(backbones, tmp_path / "timm")
    with pytest.raises(LussError, match="no earlier export of this format"):
        export_backbones(backbones, model)
    for folder in (weights.parent, source):
        with pytest.raises(LussError, match="no earlier export of this format"):
            export_model(source, folder, decoding=SETTINGS, names={})
    Segmenter.load(model)
    assert export_backbones(backbones, tmp_path / "timm") == [weights]


def test_a_tampered_model_is_not_exported(source: Path, tmp_path: Path) -> None:
    path = source / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\1\2\3")
    with pytest.raises(LussError, match="sha256 differs"):
        export_model(source, tmp_path / "model", decoding=SETTINGS, names={})
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_backbones_load_into_timm_strictly_and_give_the_same_features(tmp_path: Path, name: str) -> None:
    import timm

    torch.manual_seed(0)
    backbone = build_backbone(name).eval()
    (path,) = export_backbones({"pretrained": backbone}, tmp_path / "out")
    model = timm.create_model(name, num_classes=0)
    model.load_state_dict(load_file(path), strict=True)
    side = 160 if name == "test_vit" else 64
    images = torch.randn(1, 3, side, side)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images), backbone.model(images), rtol=0, atol=0)


def test_the_readme_beside_the_weights_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbones = {
        "pretrained": build_backbone("test_resnet", output_stride=16),
        "finetuned": build_backbone("test_resnet"),
    }
    export_backbones(backbones, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    monkeypatch.chdir(tmp_path / "out")
    exec(text.split("```python\n")[1].split("```")[0], {})
    assert "finetuned.safetensors" in text
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architecture"] == "test_resnet"
    assert config["files"] == ["pretrained.safetensors", "finetuned.safetensors"]
