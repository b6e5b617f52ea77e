"""What a trained model says about a folder of images, as an export: `luss predict`.

    masks/<name>.png | .npz   label maps at the images' sizes, names kept (`luss.data.names.MaskNames`)
    coco.json                 in place of masks, for the format coco; for label-studio and cvat what `luss export` writes
    overlays/<name>.jpg       the image under the colours of its map, at most 4 megapixels
    summary.json              ids with names, colours, pixels and images

The folder grows: images that have come since an earlier pass are added to it.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from luss.data.images import read_image
from luss.data.manifest import Manifest
from luss.data.names import NameIndex
from luss.data.skipped import SkippedFiles
from luss.export import load_format
from luss.export.coco import CocoWriter, mask_api
from luss.export.formats import LabelFormat
from luss.export.job import SAVE_EVERY, ExportFolder, FileWriter, Tally, Together, Writer
from luss.export.labelled import ManifestImages, MissingImage
from luss.export.palette import check_palette_ids
from luss.files import replacing
from luss.labels.palette import overlay, palette
from luss.labels.sampling import resize_nearest
from luss.models.segmenter import compared_size
from luss.predict import Confidence, Labels, Predicted

OVERLAYS = "overlays"
"""The writer of overlays, by name in the position of a folder."""
OVERLAY_PIXELS = 4_000_000


class SegmentedImages(ManifestImages):
    """Images that are segmented while their label maps are asked for, a block at a time, in batches of one shape.

    Attributes:
        notes: Path and note of images that were read although something is wrong with them, so far.
        confidence: (H, W) of the image whose label map was given last, where it was asked for.
    """

    # The same batches, and so the same bits, whether or not a pass was killed: it is continued between blocks.
    block = SAVE_EVERY

    def __init__(
        self, manifest: Manifest, names: Mapping[int, str], segment: Callable[[Sequence[int]], Iterator[Predicted]]
    ) -> None:
        """Args:
        manifest: The images.
        names: Name of every id 0..C.
        segment: Gives the label maps of images of the manifest, in any order that depends on nothing else.
        """
        categories = {cluster: name for cluster, name in sorted(names.items()) if cluster}
        super().__init__(manifest, categories, len(names) - 1)
        self._segment = segment
        self.notes: list[tuple[str, str]] = []
        self.confidence: Confidence | None = None

    def label_maps(self, start: int) -> Iterator[tuple[int, Labels | MissingImage]]:
        for first in range(start, len(self), self.block):
            for found in self._segment(range(first, min(first + self.block, len(self)))):
                self.notes += found.notes
                self.confidence = found.confidence
                reason = found.unreadable[1] if found.unreadable else ""
                yield found.index, MissingImage(reason) if found.labels is None else found.labels

    def listed(self, count: int) -> str:
        """See `LabelledImages.listed`: names, sizes, and which masks have unusual names."""
        return hashlib.sha256(self.manifest.digest(count).encode() + self._mask_names.shared.tobytes()).hexdigest()


def earlier_first(earlier: Manifest, names: Iterable[str]) -> Iterator[str]:
    """The names of an earlier list in its order, then those of `names` that it does not have; keeps 16 bytes an image."""
    yield from earlier.names()
    known = NameIndex(earlier.names(), len(earlier))
    for name in names:
        if not any(earlier.name(place) == name for place in known.places(name)):
            yield name


def relist(
    folder: ExportFolder, unreadable: SkippedFiles, make_list: Callable[[bool], SegmentedImages]
) -> SegmentedImages:
    """Lists the images anew, so that those come first that an earlier pass has done; where they have changed or are gone, all are done again.

    Args:
        folder: Of an earlier pass, or new.
        unreadable: What the lister could not use. The folder's list becomes that, and what could not be read in images that are done.
        make_list: Makes the list; told whether the images of the earlier list come first.
    """
    images = make_list(folder.start > 0)
    if folder.start and folder.listed != images.listed(folder.start):
        folder.restart()
        images = make_list(False)
    folder.skipped.begin(unreadable, (images.image(index) for index in range(folder.start)))
    return images


def check_format(format: str, num_clusters: int) -> None:
    """Raises LussError where a format cannot be written: too many clusters for palette pictures, a package that is missing."""
    if format == "palette":
        check_palette_ids([num_clusters])
    if format == "coco":
        mask_api()


def make_writer(
    folder: Path, images: SegmentedImages, position: Mapping[str, Any] | None, *, format: str, with_overlay: bool
) -> Writer:
    """The writer of a folder of predictions, for `luss.export.job.export_images`.

    Args:
        folder, images: Where to, and what.
        position: Where an earlier try stopped.
        format: One of `luss.export.PREDICTED`.
        with_overlay: Whether overlays are written too.

    Raises:
        LussError: What `check_format` says.
    """
    writers: dict[str, Writer] = {}
    earlier = None if position is None else position[format]
    if format == "npz":
        writers[format] = FileWriter(
            lambda index: (folder / "masks" / images.mask_name(index), images.confidence), _write_npz
        )
    elif format == "coco":
        writers[format] = CocoWriter(folder / "coco.json", images, earlier, kind="predictions")
    else:
        masks = load_format(format)
        assert isinstance(masks, LabelFormat)
        writers[format] = masks.writer(folder, images, earlier)
    if with_overlay:
        writers[OVERLAYS] = FileWriter(
            lambda index: (folder / OVERLAYS / images.mask_name(index), images.image(index)), _write_overlay
        )
    return Together(writers)


def summary(tally: Tally, names: Mapping[int, str]) -> dict[str, Any]:
    """The content of `summary.json`: the number of images, and for every id 0..C its name, colour "#rrggbb", pixels and images."""
    colours = palette(len(names))
    classes = [
        {
            "id": i,
            "name": name,
            "colour": "#{:02x}{:02x}{:02x}".format(*colours[i]),
            "pixels": int(tally.pixels[i]),
            "images": int(tally.images[i]),
        }
        for i, name in sorted(names.items())
    ]
    return {"images": tally.num_images, "classes": classes}


def _write_npz(target: tuple[Path, Confidence | None], labels: Labels) -> None:
    path, confidence = target
    assert confidence is not None, "npz stores the confidence"
    with replacing(path.with_suffix(".npz")) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, labels=labels, confidence=confidence.astype(np.float16))


def _write_overlay(target: tuple[Path, Path], labels: Labels) -> None:
    """The blended picture; a large photograph's is smaller than the photograph, so that blending takes bounded memory."""
    path, image_path = target
    height, width = compared_size((labels.shape[0], labels.shape[1]), OVERLAY_PIXELS)
    image = read_image(image_path, min_side=min(height, width))
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    blended = overlay(image, resize_nearest(labels, (height, width)), outline=True)
    with replacing(path.with_suffix(".jpg")) as temporary:
        blended.save(temporary, format="JPEG", quality=90)
