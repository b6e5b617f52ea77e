"""`luss export RUN --format model`: one folder with the segmenter and all that its use needs."""

from luss.export.model import export_model
from luss.segmenter import Segmenter
from stages.exports.base import ExportRequest


def export(request: ExportRequest) -> str:
    """Writes `model.safetensors` and `config.json`."""
    segmenter = Segmenter.load(request.folder, device="cpu")
    export_model(segmenter.folder, request.out, decoding=segmenter.settings, names=segmenter.given_names)
    return f"{request.out}: a model of {segmenter.num_clusters} clusters; luss predict {request.out} IMAGES --out MASKS"
