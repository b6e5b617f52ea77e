"""Checkpoints survive damage and full disks, and hold every random state."""

import errno
import os
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from luss.errors import LussError
from luss.files import TEMPORARY_SUFFIX, temporary_beside
from luss.training.checkpoint import (
    checkpoints,
    load_newest,
    misfit,
    random_state,
    restore_random_state,
    save_checkpoint,
)


def state(step: int) -> dict[str, Any]:
    return {"step": step, "model": {"weight": torch.full((50,), float(step))}, "lists": [1, [2.5, None]]}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def no_warning(text: str) -> None:
    raise AssertionError(text)


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 7, state(7))
    loaded = load_newest(tmp_path, warn=no_warning)
    assert loaded is not None
    assert torch.equal(loaded["model"]["weight"], torch.full((50,), 7.0))
    assert (loaded["step"], loaded["lists"]) == (7, [1, [2.5, None]])


def test_only_the_newest_two_are_kept(tmp_path: Path) -> None:
    for step in (2, 9, 10, 100):
        save_checkpoint(tmp_path, step, state(step))
    assert names(tmp_path) == ["step-000000010.pt", "step-000000100.pt"]


def test_without_a_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert load_newest(tmp_path / "absent", warn=no_warning) is None
    assert load_newest(tmp_path, warn=no_warning) is None


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "text"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before_with_a_warning(tmp_path: Path, damage: str) -> None:
    save_checkpoint(tmp_path, 1, state(1))
    path = save_checkpoint(tmp_path, 2, state(2))
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        # Inside the stored tensor: the archive itself stays readable.
        position = content.index(np.full(50, 2.0, np.float32).tobytes())
        content[position + 40] ^= 0xFF
    new = {"flipped": bytes(content), "truncated": bytes(content[:-200]), "empty": b"", "text": b"hello"}[damage]
    path.write_bytes(new)
    warnings: list[str] = []
    loaded = load_newest(tmp_path, warn=warnings.append)
    assert loaded is not None
    assert loaded["step"] == 1
    assert len(warnings) == 1
    assert "step-000000002.pt is damaged" in warnings[0]


def test_when_all_are_damaged_there_is_none_and_each_is_named(tmp_path: Path) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, step, state(step)).write_bytes(b"")
    warnings: list[str] = []
    assert load_newest(tmp_path, warn=warnings.append) is None
    assert len(warnings) == 2


def test_a_checkpoint_that_would_run_code_is_passed_over(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, state(1))
    crater = tmp_path / "crater"

    class Bomb:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(crater),)

    torch.save({"step": 2, "bomb": Bomb()}, tmp_path / "step-000000002.pt")
    warnings: list[str] = []
    loaded = load_newest(tmp_path, warn=warnings.append)
    assert loaded is not None
    assert loaded["step"] == 1
    assert len(warnings) == 1
    assert not crater.exists()


def test_a_full_disk_leaves_earlier_checkpoints_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, step, state(step))

    def full(value: Any, file: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(LussError, match="is full: free some space"):
        save_checkpoint(tmp_path, 3, state(3))
    assert names(tmp_path) == ["step-000000001.pt", "step-000000002.pt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_what_torch_makes_of_a_full_disk_is_recognised(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, state(1))
    temporary = temporary_beside(tmp_path / "step-000000002.pt")
    temporary.symlink_to("/dev/full")
    with pytest.raises(LussError, match="is full: free some space"):
        save_checkpoint(tmp_path, 2, state(2))
    assert names(tmp_path) == ["step-000000001.pt"]


def test_what_a_killed_writer_left_is_swept_up(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, state(1))
    (tmp_path / f".step-000000002.pt.123{TEMPORARY_SUFFIX}").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("kept")
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000000001.pt"]
    assert names(tmp_path) == ["notes.txt", "step-000000001.pt"]


def draw() -> list[float]:
    return [random.random(), random.gauss(0, 1), *np.random.normal(size=3), *torch.randn(3).tolist()]  # noqa: NPY002


def test_every_random_generator_continues_where_it_was_also_from_disk(tmp_path: Path) -> None:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    draw()
    save_checkpoint(tmp_path, 1, {"random": random_state()})
    expected = draw()
    draw()
    loaded = load_newest(tmp_path, warn=no_warning)
    assert loaded is not None
    restore_random_state(loaded["random"])
    assert draw() == expected


def job(width: int, step: int) -> tuple[torch.nn.Module, torch.optim.Optimizer, dict[str, Any]]:
    model = torch.nn.Linear(width, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    states = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    return model, optimizer, {**states, "step": step, "scaler": {}, "random": {}}


def test_a_sound_checkpoint_of_another_network_falls_back_to_the_one_before_and_touches_nothing(tmp_path: Path) -> None:
    model, optimizer, own = job(3, 1)
    save_checkpoint(tmp_path, 1, own)
    save_checkpoint(tmp_path, 2, job(4, 2)[2])
    warnings: list[str] = []
    fits = partial(misfit, model, optimizer, num_steps=10)
    loaded = load_newest(tmp_path, warn=warnings.append, misfit=fits)
    assert loaded is not None
    assert loaded["step"] == 1
    assert len(warnings) == 1
    assert "step-000000002.pt is of another network (weight is (2, 4), not (2, 3)" in warnings[0]


@pytest.mark.parametrize("change", [{"step": 11}, {"step": "1"}, {"optimizer": {"param_groups": []}}, {"model": None}])
def test_a_checkpoint_of_another_training_or_of_none_is_passed_over(tmp_path: Path, change: dict[str, Any]) -> None:
    model, optimizer, own = job(3, 1)
    assert misfit(model, optimizer, own, 10) == ""
    assert misfit(model, optimizer, own | change, 10)
    assert misfit(model, optimizer, [1], 10)


def test_after_falling_back_new_checkpoints_are_kept_and_the_unusable_ones_set_aside(tmp_path: Path) -> None:
    for step in (8, 9):
        save_checkpoint(tmp_path, step, state(step)).write_bytes(b"damaged")
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, state(step))
    kept = ["step-000000002.pt", "step-000000003.pt"]
    assert names(tmp_path) == [*kept, "step-000000008.pt.unusable", "step-000000009.pt.unusable"]


def test_a_checkpoint_that_was_merely_not_opened_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, 1, state(1))

    def refuse(*arguments: Any) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("luss.training.checkpoint.zipfile.ZipFile", refuse)
    with pytest.raises(LussError, match="ulimit -n"):
        load_newest(tmp_path, warn=no_warning)
