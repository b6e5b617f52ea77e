"""A folder that torch reads without luss: the stored label maps and `dataset.py`, a Dataset in one file."""

import os
import shutil
from pathlib import Path
from typing import Any

from luss.data.skipped import escape_path
from luss.export import standalone_dataset
from luss.export.labelled import StoredLabels
from luss.files import replacing, write_json, write_text
from luss.labels.writer import Labels


class TorchFolder:
    """The format `torch` of `luss export`: `labels/`, `labels.json` and `dataset.py`. The images are only counted, not written."""

    def __init__(self, path: Path, images: StoredLabels) -> None:
        """Args:
        path: The folder of the export.
        images: The pseudo labels.
        """
        self._path, self._images = path, images

    def write(self, index: int, ids: Labels) -> bool:
        """See `luss.export.job.Writer.write`."""
        return False

    def position(self) -> dict[str, Any]:
        """See `luss.export.job.Writer.position`."""
        return {}

    def finish(self) -> None:
        """See `luss.export.job.Writer.finish`."""
        write_torch_folder(self._path, self._images)

    def close(self) -> None:
        """See `luss.export.job.Writer.close`."""


def write_torch_folder(path: Path, images: StoredLabels) -> None:
    """Writes `labels/`, `labels.json` and `dataset.py`; what is there already and whole is left.

    A stage never changes a file of labels, it replaces it: so they are linked where the disk is the same, and copied elsewhere.

    Args:
        path: The folder.
        images: The pseudo labels.

    Raises:
        LussError: The disk is full.
    """
    store = images.store
    for source in [*sorted(store.path.parent.glob("shard-*.h5")), store.path]:
        _place(source, path / "labels" / source.name)
    layer = store.layer
    write_json(
        path / "labels.json",
        {
            "image_root": escape_path(str(images.image_root)),
            "num_clusters": store.num_clusters,
            "threshold": store.threshold,
            "names": {str(cluster): name for cluster, name in images.categories.items()},
            "merged": {str(found): target for found, target in layer.merged.items()},
            "dropped": list(layer.dropped),
        },
    )
    write_text(path / "dataset.py", Path(standalone_dataset.__file__).read_text(encoding="utf-8"))


def _place(source: Path, target: Path) -> None:
    if target.is_file() and target.stat().st_size == source.stat().st_size:
        return
    with replacing(target) as temporary:
        # A killed process of the same number may have left a link to the stage's own file: it must not be written to.
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
