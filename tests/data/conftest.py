"""A miniature ImageNet and its annotations."""

from pathlib import Path

import numpy as np
import pytest
from small_imagenet import DOG, FISH, MERGED, SEMI, TOWEL, VAL_FOLDERS, VALIDATION, fill

from luss.data.imagenet_s import write_mask


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    root = tmp_path / "imagenet"
    for wnid in (FISH, DOG, TOWEL):
        for number in range(3):
            fill(root / "train" / wnid / f"{wnid}_{number}.JPEG")
    for number in (5, 174):
        fill(root / "train" / MERGED / f"{MERGED}_{number}.JPEG")
    for wnid, numbers in VAL_FOLDERS.items():
        for number in numbers:
            fill(root / "val" / wnid / f"ILSVRC2012_val_{number:08d}.JPEG")
    return root


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    """The unpacked archive of the 919 set."""
    root = tmp_path / "downloads" / "ImageNetS919"
    for split, names in (("train-semi", SEMI), ("validation", VALIDATION)):
        for wnid, stems in names.items():
            for stem in stems:
                write_mask(root / f"{split}-segmentation" / wnid / f"{stem}.png", np.full((3, 4), 2))
    return root
