"""A miniature ImageNet of four folders, one of which ImageNet-S-919 merges into another, and the masks of its ImageNet-S."""

import os
import zipfile
from pathlib import Path
from typing import Any

from luss.data.imagenet_s_build import Built, Missing, build_set
from luss.data.imagenet_s_build_sources import ImageNet

FISH, DOG, MERGED, TOWEL = "n01443537", "n02099601", "n03887697", "n15075141"
SEMI = {FISH: [f"{FISH}_2"], DOG: [f"{DOG}_0"], TOWEL: [f"{TOWEL}_1", f"{MERGED}_174"]}
# The second fish lies in the dogs' folder of ImageNet: ImageNet-S has relabelled it.
VALIDATION = {
    FISH: ["ILSVRC2012_val_00000001", "ILSVRC2012_val_00000002"],
    DOG: ["ILSVRC2012_val_00000003"],
    TOWEL: ["ILSVRC2012_val_00000004"],
}
VAL_FOLDERS = {FISH: [1], DOG: [2, 3, 5], TOWEL: [4], MERGED: [6]}


def fill(path: Path) -> None:
    """A file of its own content: nothing here decodes images."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(path.name.encode() * 3)


def packed(annotations: Path, archive: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(archive, "w") as opened:
        for path in sorted(annotations.rglob("*.png")):
            opened.write(path, prefix + path.relative_to(annotations.parent).as_posix())
    return archive


def build(
    annotations: Path, imagenet: Path, out: Path, number: int = 919, **settings: Any
) -> tuple[Built, list[Missing]]:
    missing: list[Missing] = []
    built = build_set(number, annotations, ImageNet.open(imagenet), out, on_missing=missing.append, **settings)
    return built, missing


def tree(root: Path) -> dict[str, bytes]:
    """Every file below a folder, through links, with its content."""
    found = {}
    for folder, _, names in os.walk(root, followlinks=True):
        for name in names:
            path = Path(folder) / name
            found[path.relative_to(root).as_posix()] = path.read_bytes()
    return found


def names(root: Path) -> set[str]:
    return set(tree(root)) if root.is_dir() else set()
