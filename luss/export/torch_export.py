"""The segmenter as a torch.export file (.pt2), which runs without luss and timm."""

from pathlib import Path

import torch

from luss.export.graph import Graph, Run, graph_format, write_graph
from luss.models.segmenter import SegmentationNetwork
from luss.settings import PredictSettings


def export_torch(network: SegmentationNetwork, settings: PredictSettings, path: Path) -> Graph:
    """Writes a file for `torch.export.load(path).module()(images)`, see `luss.export.graph.write_graph`.

    Raises:
        LussError: The network cannot be held; the disk is full.
    """

    def write(graph: Graph, temporary: Path) -> Run:
        with open(temporary, "wb") as file:
            torch.export.save(graph.program, file)
        run: Run = graph.program.module()
        return run

    return write_graph(network, settings, path, write)


FORMAT = graph_format(export_torch, suffix=".pt2", runs_in="torch.export.load")
