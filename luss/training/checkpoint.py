"""Checkpoints: written atomically, newest two kept, a damaged newest one falls back to the one before."""

import random
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from luss.files import remove_partials, replacing
from luss.refusals import refuse

_NAME = re.compile(r"step-(\d{9})\.pt")
_KEEP = 2


def save_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Writes a checkpoint of tensors and plain containers after `step` steps, and removes all but the newest two; returns its file.

    Those of later steps could not be continued: they get names that nobody takes for a checkpoint's.

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
    kept = checkpoints(folder)
    for unusable in kept[kept.index(path) + 1 :]:
        unusable.rename(unusable.with_name(f"{unusable.name}.unusable"))
    for old in kept[: kept.index(path) + 1][:-_KEEP]:
        old.unlink()
    return path


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoint files of a folder, oldest first."""
    if not folder.is_dir():
        return []
    remove_partials(folder)
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def load_newest(
    folder: Path, *, warn: Callable[[str], None], misfit: Callable[[dict[str, Any]], str] = lambda state: ""
) -> dict[str, Any] | None:
    """The newest checkpoint that is whole and fits, on the CPU; None when there is none.

    Others are reported through `warn` and passed over. Nothing is unpickled but tensors and plain containers.

    Args:
        folder: Of the checkpoints.
        warn: Told of each that is passed over.
        misfit: Says why a state cannot be continued; empty where it can.

    Raises:
        LussError: A file cannot be opened, which says nothing about it.
    """
    for path in reversed(checkpoints(folder)):
        try:
            # torch does not verify the checksums of its own archive.
            with zipfile.ZipFile(path) as archive:
                broken = archive.testzip()
            if broken is not None:
                raise zipfile.BadZipFile(f"checksum of {broken}")
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            problem = misfit(state)
        except Exception as error:
            refuse(error, path)
            problem = f"is damaged ({error})"
        if not problem:
            return state
        warn(f"the checkpoint {path} {problem}; falling back to the one before it, or to the start")
    return None


def misfit(model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: Any, num_steps: int) -> str:
    """Why a checkpoint's state cannot be laid into a network and its optimiser, which are not touched; empty where it can."""
    try:
        ours, theirs = _shapes(model.state_dict()), _shapes(state["model"])
        groups = [len(group["params"]) for group in optimizer.state_dict()["param_groups"]]
        its_groups = [len(group["params"]) for group in state["optimizer"]["param_groups"]]
        step, _, _ = state["step"], state["scaler"], state["random"]
    except (KeyError, TypeError, AttributeError) as error:
        return f"is no checkpoint of a training ({error!r})"
    if differ := sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)):
        name = differ[0]
        found = f"{name} is {theirs.get(name, 'absent')}, not {ours.get(name, 'there at all')}"
        return f"is of another network ({found}, and {len(differ) - 1} more)"
    if groups != its_groups or not isinstance(step, int) or not 0 <= step <= num_steps:
        return f"is of another training (step {step} of {num_steps}, parameters {its_groups} where there are {groups})"
    return ""


def _shapes(state: Any) -> dict[str, tuple[int, ...]]:
    """Of the tensors; other entries of a state are compared by nobody."""
    return {name: tuple(value.shape) for name, value in state.items() if isinstance(value, torch.Tensor)}


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
