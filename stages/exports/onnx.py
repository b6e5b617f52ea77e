"""`luss export RUN --format onnx`: the segmenter as an ONNX file."""

from luss.export.onnx import export_onnx
from stages.exports.base import ExportRequest
from stages.exports.graph import export_graph


def export(request: ExportRequest) -> str:
    """Writes the file, and a JSON that says how to use it."""
    return export_graph(request, export_onnx, suffix=".onnx", runs_in="onnxruntime")
