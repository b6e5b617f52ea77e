"""Label maps as PNG files with the ids of ImageNet-S."""

from collections.abc import Callable
from pathlib import Path

from luss.data.imagenet_s import write_mask
from luss.export.formats import LabelFormat
from luss.export.job import FileWriter
from luss.export.labelled import LabelledImages
from luss.labels.writer import Labels

_TEXT = """\
`masks/<name>.png` is the label map of the image `<name>`, at its size: an RGB PNG whose pixel says id = R + 256 G, as in
ImageNet-S. 0 is the background.

```python
import numpy as np
from PIL import Image

pixels = np.asarray(Image.open("masks/dog/x.png")).astype(int)
ids = pixels[..., 0] + 256 * pixels[..., 1]
```"""


def mask_files(folder: Path, images: LabelledImages, write: Callable[[Path, Labels], None]) -> FileWriter[Path]:
    """A writer of `masks/<name>.png` in the folder of an export; `write` writes one of them, atomically."""
    return FileWriter(lambda index: folder / "masks" / images.mask_name(index), write)


FORMAT = LabelFormat(_TEXT, lambda folder, images, position: mask_files(folder, images, write_mask))
