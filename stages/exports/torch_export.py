"""`luss export RUN --format torch-export`: the segmenter as a torch.export file."""

from luss.export.torch_export import export_torch
from stages.exports.base import ExportRequest
from stages.exports.graph import export_graph


def export(request: ExportRequest) -> str:
    """Writes the file, and a JSON that says how to use it."""
    return export_graph(request, export_torch, suffix=".pt2", runs_in="torch.export.load")
