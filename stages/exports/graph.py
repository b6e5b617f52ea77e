"""What the formats `onnx` and `torch-export` share."""

from collections.abc import Callable
from pathlib import Path

from luss.errors import LussError
from luss.export.graph import Graph, graph_notes
from luss.files import write_json
from luss.models.io import WEIGHTS_NAME, sha256_of
from luss.models.segmenter import SegmentationNetwork
from luss.segmenter import Segmenter
from luss.settings import PredictSettings
from stages.exports.base import ExportRequest

Write = Callable[[SegmentationNetwork, PredictSettings, Path], Graph]


def export_graph(request: ExportRequest, write: Write, *, suffix: str, runs_in: str) -> str:
    """Writes the file that was asked for, or `model<suffix>` in the folder, and a JSON of the same name beside it."""
    path = request.out if request.out.suffix == suffix else request.out / f"model{suffix}"
    if path.is_dir() or (path.parent.exists() and not path.parent.is_dir()):
        raise LussError(f"{path} cannot be a file there: give another --out")
    segmenter = Segmenter.load(request.folder, device="cpu")
    graph = write(segmenter.network, segmenter.settings, path)
    notes = graph_notes(
        graph, segmenter.settings, segmenter.names, sha256_of_model=sha256_of(segmenter.folder / WEIGHTS_NAME)
    )
    write_json(path.with_suffix(".json"), notes)
    height, width = graph.example[2:]
    shape = "any batch, height and width" if graph.dynamic else f"one image of {height} x {width} at a time"
    return f"{path}: takes {shape}; {path.with_suffix('.json')} says how to use it; runs in {runs_in}"
