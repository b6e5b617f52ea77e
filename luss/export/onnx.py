"""The segmenter as an ONNX file."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luss.errors import LussError
from luss.export.graph import INPUT, OUTPUTS, Graph, Run, graph_format, write_graph
from luss.models.segmenter import SegmentationNetwork
from luss.settings import PredictSettings


def export_onnx(network: SegmentationNetwork, settings: PredictSettings, path: Path) -> Graph:
    """Writes a file for onnxruntime and others: input `images`, outputs `logits` and `labels`, see `luss.export.graph.write_graph`.

    It is one file up to 2 GB of weights.

    Raises:
        LussError: onnx, onnxscript or onnxruntime is not installed; the network cannot be held; the disk is full.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  (torch.onnx needs it)
        from onnx import save_model
    except ImportError as error:
        raise LussError(f"{error.name} is not installed: pip install 'luss[onnx]'") from error

    def write(graph: Graph, temporary: Path) -> Run:
        program: Any = torch.onnx.export(
            graph.program, (), input_names=[INPUT], output_names=list(OUTPUTS), dynamo=True, verbose=False
        )
        save_model(program.model_proto, str(temporary))
        options = onnxruntime.SessionOptions()
        # Sizes that do not hold are found by trying: their errors are not for the screen.
        options.log_severity_level, options.intra_op_num_threads = 4, torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(temporary), options, providers=["CPUExecutionProvider"])

        def run(images: Tensor) -> tuple[Tensor, Tensor]:
            logits, labels = session.run(list(OUTPUTS), {INPUT: images.numpy()})
            return torch.from_numpy(logits), torch.from_numpy(labels)

        return run

    return write_graph(network, settings, path, write)


FORMAT = graph_format(export_onnx, suffix=".onnx", runs_in="onnxruntime")
