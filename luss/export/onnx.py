"""The segmenter as an ONNX file."""

from pathlib import Path
from typing import Any

import torch

from luss.errors import LussError
from luss.export.graph import INPUT, OUTPUTS, Graph, graph_format, quiet_tracing, trace
from luss.files import replacing
from luss.models.segmenter import SegmentationNetwork
from luss.settings import PredictSettings


def export_onnx(network: SegmentationNetwork, settings: PredictSettings, path: Path) -> Graph:
    """Writes a file for onnxruntime and others: input `images`, outputs `logits` and `labels`, see `luss.export.graph.trace`.

    It is one file up to 2 GB of weights.

    Raises:
        LussError: onnx or onnxscript is not installed; the disk is full.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  (torch.onnx needs it)
    except ImportError as error:
        raise LussError(f"{error.name} is not installed: pip install 'luss[onnx]'") from error
    graph = trace(network, settings)
    with quiet_tracing():
        program: Any = torch.onnx.export(
            graph.program, (), input_names=[INPUT], output_names=list(OUTPUTS), dynamo=True, verbose=False
        )
    with replacing(path) as temporary:
        onnx.save_model(program.model_proto, str(temporary))
    return graph


FORMAT = graph_format(export_onnx, suffix=".onnx", runs_in="onnxruntime")
