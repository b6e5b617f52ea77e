"""The examples in the docstrings of what a notebook uses: each runs, in a folder as a finished demo leaves it."""

import doctest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import luss
import stages.api
from luss.data.imagenet_s import read_mask, write_mask
from luss.data.manifest import build_manifest
from luss.data.shapes import make_shapes
from luss.data.skipped import SkippedFiles
from luss.labels.writer import LabelRecord, LabelWriter
from luss.models.build import build_backbone
from luss.models.io import save_segmenter
from luss.models.segmenter import SegmentationNetwork
from luss.settings import PredictSettings

ROOT = Path(__file__).parents[1]
NAMED: dict[str, Any] = {
    **{name: getattr(luss, name) for name in luss.__all__},
    "run": stages.api.run,
    "run_stage": stages.api.run_stage,
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """configs/demo.yaml, photos/, shapes/, and outputs/demo with a model, label maps, a manifest and masks."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "configs").mkdir()
    _small_config(folder / "configs" / "demo.yaml")
    _photos(folder / "photos")
    run = folder / "outputs" / "demo"
    torch.manual_seed(0)
    network = SegmentationNetwork(build_backbone("test_resnet"), 10).eval()
    save_segmenter(run / "finetune", network, num_clusters=10, decoding=PredictSettings(short_side=32))
    build_manifest(
        folder / "photos", run / "manifest" / "manifest", "train", skipped=SkippedFiles(folder / "skipped.csv")
    )
    _label_maps(run / "pseudo_labels" / "labels")
    make_shapes(folder / "shapes", num_train=20, num_validation=10, num_test=0, size=32)
    for mask in (folder / "shapes" / "validation-segmentation").rglob("*.png"):
        ids = read_mask(mask)
        target = run / "predict" / "masks" / "validation" / mask.parent.name / mask.name
        write_mask(target, np.ones_like(ids))
    return folder


def _small_config(path: Path) -> None:
    """The demo's configuration, with fewer pictures to draw."""
    content = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text(encoding="utf-8"))
    content["data"] |= {"workers": 0, "shapes": {"num_train": 10, "num_validation": 10, "size": 32}}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


def _photos(folder: Path) -> None:
    (folder / "dog").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name in ("dog/a.jpg", "a.jpg", "b.jpg"):
        Image.fromarray(generator.integers(0, 256, (60, 80, 3), np.uint8)).save(folder / name)


def _label_maps(folder: Path) -> None:
    writer = LabelWriter(folder, [(0, 1)], num_clusters=10, fingerprint="demo")
    ids = np.full((6, 8), 3, np.uint16)
    writer.write_shard(0, [LabelRecord("dog/a.jpg", (60, 80), ids, np.full((6, 8), 200, np.uint8))])
    writer.finish(0.5, "given")


@pytest.mark.parametrize("name", sorted(NAMED))
def test_the_example_of_a_public_name_runs(name: str, demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(demo)
    value = NAMED[name]
    home = __import__(value.__module__, fromlist=["_"])
    # What a module imports at its top is at hand in its examples, as it is for a reader of the file.
    found = [
        test
        for test in doctest.DocTestFinder(recurse=False).find(value, name, home, globs=dict(vars(home)))
        if test.examples
    ]
    assert found, f"{name} has no example"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    for test in found:
        runner.run(test, out=report.append)
    assert not runner.failures, "".join(report)
