"""The stored label maps with a torch Dataset in one file."""

from luss.errors import LussError
from luss.export.labelled import LabelledImages, StoredLabels
from luss.export.torch_snippet import TorchFolder
from stages.exports.base import ExportRequest
from stages.exports.labelled import TRAIN, export_labels

_TEXT = """\
`dataset.py` is a torch Dataset in one file that needs h5py, NumPy, Pillow and torch, and not luss. It reads `labels/` (label
maps on the feature grid with the attention of every position, so the threshold is free to change) and `labels.json`. The
images stay where they are.

```python
from dataset import PseudoLabelDataset

data = PseudoLabelDataset(image_root="photos/train")
image, label, name = data[0]  # PIL image, (H, W) int64 tensor, path
```"""


def export(request: ExportRequest) -> str:
    """Writes `labels/`, `labels.json` and `dataset.py`."""
    if request.split not in ("", TRAIN):
        raise LussError(
            f"--format torch holds the pseudo labels of the training images, not split {request.split!r}: use png or webdataset"
        )
    return export_labels(request, "torch", _TEXT, lambda images, position: _writer(request, images))


def _writer(request: ExportRequest, images: LabelledImages) -> TorchFolder:
    assert isinstance(images, StoredLabels)
    return TorchFolder(request.out, images)
