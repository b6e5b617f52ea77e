"""`luss export` of models: the folder, timm weights, ONNX and torch.export, from a finished run; and what it says about bad input."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from running import Fault, Launcher

from luss.data.imagenet_s import read_mask
from luss.data.images import read_image
from luss.data.resized import target_size
from luss.data.views import cut
from luss.export.graph import quiet_tracing
from luss.segmenter import Segmenter


@pytest.fixture(scope="module")
def photos(shapes_folder: Path) -> list[Path]:
    return sorted((shapes_folder / "validation").rglob("*.jpg"))[:6]


def test_an_exported_model_segments_elsewhere_as_the_run_does(
    luss: Launcher, finished: Path, shapes_folder: Path, tmp_path: Path
) -> None:
    outcome = luss("export", str(finished), "--format", "model", "--out", str(tmp_path / "model"))
    assert outcome.code == 0, outcome.output
    shutil.move(tmp_path / "model", tmp_path / "moved")
    config = json.loads((tmp_path / "moved" / "config.json").read_text())
    assert config["decoding"]["short_side"] == 32
    assert config["fingerprint"] == json.loads((finished / "finetune" / "DONE.json").read_text())["fingerprint"]
    images = shapes_folder / "validation"
    outcome = luss("predict", str(tmp_path / "moved"), str(images), "--out", str(tmp_path / "out"))
    assert outcome.code == 0, outcome.output
    masks = sorted((finished / "predict" / "masks" / "validation").rglob("*.png"))
    assert len(masks) == 20
    for mask in masks:
        name = mask.relative_to(finished / "predict" / "masks" / "validation")
        assert np.array_equal(read_mask(tmp_path / "out" / "masks" / name), read_mask(mask))


def test_the_backbones_of_a_run_load_into_timm(luss: Launcher, finished: Path, tmp_path: Path) -> None:
    import timm
    from safetensors.torch import load_file

    outcome = luss("export", str(finished), "--format", "timm", "--out", str(tmp_path / "timm"))
    assert outcome.code == 0, outcome.output
    weights = {path.stem: load_file(path) for path in (tmp_path / "timm").glob("*.safetensors")}
    assert set(weights) == {"pretrained", "finetuned"}
    for tensors in weights.values():
        timm.create_model("test_resnet", num_classes=0).load_state_dict(tensors, strict=True)
    assert any(
        not torch.equal(weights["pretrained"][name], weights["finetuned"][name]) for name in weights["pretrained"]
    )
    own = Segmenter.load(finished, device="cpu").network.backbone.export()
    assert all(torch.equal(own[name], tensor) for name, tensor in weights["finetuned"].items())


def run_onnx(path: Path, images: torch.Tensor) -> Any:
    session = pytest.importorskip("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["labels"], {"images": images.numpy()})[0]


def run_pt2(path: Path, images: torch.Tensor) -> Any:
    with quiet_tracing():
        program = torch.export.load(path).module()
    return program(images)[1].numpy()


@pytest.mark.parametrize(("format", "suffix", "run"), [("onnx", ".onnx", run_onnx), ("torch-export", ".pt2", run_pt2)])
def test_an_exported_graph_gives_the_labels_of_the_run(
    luss: Launcher, finished: Path, photos: list[Path], tmp_path: Path, format: str, suffix: str, run: Any
) -> None:
    outcome = luss("export", str(finished), "--format", format, "--out", str(tmp_path / f"model{suffix}"))
    assert outcome.code == 0, outcome.output
    assert "any batch, height and width (33 pixels at least)" in outcome.output
    notes = json.loads((tmp_path / "model.json").read_text())
    assert (notes["short_side"], notes["input"]["smallest_side"], notes["input"]["multiple_of"]) == (32, 33, 1)
    segmenter = Segmenter.load(finished, device="cpu")
    # The tiny run works below the smallest side of a graph.
    segmenter.settings = dataclasses.replace(segmenter.settings, short_side=64)
    assert notes["names"]["3"] == "cluster 3"
    found: set[int] = set()
    for photo in photos:
        image = read_image(photo)
        width, height = target_size(*image.size, short_side=64)
        pixels = cut(image, image.size, (0, 0, *image.size), size=(width, height), flip=False)
        labels = run(tmp_path / f"model{suffix}", torch.from_numpy(pixels)[None].float() / 255)[0]
        # The run labels the photograph at its own size; here it is asked for the size that the network saw.
        wanted = segmenter(pixels.transpose(1, 2, 0)).label_maps[0]
        assert np.array_equal(labels, wanted)
        found |= set(np.unique(labels).tolist())
    assert found


def test_a_full_disk_leaves_no_half_export(luss: Launcher, finished: Path, tmp_path: Path) -> None:
    arguments = ["export", str(finished), "--format", "model", "--out", str(tmp_path / "model")]
    outcome = luss(*arguments, fault=Fault("open", "model.safetensors", count=2, signal=None))
    assert outcome.code == 2
    assert "is full" in outcome.output
    assert not (tmp_path / "model" / "config.json").exists()
    assert luss(*arguments).code == 0
    Segmenter.load(tmp_path / "model", device="cpu")


@pytest.mark.parametrize("format", ["model", "timm", "onnx", "torch-export"])
def test_a_run_without_the_model_says_which_stage_makes_it(
    luss: Launcher, finished: Path, tmp_path: Path, format: str
) -> None:
    run = tmp_path / "run"
    (run / "manifest").mkdir(parents=True)
    shutil.copy(finished / "manifest" / "config.yaml", run / "manifest")
    outcome = luss("export", str(run), "--format", format, "--out", str(tmp_path / "out"))
    assert outcome.code == 2
    assert ("pretrain stage" if format == "timm" else "finetune stage") in outcome.output
    assert not (tmp_path / "out").exists()


def test_a_tampered_model_is_not_exported(luss: Launcher, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "finetune").mkdir(parents=True)
    for name in ("config.json", "config.yaml", "model.safetensors"):
        shutil.copy(finished / "finetune" / name, run / "finetune")
    path = run / "finetune" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    outcome = luss("export", str(run), "--format", "model", "--out", str(tmp_path / "out"))
    assert outcome.code == 2
    assert "its sha256 differs" in outcome.output
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_ours_is_not_written_into(luss: Launcher, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("dear")
    for format in ("model", "timm"):
        outcome = luss("export", str(finished), "--format", format, "--out", str(tmp_path))
        assert outcome.code == 2
        assert "is not empty and holds no earlier export" in outcome.output
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
