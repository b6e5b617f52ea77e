"""A folder that torch reads without luss: the stored label maps and `dataset.py`, a Dataset in one file."""

from pathlib import Path

from luss.data.skipped import escape_path
from luss.export import standalone_dataset
from luss.export.formats import LabelFormat
from luss.export.job import Writer
from luss.export.labelled import LabelledImages, StoredLabels
from luss.files import link_or_copy, replacing, write_json, write_text

_TEXT = """\
`dataset.py` is a torch Dataset in one file that needs h5py, NumPy, Pillow and torch, and not luss. It reads `labels/` (label
maps on the feature grid with the attention of every position, so the threshold is free to change) and `labels.json`. The
images stay where they are.

```python
from dataset import PseudoLabelDataset

data = PseudoLabelDataset(image_root="photos/train")
image, label, name = data[0]  # PIL image, (H, W) int64 tensor, path
```"""


def write_torch_folder(path: Path, images: LabelledImages) -> None:
    """Writes `labels/`, `labels.json` and `dataset.py` into a folder; what is there already and whole is left.

    A stage never changes a file of labels, it replaces it: so they are linked where the disk is the same, and copied elsewhere.

    Raises:
        LussError: The disk is full.
    """
    assert isinstance(images, StoredLabels), "the format holds one split"
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
        link_or_copy(source, temporary)


FORMAT = LabelFormat(_TEXT, lambda folder, images, position: Writer(), finish=write_torch_folder, only_split="train")
