"""The segmenter as ONNX and torch.export files: the same labels on test images, at any batch and size."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from luss.export import graph as graphs
from luss.export.graph import Graph, graph_notes, quiet_tracing, trace
from luss.export.onnx import export_onnx
from luss.export.torch_export import export_torch
from luss.models.build import build_backbone
from luss.models.io import DECODING, decoding_entries
from luss.models.segmenter import SegmentationNetwork, label_map, object_logits
from luss.settings import PredictSettings

pytestmark = pytest.mark.slow

SETTINGS = PredictSettings(short_side=32, size_multiple=8, max_pixels=1234, total_foreground=True, image_weight=0.5)
SHAPES = [(2, 3, 64, 96), (1, 3, 32, 32), (3, 3, 50, 33)]


@pytest.fixture(scope="module")
def network() -> SegmentationNetwork:
    torch.manual_seed(0)
    network = SegmentationNetwork(build_backbone("test_resnet", output_stride=16), 6).eval()
    # An untrained head says nearly the same everywhere.
    with torch.no_grad():
        features = network.backbone(images((8, 3, 64, 64)) * 4 - 2).last
        weight = (
            0.2
            * torch.randn(network.head.weight.shape)
            / features.std(dim=(0, 2, 3))[None, :, None, None].clamp(min=1e-6)
        )
        network.head.weight.copy_(weight)
        network.head.bias = torch.nn.Parameter(-torch.einsum("clhw,l->c", weight, features.mean(dim=(0, 2, 3))))
    return network


def images(shape: tuple[int, ...]) -> Tensor:
    coarse = torch.rand((shape[0], 3, 5, 5), generator=torch.Generator().manual_seed(sum(shape)))
    return F.interpolate(coarse, size=shape[2:], mode="bilinear")


def expected(network: SegmentationNetwork, batch: Tensor) -> list[Tensor]:
    """Label maps as `luss predict` makes them."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (network.backbone.mean, network.backbone.std))
    with torch.no_grad():
        logits = network((batch - mean) / std)
    logits = object_logits(logits, total_foreground=True, image_weight=0.5)
    return [label_map(scores, (batch.shape[2], batch.shape[3])) for scores in logits]


@pytest.fixture(scope="module")
def graph(network: SegmentationNetwork) -> Graph:
    return trace(network, SETTINGS)


@pytest.fixture
def traced_once(monkeypatch: pytest.MonkeyPatch, graph: Graph) -> None:
    """Tracing is most of the work; both formats write the same graph."""
    for module in ("luss.export.onnx", "luss.export.torch_export"):
        monkeypatch.setattr(f"{module}.trace", lambda network, settings: graph)


def check(network: SegmentationNetwork, run: Callable[[Tensor], Any]) -> None:
    ids: set[int] = set()
    for shape in SHAPES:
        batch = images(shape)
        labels = np.asarray(run(batch))
        wanted = torch.stack(expected(network, batch)).numpy()
        assert labels.dtype == np.int64
        assert np.array_equal(labels, wanted)
        ids |= set(np.unique(wanted).tolist())
    assert len(ids) > 2, "the network of this test sees no differences"


@pytest.mark.usefixtures("traced_once")
def test_onnxruntime_gives_the_same_labels_at_any_batch_and_size(network: SegmentationNetwork, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    assert export_onnx(network, SETTINGS, tmp_path / "out" / "model.onnx").dynamic
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.onnx"]
    session = runtime.InferenceSession(str(tmp_path / "out" / "model.onnx"), providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["logits", "labels"]
    check(network, lambda batch: session.run(["labels"], {"images": batch.numpy()})[0])


@pytest.mark.usefixtures("traced_once")
def test_torch_export_gives_the_same_labels_at_any_batch_and_size(network: SegmentationNetwork, tmp_path: Path) -> None:
    assert export_torch(network, SETTINGS, tmp_path / "model.pt2").dynamic
    with quiet_tracing():
        program = torch.export.load(tmp_path / "model.pt2").module()
    check(network, lambda batch: program(batch)[1])


def test_a_network_of_one_size_is_traced_at_the_short_side_squared(
    network: SegmentationNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = torch.export.export, []

    def fixed_only(module: Any, arguments: tuple[Tensor], dynamic_shapes: Any = None) -> Any:
        asked.append(dynamic_shapes)
        if dynamic_shapes is not None:
            raise RuntimeError("positions are fixed")
        return real(module, arguments)

    monkeypatch.setattr(graphs.torch.export, "export", fixed_only)
    found = trace(network, SETTINGS)
    assert len(asked) == 2
    assert (found.dynamic, found.smallest_side, found.example) == (False, 32, (1, 3, 32, 32))
    batch = images((1, 3, 32, 32))
    assert torch.equal(found.program.module()(batch)[1][0], expected(network, batch)[0])


def test_the_notes_say_what_a_program_has_to_know(graph: Graph) -> None:
    notes = json.loads(json.dumps(graph_notes(graph, SETTINGS, {0: "background", 1: "dog"}, more=7)))
    assert notes["input"]["shape"] == ["batch", 3, "height", "width"]
    # One pixel more than the stride.
    assert notes["input"]["smallest_side"] == 17
    # All that turns an image into labels, as in the `decoding` of a model's config.json.
    assert {name: notes[name] for name in DECODING} == decoding_entries(SETTINGS)
    assert (notes["short_side"], notes["size_multiple"], notes["max_pixels"]) == (32, 8, 1234)
    assert notes["names"] == {"0": "background", "1": "dog"}
    assert notes["more"] == 7


def test_only_torchs_own_warning_is_muted() -> None:
    with quiet_tracing(), pytest.warns(UserWarning, match="something else"):
        warnings.warn("something else", stacklevel=1)
