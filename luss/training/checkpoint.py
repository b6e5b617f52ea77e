"""Checkpoints: written atomically, newest two kept, a damaged newest one falls back to the one before."""

import random
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from luss.files import TEMPORARY_SUFFIX, replacing

_NAME = re.compile(r"step-(\d{9})\.pt")
_KEEP = 2


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Writes a checkpoint of tensors and plain containers after `step` steps, and removes all but the newest two; returns its file.

    Raises:
        LussError: The disk is full; earlier checkpoints are untouched.
    """
    path = folder / f"step-{step:09d}.pt"
    with replacing(path) as temporary:
        try:
            with open(temporary, "wb") as file:
                torch.save(state, file)
        except RuntimeError as error:
            # torch covers the system's error (a full disk) by one about its archive's inner positions.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise
    for old in checkpoints(folder)[:-_KEEP]:
        old.unlink()
    return path


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoint files of a folder, oldest first."""
    if not folder.is_dir():
        return []
    for left in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        left.unlink(missing_ok=True)
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def load_newest(folder: Path, *, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest checkpoint that is whole, on the CPU; None when there is none.

    Damaged files are reported through `warn` and passed over. Nothing is unpickled but tensors and plain containers.
    """
    for path in reversed(checkpoints(folder)):
        try:
            # torch does not verify the checksums of its own archive.
            with zipfile.ZipFile(path) as archive:
                broken = archive.testzip()
            if broken is not None:
                raise zipfile.BadZipFile(f"checksum of {broken}")
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            return state
        except Exception as error:
            warn(f"the checkpoint {path} is damaged ({error}); falling back to the one before it")
    return None


def random_state() -> dict[str, Any]:
    """The state of every global random generator, as tensors and plain containers."""
    version, words, gauss = random.getstate()
    numpy_state: dict[str, Any] = dict(np.random.get_state(legacy=False))  # noqa: NPY002  (libraries may use the global one)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": [version, list(words), gauss],
        "numpy": [
            torch.from_numpy(numpy_state["state"]["key"].astype(np.int64)),
            int(numpy_state["state"]["pos"]),
            int(numpy_state["has_gauss"]),
            float(numpy_state["gauss"]),
        ],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Puts back what `random_state` gave."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    key, position, has_gauss, cached = state["numpy"]
    np.random.set_state(("MT19937", key.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
