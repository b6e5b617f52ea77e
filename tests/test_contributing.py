"""The examples of CONTRIBUTING.md: each is put where its first line says, and used as a person would use it."""

import ast
import io
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from tiny_run import write_tiny_config

import luss.config
from luss.config import load_config, to_yaml
from luss.data.shapes import make_shapes
from luss.errors import LussError
from luss.export import FORMATS, load_format
from luss.export.formats import LabelFormat
from luss.export.job import ExportFolder, export_images
from luss.export.labelled import StoredLabels
from luss.labels.store import LabelStore
from luss.labels.writer import LabelRecord, LabelWriter
from luss.methods import METHODS
from luss.models.build import build_backbone
from luss.settings import RunSettings
from stages.base import fingerprint, in_order
from stages.pipeline import ATTENTION, FINETUNE, LABELS, MANIFEST, PRETRAIN, STAGES
from stages.running.runner import run_stages

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
EXAMPLES = {
    match["file"]: match["body"]
    for match in re.finditer(
        r"^```(?:python|yaml)\n(?P<body># (?P<file>\S+\.(?:py|yaml)[^\n]*)\n.*?)^```$", TEXT, re.M | re.S
    )
}


@pytest.fixture
def placed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts an example where its first line says, for the time of a test; a second part of a file that there is stands beside it."""

    def place(file: str) -> ModuleType:
        body, (path, _, part) = EXAMPLES[file], file.partition(": ")
        assert (ROOT / path).is_file() == bool(part), f"{path} is taken"
        module = ModuleType(path.removesuffix(".py").replace("/", ".") + part.title().replace(" ", ""))
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(compile(body, file, "exec"), vars(module))
        return module

    return place


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(folder, num_train=60, num_validation=20, num_test=20, size=64)
    return folder


@pytest.fixture
def config(tmp_path: Path, shapes: Path) -> Path:
    """A run of seconds in the test's own folder."""
    return write_tiny_config(tmp_path / "tiny.yaml", shapes, f"output: {tmp_path / 'run'}")


def said(start: str) -> str:
    """What stands between backticks in the text and begins so."""
    found: list[str] = re.findall(rf"`({re.escape(start)}[^`]*)`", TEXT)
    assert len(found) == 1, found
    return found[0]


def entry(start: str) -> dict[str, Any]:
    """A line of a dictionary that the text gives."""
    found = ast.literal_eval(f"{{{said(start)}}}")
    assert isinstance(found, dict)
    return found


def run_quietly(run: RunSettings, stages: Any) -> str:
    told = io.StringIO()
    run_stages(run, stages, console=Console(file=told, width=200))
    return told.getvalue()


def test_every_example_says_its_file() -> None:
    assert len(EXAMPLES) == TEXT.count("```python") + TEXT.count("```yaml") == 9


@pytest.fixture
def learner(placed: Any, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    placed("luss/losses/decorrelation.py")
    for name, place in entry('"barlow_twins": ').items():
        monkeypatch.setitem(METHODS, name, place)
    module: ModuleType = placed("luss/methods/barlow_twins.py")
    return module


def test_the_learner_is_found_by_its_name_and_its_settings_are_checked(learner: ModuleType, config: Path) -> None:
    run = load_config(config, ["pretrain.method=barlow_twins", "pretrain.method.embedding_dim=16"])
    assert type(run.pretrain.method) is learner.BarlowTwinsSettings
    assert "embedding_dim: 16" in to_yaml(run)
    with pytest.raises(LussError, match=r"pretrain\.method\.global_views\.count is 3: barlow_twins compares exactly 2"):
        load_config(config, ["pretrain.method=barlow_twins", "pretrain.method.global_views.count=3"])
    with pytest.raises(LussError, match=r"pretrain\.method\.weight is 2"):
        load_config(config, ["pretrain.method=barlow_twins", "pretrain.method.weight=2"])


def test_the_learner_pretrains_by_the_stage_and_leaves_a_backbone(
    learner: ModuleType, config: Path, tmp_path: Path
) -> None:
    words = ["pretrain.method=barlow_twins", "pretrain.method.embedding_dim=16", "pretrain.method.global_views.size=32"]
    run_quietly(load_config(config, words), [MANIFEST, PRETRAIN])
    folder = tmp_path / "run" / "pretrain"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 6
    assert all(line["decorrelation"] > 0 for line in lines)
    assert json.loads((folder / "method.json").read_text()) == {"clustering": None}
    assert (folder / "backbone.safetensors").is_file()


def test_the_loss_of_the_learner_is_that_of_its_equation(placed: Any) -> None:
    loss = placed("luss/losses/decorrelation.py").decorrelation
    one, other = torch.randn(2, 50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    correlations = np.corrcoef(one.T, other.T)[:6, 6:]
    on = sum((correlations[i, i] - 1) ** 2 for i in range(6))
    off = sum(correlations[i, j] ** 2 for i in range(6) for j in range(6) if i != j)
    assert loss(one, other, 0.1).item() == pytest.approx(on + 0.1 * off, rel=1e-4)


def test_the_configuration_of_the_learner_is_laid_over_a_run(learner: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "barlow_twins.yaml"
    path.write_text(EXAMPLES["configs/methods/barlow_twins.yaml"], encoding="utf-8")
    run = load_config(ROOT / "configs" / "objects27_cpu.yaml", [str(path)])
    assert run.name == "objects27_cpu"
    assert isinstance(run.pretrain.method, learner.BarlowTwinsSettings)
    assert (run.pretrain.method.global_views.size, run.pretrain.method.embedding_dim) == (96, 512)


@pytest.fixture(scope="module")
def network() -> ModuleType:
    """The example of a backbone: timm keeps a name for the whole process."""
    module = ModuleType("luss.models.plain_cnn")
    sys.modules[module.__name__] = module
    exec(compile(EXAMPLES["luss/models/plain_cnn.py"], "plain_cnn.py", "exec"), vars(module))
    return module


def test_the_backbone_is_built_by_its_name_and_gives_features(network: ModuleType) -> None:
    backbone = build_backbone("plain_cnn")
    assert (backbone.channels, backbone.strides, backbone.fixed_size) == (network.WIDTHS, (2, 4, 8, 16), None)
    features = backbone(backbone.normalise(torch.zeros(2, 3, 48, 80, dtype=torch.uint8)))
    assert [tuple(each.shape) for each in features.maps] == [
        (2, 16, 24, 40), (2, 32, 12, 20), (2, 64, 6, 10), (2, 128, 3, 5)
    ]  # fmt: skip
    assert features.token is None
    network.PlainCNN().load_state_dict(backbone.export(), strict=True)
    with pytest.raises(LussError, match="plain_cnn cannot be built with output_stride 8"):
        build_backbone("plain_cnn", output_stride=8)


@pytest.fixture
def with_small_images(placed: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The stage of the example, its block among the settings of a run."""
    settings = placed("luss/settings/small_images.py").SmallImagesSettings
    names: dict[str, Any] = {
        "RunSettings": RunSettings,
        "dataclass": dataclass,
        "field": field,
        "SmallImagesSettings": settings,
    }
    exec(f"@dataclass\nclass Extended(RunSettings):\n    {said('small_images: ')}", names)
    monkeypatch.setattr(luss.config, "RunSettings", names["Extended"])
    placed("stages/small_images.py")
    return placed("stages/pipeline.py: a stage more").SMALL_IMAGES


def test_the_stage_runs_in_a_pipeline_and_only_when_it_must(
    with_small_images: Any, config: Path, tmp_path: Path
) -> None:
    stages = [MANIFEST, with_small_images]
    assert "small_images: done in" in run_quietly(load_config(config, ["small_images.short_side=1"]), stages)
    small = tmp_path / "run" / "small_images" / "small.txt"
    assert small.read_text() == ""
    assert "small_images: done (" in run_quietly(load_config(config, ["small_images.short_side=1"]), stages)
    told = run_quietly(load_config(config, ["small_images.short_side=1000"]), stages)
    assert "small_images: runs anew" in told
    assert len(small.read_text().splitlines()) == 60
    with pytest.raises(LussError, match=r"small_images\.short_side is 0"):
        load_config(config, ["small_images.short_side=0"])


@pytest.mark.slow
def test_the_second_round_runs_and_is_a_result_of_its_own(placed: Any, config: Path, tmp_path: Path) -> None:
    second = placed("stages/pipeline.py: a second round")
    run, known = load_config(config), dict[str, str]()
    fingerprint(second.FINETUNE_2, run, known)
    assert len(set(known.values())) == len(known) == 12
    for one, other in ((ATTENTION, second.ATTENTION_2), (LABELS, second.LABELS_2), (FINETUNE, second.FINETUNE_2)):
        assert type(one) is type(other)
        assert known[one.name] != known[other.name]
    assert not set(known) & {"attention_2", "features_2", "clusters_2", "labels_2", "finetune_2"} & set(STAGES)
    run_quietly(run, in_order([second.FINETUNE_2]))
    weights = [(tmp_path / "run" / name / "model.safetensors").read_bytes() for name in ("finetune", "finetune_2")]
    assert weights[0] != weights[1]
    assert len(LabelStore.open(tmp_path / "run" / "labels_2" / "labels")) == 60


def test_the_format_exports_a_store_of_labels(placed: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    placed("luss/export/npy.py")
    for name, line in entry('"npy": ').items():
        monkeypatch.setitem(FORMATS, name, line)
    found = load_format("npy")
    assert isinstance(found, LabelFormat)
    writer = LabelWriter(tmp_path / "labels", [(0, 1)], num_clusters=3, fingerprint="f")
    ids = np.array([[1, 3], [3, 3]], np.uint16)
    writer.write_shard(0, [LabelRecord("dog/a.jpg", (2, 2), ids, np.full((2, 2), 200, np.uint8))])
    images = StoredLabels(LabelStore.open(writer.finish(0.5, "given")), tmp_path)
    out = tmp_path / "out"
    tally = export_images(
        ExportFolder(out, {"format": "npy"}, 3), images, lambda position: found.writer(out, images, position)
    )
    np.testing.assert_array_equal(np.load(out / "maps" / "dog" / "a.npy", allow_pickle=False), ids)
    assert tally.pixels.tolist() == [0, 1, 0, 3]
