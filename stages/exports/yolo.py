"""Polygons for YOLO's segmentation training."""

from luss.export.yolo import write_data_yaml, yolo_export
from stages.exports.base import ExportRequest
from stages.exports.labelled import export_labels

_TEXT = """\
`labels/SPLIT/<name>.txt` has one polygon a line for every connected region of a cluster (`class x1 y1 x2 y2 ...`,
coordinates as shares of width and height); the class is the cluster's id - 1. `images/SPLIT` holds links to the images and
`data.yaml` the names, so that a trainer needs no more than this folder: `yolo segment train data=data.yaml`. Outlines are
simplified by less than a pixel; a hole is joined to its outline by a seam. `val` points to the same images: give a split of
your own."""


def export(request: ExportRequest) -> str:
    """Writes `images/<split>`, `labels/<split>` and `data.yaml`."""
    return export_labels(
        request,
        "yolo",
        _TEXT,
        lambda images, position: yolo_export(request.out, images),
        finish=lambda images: write_data_yaml(request.out, images),
    )
