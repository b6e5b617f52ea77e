"""COCO json with run-length masks."""

from luss.export.coco import CocoExport
from stages.exports.base import ExportRequest
from stages.exports.labelled import export_labels

_TEXT = """\
`annotations.json` is a COCO file: one annotation for every cluster of an image, its mask run-length coded; the category is
the cluster's id. `file_name` is the image's path below its folder.

```python
from pycocotools.coco import COCO

coco = COCO("annotations.json")
mask = coco.annToMask(coco.loadAnns(coco.getAnnIds(imgIds=[1]))[0])  # (H, W) of 0 and 1
```"""


def export(request: ExportRequest) -> str:
    """Writes `annotations.json`."""
    return export_labels(request, "coco", _TEXT, lambda images, position: CocoExport(request.out, images, position))
