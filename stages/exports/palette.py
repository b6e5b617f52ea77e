"""Label maps as pictures that any viewer shows in colour."""

from luss.export.masks import mask_export
from stages.exports.base import ExportRequest
from stages.exports.labelled import export_labels

_TEXT = """\
`masks/<name>.png` is the label map of the image `<name>`, at its size: a palette PNG whose pixel values are the ids; 0 is
the background. The colours are the same in every file.

```python
import numpy as np
from PIL import Image

ids = np.asarray(Image.open("masks/dog/x.png"))
```"""


def export(request: ExportRequest) -> str:
    """Writes `masks/<name>.png`."""
    return export_labels(
        request, "palette", _TEXT, lambda images, position: mask_export(request.out, images, coloured=True)
    )
