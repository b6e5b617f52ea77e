"""Label maps with the ids of ImageNet-S."""

from luss.export.masks import mask_export
from stages.exports.base import ExportRequest
from stages.exports.labelled import export_labels

_TEXT = """\
`masks/<name>.png` is the label map of the image `<name>`, at its size: an RGB PNG whose pixel says id = R + 256 G, as in
ImageNet-S. 0 is the background.

```python
import numpy as np
from PIL import Image

pixels = np.asarray(Image.open("masks/dog/x.png")).astype(int)
ids = pixels[..., 0] + 256 * pixels[..., 1]
```"""


def export(request: ExportRequest) -> str:
    """Writes `masks/<name>.png`."""
    return export_labels(
        request, "png", _TEXT, lambda images, position: mask_export(request.out, images, coloured=False)
    )
