"""Tasks for Label Studio, each an image with one brush mask for every cluster, as a prediction that people correct.

The files hold no images: Label Studio fetches them itself, from a folder that it was told to serve.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from luss.data.skipped import escape_path
from luss.export.formats import LabelFormat
from luss.export.labelled import LabelledImages, distinct_names
from luss.export.parts import PartsWriter, numbered, remove_surplus, write_list
from luss.files import replacing, write_text
from luss.labels.palette import palette
from luss.labels.writer import Labels

FILE_BYTES = 200 << 20
"""A file of tasks is closed when it has reached this size: Label Studio takes uploads of up to 250 MB."""
_RUN_BITS = np.array([3, 4, 8, 16])
_LONGEST_RUN = 1 << 16
_TEXT = """\
`tasks-000000.json`, ... hold a task for every image, with one brush mask a cluster as its prediction; `label_config.xml` has the
labels. Start Label Studio with `LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true` and `LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT` set to
the folder that holds the folder of the images. In a new project paste `label_config.xml` (Settings, Labeling Interface, Code), add
the folder of the images as a local storage (Settings, Cloud Storage; do not sync it), and import the files."""


class LabelStudioWriter(PartsWriter):
    """`tasks-000000.json`, ... and `label_config.xml`; the files appear at `finish`."""

    def __init__(self, folder: Path, images: LabelledImages, position: Mapping[str, int] | None) -> None:
        """`position` is where an earlier try stopped; the folder is made when absent."""
        super().__init__(folder / "tasks.json", ("tasks",), position)
        self._images, self._names = images, distinct_names(images.categories)

    def write(self, index: int, ids: Labels) -> bool:
        """Adds a task; it names the image by its path from the folder above the image root, as Label Studio serves it."""
        name, (height, width) = self._images.name(index), ids.shape
        path = f"{self._images.image_root.name}/{name}".encode("utf-8", "surrogateescape")
        facts = {"original_width": width, "original_height": height, "image_rotation": 0}
        brush = {"type": "brushlabels", "from_name": "label", "to_name": "image"}
        result = [
            {
                "id": f"cluster-{found}",
                **brush,
                **facts,
                "value": {"format": "rle", "rle": brush_rle(ids == found), "brushlabels": [self._names[found]]},
            }
            for found in np.unique(ids).tolist()
            if found
        ]
        data = {"image": f"/data/local-files/?d={quote(path)}", "name": escape_path(name)}
        self.add("tasks", {"data": data, "predictions": [{"model_version": "luss", "result": result}]})
        return False

    def finish(self) -> None:
        """See `luss.export.job.Writer.finish`."""
        self.position()
        written = 0

        def file_of(line: str) -> int:
            nonlocal written
            written += len(line)
            return written // FILE_BYTES

        paths = numbered(self.path.parent, "tasks-{}.json")
        for _, lines in itertools.groupby(self.lines("tasks"), file_of):
            with replacing(next(paths)) as temporary, open(temporary, "w", encoding="utf-8") as file:
                write_list(file, lines)
        remove_surplus(paths)
        write_text(self.path.with_name("label_config.xml"), label_config(self._names))


def label_config(names: Mapping[int, str]) -> str:
    """The interface of a project that shows these brush labels, in the colours of `luss.labels.palette`."""
    colours = palette(max(names, default=0) + 1)
    labels = (
        f'    <Label value={quoteattr(name)} background="#{colours[key].tobytes().hex()}"/>\n'
        for key, name in sorted(names.items())
    )
    image = '  <Image name="image" value="$image" zoom="true"/>\n'
    return f'<View>\n{image}  <BrushLabels name="label" toName="image">\n{"".join(labels)}  </BrushLabels>\n</View>\n'


def brush_rle(mask: NDArray[np.bool_]) -> list[int]:
    """A mask as Label Studio stores it: the bytes of a stream of bits (the format of the npm package @thi.ng/rle-pack).

    The stream codes the mask as RGBA picture, four equal bytes (0 or 255) a pixel, row by row. It begins with the number of these bytes
    (32 bits), the bits of one of them less 1 (5), and four sizes of counts in bits, less 1 (4 each). Then comes every run: a 1 (a repeated
    value; 0 would begin unlike ones), which size its count has (2), the count less 1, and the value (8).

    Args:
        mask: (H, W) truth values, at most 2**30 of them.
    """
    flat = mask.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=~flat[:1]))
    lengths = 4 * np.diff(starts, append=flat.size)
    # What is longer than a count can say is several runs.
    pieces = -(-lengths // _LONGEST_RUN)
    counts = np.full(pieces.sum(), _LONGEST_RUN)
    counts[np.cumsum(pieces) - 1] = lengths - (pieces - 1) * _LONGEST_RUN
    values = np.repeat(np.where(flat[starts], 255, 0), pieces)
    size = np.searchsorted(1 << _RUN_BITS, counts)
    bits = _RUN_BITS[size]
    codes = (((4 | size) << bits | (counts - 1)) << 8) | values
    places = np.arange(3 + _RUN_BITS[-1] + 8)
    # Each code at the left of its row, so that the rows without what is behind them are the stream.
    table = codes[:, None] << (_RUN_BITS[-1] - bits)[:, None] >> places[::-1] & 1
    runs = table[places < (3 + bits + 8)[:, None]]
    header = f"{4 * flat.size:032b}{7:05b}" + "".join(f"{bits - 1:04b}" for bits in _RUN_BITS)
    stream = np.concatenate([np.array(list(header), np.uint8), runs.astype(np.uint8)])
    found: list[int] = np.packbits(stream).tolist()
    return found


FORMAT = LabelFormat(_TEXT, LabelStudioWriter)
