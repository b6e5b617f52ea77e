"""The segmenter as a torch.export file (.pt2), which runs without luss and timm."""

from pathlib import Path

import torch

from luss.export.graph import Graph, graph_format, quiet_tracing, trace
from luss.files import replacing
from luss.models.segmenter import SegmentationNetwork
from luss.settings import PredictSettings


def export_torch(network: SegmentationNetwork, settings: PredictSettings, path: Path) -> Graph:
    """Writes a file for `torch.export.load(path).module()(images)`, see `luss.export.graph.trace`.

    Raises:
        LussError: The disk is full.
    """
    graph = trace(network, settings)
    with quiet_tracing(), replacing(path) as temporary, open(temporary, "wb") as file:
        torch.export.save(graph.program, file)
    return graph


FORMAT = graph_format(export_torch, suffix=".pt2", runs_in="torch.export.load")
