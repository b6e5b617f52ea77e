"""The segmenter as ONNX and torch.export files: the same labels on test images, at any batch and size."""

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from luss.errors import LussError
from luss.export import graph as graphs
from luss.export.graph import DecodedSegmenter, Graph, Run, graph_notes, quiet_tracing, trace, write_graph
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
    monkeypatch.setattr(graphs, "trace", lambda network, settings, free: graph)


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


def test_a_graph_of_one_size_is_traced_at_the_short_side_squared(network: SegmentationNetwork) -> None:
    found = trace(network, SETTINGS, free=False)
    assert (found.dynamic, found.smallest_side, found.example) == (False, 32, (1, 3, 32, 32))
    batch = images((1, 3, 32, 32))
    assert torch.equal(found.program.module()(batch)[1][0], expected(network, batch)[0])


class Written:
    """A format whose files hold for the shapes that `holds` says, and how it was tried."""

    def __init__(self, network: SegmentationNetwork, holds: Callable[[Graph, Any], bool]) -> None:
        self.module, self.holds = DecodedSegmenter(network, SETTINGS).eval(), holds
        self.graphs: list[Graph] = []
        self.factor = 1.0

    def __call__(self, graph: Graph, path: Path) -> Run:
        path.write_text("dynamic" if graph.dynamic else "fixed")
        self.graphs.append(graph)

        def run(batch: Tensor) -> tuple[Tensor, Tensor]:
            if not self.holds(graph, batch.shape):
                raise RuntimeError("Guard failed: images.size()[2] >= 45")
            with torch.no_grad():
                logits, labels = self.module(batch)
            return logits * self.factor, labels

        return run


@pytest.fixture
def fixed(network: SegmentationNetwork, graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing takes seconds: a graph of one size stands for all."""
    one = replace(graph, dynamic=False, example=(1, 3, 32, 32))
    monkeypatch.setattr(graphs, "trace", lambda network, settings, free: graph if free else one)


@pytest.mark.usefixtures("fixed")
def test_the_smallest_side_is_the_smallest_that_works(network: SegmentationNetwork, tmp_path: Path) -> None:
    write = Written(network, lambda graph, shape: min(shape[2:]) >= 45)
    found = write_graph(network, SETTINGS, tmp_path / "x.pt2", write)
    assert (found.dynamic, found.smallest_side) == (True, 45)
    assert (tmp_path / "x.pt2").read_text() == "dynamic"


@pytest.mark.parametrize(
    "holds",
    [
        lambda graph, shape: shape[2] % 32 == 0,
        lambda graph, shape: shape[2] == shape[3],
        lambda graph, shape: shape[0] == 1,
        lambda graph, shape: tuple(shape) == graph.example,
    ],
)
@pytest.mark.usefixtures("fixed")
def test_a_graph_that_holds_for_some_sizes_only_is_written_for_one(
    network: SegmentationNetwork, tmp_path: Path, holds: Callable[[Graph, Any], bool]
) -> None:
    write = Written(network, lambda graph, shape: not graph.dynamic or holds(graph, shape))
    assert not write_graph(network, SETTINGS, tmp_path / "x.pt2", write).dynamic
    assert [graph.dynamic for graph in write.graphs] == [True, False]
    assert (tmp_path / "x.pt2").read_text() == "fixed"


@pytest.mark.usefixtures("fixed")
def test_a_graph_that_does_not_hold_at_all_is_a_sentence_and_no_file(
    network: SegmentationNetwork, tmp_path: Path
) -> None:
    write = Written(network, lambda graph, shape: True)
    write.factor = 1.1
    with pytest.raises(
        LussError, match=r"test_resnet cannot be written as \.pt2 \(it does not hold .*use --format model"
    ):
        write_graph(network, SETTINGS, tmp_path / "x.pt2", write)
    assert not list(tmp_path.iterdir())

    def refuse(graph: Graph, path: Path) -> Run:
        raise RuntimeError("math.ceil\nmore for torch's own developers")

    with pytest.raises(LussError, match=r"\(math.ceil\)"):
        write_graph(network, SETTINGS, tmp_path / "x.pt2", refuse)


def test_a_convnext_for_torch_says_the_64_pixels_that_it_needs(tmp_path: Path) -> None:
    convnext = SegmentationNetwork(build_backbone("test_convnext"), 3).eval()
    found = export_torch(convnext, SETTINGS, tmp_path / "model.pt2")
    assert (found.dynamic, found.smallest_side) == (True, 64)


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
