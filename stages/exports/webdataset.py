"""Tar shards for webdataset."""

from luss.export.webdataset import ShardWriter
from stages.exports.base import ExportRequest
from stages.exports.labelled import export_labels

_TEXT = """\
`SPLIT-000000.tar`, ... hold the image files as they are, each with its mask `seg.png` (RGB PNG, id = R + 256 G, 0 is the
background) and `json` (name, size, clusters).

```python
import webdataset as wds

data = wds.WebDataset("SPLIT-{000000..000009}.tar", shardshuffle=False).decode("pil")  # the shards that are there
```"""


def export(request: ExportRequest) -> str:
    """Writes `<split>-<shard>.tar`."""
    return export_labels(
        request, "webdataset", _TEXT, lambda images, position: ShardWriter(request.out, images, position)
    )
