"""The published annotations of ImageNet-S: finding the sets in a folder, and unpacking archives without trusting them.

A release archive `ImageNetS50-<32 letters>.zip` (300 and 919 alike) holds `ImageNetS50/train-semi-segmentation/<wnid>/<name>.png` and
`ImageNetS50/validation-segmentation/<wnid>/<name>.png`; one more folder above, or none, is taken as well.
Source: https://github.com/LUSSeg/ImageNet-S.
"""

import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from luss.data.imagenet_s import MASK_FOLDER_SUFFIX
from luss.errors import LussError
from luss.files import replacing

MASKED_SPLITS = ("train-semi", "validation")
"""Splits whose masks are public."""

# The masks of all three sets are about 45,000 PNG files of some ten kB: limits that only a hostile archive reaches.
MAX_MEMBERS = 500_000
MAX_TOTAL_BYTES = 16 << 30
MAX_MEMBER_BYTES = 256 << 20

_SET = re.compile(r"ImageNetS(50|300|919)(?![0-9])")
_DRIVE = re.compile(r"^[A-Za-z]:")


def find_sets(folder: Path) -> dict[int, Path]:
    """The annotated sets in a folder of unpacked annotations: the folder itself, its folders, or theirs.

    Returns:
        50, 300 or 919 to the folder that holds `<split>-segmentation`, ascending.

    Raises:
        LussError: There is none, or one of them twice.
    """
    if not folder.is_dir():
        raise LussError(f"{folder} is not a folder: give the annotation archive (.zip) or its unpacked folder")
    if not (found := _sets(folder)):
        raise LussError(
            f"{folder} holds no annotations of ImageNet-S: expected ImageNetS50, ImageNetS300 or ImageNetS919 in it, "
            "with the folders train-semi-segmentation and validation-segmentation"
        )
    return found


def open_annotations(
    given: Path, unpacked: Path, *, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[int, Path]:
    """The annotated sets in what a person has downloaded.

    Args:
        given: A release archive, the folder it was unpacked to, or a folder of several of either.
        unpacked: Where archives are unpacked, each to a folder of its name.
        on_progress: See `unpack`.

    Returns:
        See `find_sets`. A set that is both packed and unpacked in `given` is read from the folder.

    Raises:
        LussError: See `find_sets` and `unpack`.
    """
    found = _sets(given) if given.is_dir() else {}
    for archive in sorted(given.glob("*.zip")) if given.is_dir() else [given]:
        named = _SET.match(archive.name)
        if given.is_dir() and (named is None or int(named[1]) in found):
            continue
        folder = unpacked / archive.stem
        unpack(archive, folder, on_progress=on_progress)
        found |= find_sets(folder)
    return dict(sorted(found.items())) if found else find_sets(given)


def _sets(folder: Path) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for candidate in _three_levels(folder):
        named = _SET.match(candidate.name)
        if named and any((candidate / f"{split}{MASK_FOLDER_SUFFIX}").is_dir() for split in MASKED_SPLITS):
            number = int(named[1])
            if number in found:
                raise LussError(f"both {found[number]} and {candidate} hold ImageNetS{number}: give one of them")
            found[number] = candidate
    return dict(sorted(found.items()))


def _three_levels(folder: Path) -> Iterable[Path]:
    yield folder.absolute()
    for child in _folders(folder):
        yield child
        # Inside a set are only splits and categories.
        if not _SET.match(child.name) or not any(child.glob(f"*{MASK_FOLDER_SUFFIX}")):
            yield from _folders(child)


def _folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def unpack(archive: Path, folder: Path, *, on_progress: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Unpacks an annotation archive, continuing where an earlier try stopped.

    Nothing is written before all names and sizes are checked. Each file is complete or absent; one of the right size is kept.

    Args:
        archive: The zip file.
        folder: Where its members go; made when absent.
        on_progress: Called with (files done, files in all).

    Raises:
        LussError: The file is no zip file or is damaged; a member would leave `folder`, is a link or is encrypted; the archive
            is larger than `MAX_MEMBERS`, `MAX_TOTAL_BYTES` or `MAX_MEMBER_BYTES` allow; the disk is full.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            targets = _checked(archive, opened.infolist(), folder)
            _check_space(archive, folder, sum(member.file_size for member in targets.values()))
            for done, (target, member) in enumerate(targets.items(), start=1):
                if not (target.is_file() and target.stat().st_size == member.file_size):
                    with opened.open(member) as packed, replacing(target) as temporary, open(temporary, "wb") as file:
                        shutil.copyfileobj(packed, file)
                on_progress(done, len(targets))
    except FileNotFoundError as error:
        raise LussError(f"{archive} does not exist: give the annotation archive (.zip) or its folder") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise LussError(f"{archive} is not a sound zip file ({error}): download it again") from error


def _checked(archive: Path, members: list[zipfile.ZipInfo], folder: Path) -> dict[Path, zipfile.ZipInfo]:
    """Target to member, for the files that count; refuses the whole archive for one bad member."""
    total = sum(member.file_size for member in members)
    largest = max((member.file_size for member in members), default=0)
    if len(members) > MAX_MEMBERS or total > MAX_TOTAL_BYTES or largest > MAX_MEMBER_BYTES:
        raise LussError(
            f"{archive} would unpack to {len(members)} files of {total / 2**30:.1f} GiB, the largest of {largest / 2**20:.0f} MiB: limits are "
            f"{MAX_MEMBERS}, {MAX_TOTAL_BYTES >> 30} GiB and {MAX_MEMBER_BYTES >> 20} MiB. This is not the published archive"
        )
    targets: dict[Path, zipfile.ZipInfo] = {}
    for member in members:
        if fault := _fault(member):
            raise LussError(
                f"{archive} was not unpacked: its member {member.orig_filename!r} {fault}. Download it again"
            )
        parts = PurePosixPath(member.filename).parts
        # What file managers add: .DS_Store, __MACOSX.
        if not member.is_dir() and not any(part.startswith((".", "__MACOSX")) for part in parts):
            targets[folder.joinpath(*parts)] = member
    return targets


def _fault(member: zipfile.ZipInfo) -> str:
    # zipfile cuts a name at a zero byte, and on some systems turns backslashes: the name as stored is what must be harmless.
    name = member.orig_filename
    if name.startswith(("/", "\\")) or _DRIVE.match(name):
        return "has an absolute path"
    if "\\" in name or "\0" in name:
        return "has a backslash or a zero byte in its name"
    if ".." in PurePosixPath(name).parts:
        return "leads out of the archive's folder (..)"
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    return "is encrypted" if member.flag_bits & 1 else ""


def _check_space(archive: Path, folder: Path, needed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    present = sum(path.stat().st_size for path in folder.rglob("*.png"))
    free = shutil.disk_usage(folder).free
    if needed - present > free:
        raise LussError(
            f"{archive} needs {(needed - present) / 2**20:.0f} MiB in {folder}, but the disk has {free / 2**20:.0f}: free some space"
        )
