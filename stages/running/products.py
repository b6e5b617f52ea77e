"""Whether the products of finished stages still are what they were: damage that keeps a file's size, such as a flipped bit.

`DONE.json` has a checksum of every product, `masks.json` one of all masks of a split. Those of shards were taken when each shard was made.
Results of earlier versions have none, and count as sound.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from luss.errors import LussError
from luss.files import checksum, read_record
from stages.base import MASKS
from stages.parts.masks import MASKS_RECORD, masks_checksum
from stages.running.folder import read_done
from stages.sharded import CHECKSUMS

# A stage's products up to so many bytes together, the smallest first, are looked at before another stage reads them: some 0.1 s.
SMALL_BYTES = 256 << 20
# What this process has found sound, with size, time and place on the disk: it is not read again.
_SOUND: dict[Path, tuple[int, int, int]] = {}


def require_sound(run_folder: Path, stages: Sequence[str], *, most_bytes: int | None = None) -> None:
    """Makes sure that the products of stages, those that are done, have the content that they had at the end of their stage.

    Masks are not read: PNG has checksums of its own, which every reader asks.

    Args:
        run_folder: The run's folder.
        stages: Names.
        most_bytes: Looks at no more than this of a stage; None = everything.

    Raises:
        LussError: One has another content; names it, its stage and the remedy. Nothing is deleted.
    """
    for stage in stages:
        for name in damaged(run_folder / stage, most_bytes=most_bytes):
            raise LussError(
                f"{run_folder / stage / name} is damaged: it is not what {stage} has written (its checksum differs). Put a sound copy in "
                f"its place, or make the stage anew: luss run CONFIG --force {stage}"
            )


def damaged(folder: Path, *, most_bytes: int | None = None) -> Iterator[str]:
    """The products of a stage's folder that are gone or have another content; masks are left to `damaged_masks`.

    Raises:
        LussError: A file cannot be read, or the stage's record is damaged.
    """
    record = read_done(folder)
    sizes, left = record.get("products", {}), most_bytes
    for name, wanted in sorted(checksums_of(record).items(), key=lambda item: int(sizes.get(item[0], 0))):
        if left is not None and (left := left - int(sizes.get(name, 0))) < 0:
            return
        if not _is_sound(folder / name, wanted):
            yield name


def damaged_masks(folder: Path) -> Iterator[str]:
    """The folders of masks in a stage's folder that have another content than at its end. Reads every mask.

    Raises:
        LussError: A file cannot be read.
    """
    if (folder / MASKS_RECORD).is_file():
        for split, wanted in read_record(folder / MASKS_RECORD).items():
            masks = folder / MASKS / split
            if masks_checksum(masks, masks.rglob("*.png")) != wanted:
                yield f"{MASKS}/{split}"


def checksums_of(record: Mapping[str, Any]) -> dict[str, str]:
    """The checksums in a stage's record; empty where an earlier version has written it."""
    found = record.get(CHECKSUMS, {})
    return dict(found) if isinstance(found, dict) else {}


def _is_sound(path: Path, wanted: str) -> bool:
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    seen = (status.st_size, status.st_mtime_ns, status.st_ino)
    if _SOUND.get(path) != seen:
        if checksum(path) != wanted:
            return False
        _SOUND[path] = seen
    return True
