"""Label maps as palette pictures, which any viewer shows in colour."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from luss.errors import LussError
from luss.export.formats import LabelFormat
from luss.export.job import FileWriter
from luss.export.labelled import LabelledImages
from luss.export.png import mask_files
from luss.files import replacing
from luss.labels.palette import palette

LARGEST_PALETTE_ID = 255
"""A palette PNG stores one byte a pixel."""
_TEXT = """\
`masks/<name>.png` is the label map of the image `<name>`, at its size: a palette PNG whose pixel values are the ids; 0 is
the background. The colours are the same in every file.

```python
import numpy as np
from PIL import Image

ids = np.asarray(Image.open("masks/dog/x.png"))
```"""


def check_palette_ids(ids: Iterable[int]) -> None:
    """Raises LussError, which names the format png, when an id that label maps may hold does not fit into a palette picture."""
    if (largest := max(ids, default=0)) > LARGEST_PALETTE_ID:
        raise LussError(
            f"palette pictures hold ids up to {LARGEST_PALETTE_ID}, but there is a cluster {largest}: "
            "use the format png, which holds ids up to 65535"
        )


def write_palette_mask(path: Path, ids: NDArray[np.integer[Any]]) -> None:
    """Writes a label map, (H, W) whole numbers in 0..255, as a palette PNG, atomically; its folder is made when absent.

    Pixel values are the ids and the colours those of `luss.labels.palette`, the same for every file.

    Raises:
        LussError: An id above 255; the disk is full.
    """
    check_palette_ids([int(ids.max(initial=0))])
    image = Image.fromarray(ids.astype(np.uint8))
    image.putpalette(palette(LARGEST_PALETTE_ID + 1).tobytes())
    with replacing(path) as temporary:
        image.save(temporary, format="PNG")


def _writer(folder: Path, images: LabelledImages, position: Mapping[str, Any] | None) -> FileWriter[Path]:
    check_palette_ids(images.categories)
    return mask_files(folder, images, write_palette_mask)


FORMAT = LabelFormat(_TEXT, _writer)
