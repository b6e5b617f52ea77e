"""What the cells of a comparison share: a stage that one has done is taken over by others that would make the same."""

import contextlib
import copy
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from luss.config import to_yaml
from luss.errors import LussError
from luss.files import link_or_copy, remove_dead, temporary_beside, write_json, write_text
from luss.refusals import refusals_named
from luss.settings import RunSettings
from stages.base import AnyStage
from stages.running.folder import DONE, StageFolder, read_done
from stages.running.lock import run_lock, stage_lock
from stages.running.state import States

# Beside the products: files that their stage would append to are copied, the others may be the same file.
_COPIED = ("metrics.jsonl", "skipped.csv", "log", "tensorboard")
_MASKS = "masks"
_TAKEN_FROM = "taken_from"


def take_over(run: RunSettings, stage: AnyStage) -> str | None:
    """Takes a finished stage over from a run beside this one, where one has made exactly what this run would make from the same inputs.

    Products become the same files where the disk has hard links, else copies: no stage writes into a finished product, and what is made
    anew gets a folder of its own. Edits of labels, listings of later splits and whatever else came after the stage's end stay behind. A stale
    result in the way is moved aside, one that has begun is left to go on.

    Args:
        run: Settings of the run that is lacking the stage.
        stage: What it lacks; the stages that it needs are done.

    Returns:
        The name of the other run's folder; None where there is no such run or nothing to do.

    Raises:
        LussError: Another process works on the run; the disk is full.
    """
    states = States(run)
    if states.kind(stage) not in ("missing", "stale"):
        return None
    source = next(_sources(states, stage), None)
    if source is None:
        return None
    folder = states.run_folder
    with refusals_named(folder, "run the same command again, it continues"), run_lock(folder), _locked(folder, stage):
        states = States(run)
        kind = states.kind(stage)
        if kind not in ("missing", "stale"):
            return None
        remove_dead(folder, stage.name)
        temporary = temporary_beside(folder / stage.name)
        try:
            _fill(source / stage.name, temporary, run)
        except FileNotFoundError:
            # It was moved aside at this moment.
            shutil.rmtree(temporary, ignore_errors=True)
            return None
        if kind == "stale":
            StageFolder(stage, states.place(stage)).set_aside()
        temporary.rename(folder / stage.name)
    return source.name


def _locked(folder: Path, stage: AnyStage) -> AbstractContextManager[None]:
    return stage_lock(folder, stage.name) if stage.sharded else contextlib.nullcontext()


def _sources(states: States, stage: AnyStage) -> Iterator[Path]:
    """Runs beside this one that have done the stage with these settings, from inputs that this one has too."""
    inputs = {need.name: need.id_for(stage, states.done(need)) for need in stage.needs}
    if any(identity is None for identity in inputs.values()):
        return
    for done in sorted(states.run_folder.parent.glob(f"*/{stage.name}/{DONE}")):
        folder = done.parent.parent
        if folder == states.run_folder or folder.name.startswith("."):
            continue
        other = copy.copy(states.run)
        other.output = str(folder)
        found = States(other)
        # What is wrong with another run is no fault of this one.
        with contextlib.suppress(LussError):
            if found.of(stage).kind != "done":
                continue
            record = found.done(stage)
            if record["fingerprint"] == states.fingerprint(stage) and record["inputs"] == inputs:
                yield folder


def _fill(source: Path, target: Path, run: RunSettings) -> None:
    """Makes a finished stage's folder of another's."""
    record = read_done(source)
    masks = source / _MASKS
    same = [*record["products"], *(path.relative_to(source).as_posix() for path in masks.rglob("*") if path.is_file())]
    for name in same:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(source / name, target / name)
    for name in _COPIED:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name)
        elif (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    write_text(target / "config.yaml", to_yaml(run))
    write_json(target / DONE, {**record, _TAKEN_FROM: source.parent.name})
