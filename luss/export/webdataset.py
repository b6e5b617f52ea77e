"""Tar shards for the library webdataset: the bytes of the image file, its mask and a few facts, in the order of the images.

A sample has the members `<key>.<suffix of the image>`, `<key>.seg.png` (ids of ImageNet-S, id = R + 256 G) and
`<key>.json`; the key is the image's number. Equal labels and images give equal bytes: members carry no dates or owners.
"""

import contextlib
import io
import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from luss.data.imagenet_s import encode_mask
from luss.data.images import UnreadableImage, read_size
from luss.data.skipped import escape_path
from luss.export.formats import LabelFormat
from luss.export.job import Writer
from luss.export.labelled import LabelledImages, MissingImage
from luss.files import TEMPORARY_SUFFIX
from luss.labels.writer import Labels
from luss.refusals import refusals_named

SHARD_BYTES = 512 << 20
"""A shard is closed when it has reached this size; one image more at most."""
_TEXT = """\
`SPLIT-000000.tar`, ... hold the image files as they are, each with its mask `seg.png` (RGB PNG, id = R + 256 G, 0 is the
background) and `json` (name, size, clusters).

```python
import webdataset as wds

data = wds.WebDataset("SPLIT-{000000..000009}.tar", shardshuffle=False).decode("pil")  # the shards that are there
```"""


class ShardWriter(Writer):
    """The format `webdataset` of `luss export`: `<split>-000000.tar`, ...; a shard appears when it is complete."""

    def __init__(self, folder: Path, images: LabelledImages, position: Mapping[str, int] | None) -> None:
        """`position` is where an earlier try stopped, always behind a complete shard; the folder is made when absent."""
        self._folder, self._images = folder, images
        self._shard = 0 if position is None else position["shards"]
        self._file: IO[bytes] | None = None
        self._tar: tarfile.TarFile | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, index: int, ids: Labels) -> bool:
        """See `luss.export.job.Writer.write`; true when the shard is full."""
        path, (height, width) = self._images.image(index), ids.shape
        try:
            # A manifest from elsewhere may name any file: only images leave the disk in an export.
            size = read_size(path, width * height)
            image = path.read_bytes()
        except UnreadableImage as error:
            raise MissingImage(f"cannot be read: {error.reason}") from error
        except OSError as error:
            raise MissingImage(f"cannot be read: {error.strerror}") from error
        if size != (width, height):
            raise MissingImage(f"is not the image that was labelled: that one had {width} x {height} pixels")
        clusters = [int(found) for found in np.unique(ids) if found]
        name = escape_path(self._images.name(index))
        facts = {"name": name, "width": width, "height": height, "clusters": clusters}
        mask = io.BytesIO()
        encode_mask(ids).save(mask, format="PNG")
        with self._reporting():
            tar = self._open()
            key = f"{index:09d}"
            _add(tar, f"{key}{path.suffix.lower()}", image)
            _add(tar, f"{key}.seg.png", mask.getvalue())
            _add(tar, f"{key}.json", json.dumps(facts, ensure_ascii=False).encode())
        assert self._file is not None
        return self._file.tell() >= SHARD_BYTES

    def position(self) -> dict[str, Any]:
        """See `luss.export.job.Writer.position`: closes the shard."""
        if self._tar is not None and self._file is not None:
            with self._reporting():
                self._tar.close()
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
                os.replace(self._temporary(), self._folder / self._name())
            self._tar = self._file = None
            self._shard += 1
        return {"shards": self._shard}

    def close(self) -> None:
        """See `luss.export.job.Writer.close`; an unfinished shard is written again by the next try."""
        if self._file is not None:
            self._file.close()
            self._temporary().unlink(missing_ok=True)

    def _open(self) -> tarfile.TarFile:
        if self._tar is None:
            self._file = open(self._temporary(), "wb")  # noqa: SIM115  (lives with the shard)
            self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        return self._tar

    def _name(self) -> str:
        return f"{self._images.split}-{self._shard:06d}.tar"

    def _temporary(self) -> Path:
        return self._folder / f".{self._name()}{TEMPORARY_SUFFIX}"

    def _reporting(self) -> contextlib.AbstractContextManager[None]:
        return refusals_named(self._folder, "run the same command again, it continues")


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o644
    tar.addfile(member, io.BytesIO(content))


FORMAT = LabelFormat(_TEXT, ShardWriter, with_images=True)
