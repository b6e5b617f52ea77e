"""The grid of a comparison: words whose value is a list are axes, and every combination of their values is a cell, which is a run."""

import hashlib
import io
import itertools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml

from luss.config import is_text, load_config, setting_type
from luss.errors import LussError
from luss.settings import RunSettings
from stages.running.preflight import preflight
from stages.running.runner import select
from stages.running.screen import Console

SEED = "seed"
"""The axis over which means and spreads are taken."""

FILES = "configuration"
"""What an axis of configuration files is called."""

_OWN = ("name", "output")
_MAX_NAME = 60
# Cells that a fault names one by one.
_SHOWN = 3


@dataclass(frozen=True)
class Axis:
    """What is varied.

    Attributes:
        title: Heading of its column.
        words: A word for each value, as `luss.config.load_config` takes it.
        labels: What tables call each value.
        names: Each value's part of the names of the cells' folders.
    """

    title: str
    words: tuple[str, ...]
    labels: tuple[str, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One run of a comparison.

    Attributes:
        name: Of its folder in that of the comparison.
        labels: What it is of each axis, by the axis's title.
        run: Its settings; its number of epochs may be set by a budget.
    """

    name: str
    labels: dict[str, str]
    run: RunSettings

    @property
    def row(self) -> tuple[str, ...]:
        """Its labels but for the seed: cells of one row are seeds of one thing."""
        return tuple(label for title, label in self.labels.items() if title != SEED)


@dataclass(frozen=True)
class Grid:
    """All runs of a comparison.

    Attributes:
        name: Of the comparison.
        folder: Of the comparison.
        axes: What is varied, in the order of the command line.
        cells: Every combination, seed by seed: a comparison that is stopped has one seed of everything before a second of anything.
    """

    name: str
    folder: Path
    axes: tuple[Axis, ...]
    cells: tuple[Cell, ...]


def read_grid(config: Path, words: Sequence[str]) -> Grid:
    """Reads the axes and loads every cell.

    Args:
        config: The configuration that all cells share.
        words: As `luss.config.load_config` takes them; one whose value is a list for a setting that takes none, or a list of lists for one
            that takes a list, is an axis, and so is a list of YAML files in brackets. `name` and `output` are those of the comparison.

    Raises:
        LussError: Everything that is wrong with the axes, else everything that is wrong with the cells, each fault with those that have it.
    """
    parts = _parts(config, words)
    axes = tuple(part for part in parts if isinstance(part, Axis))
    # Those of the comparison, whatever the files of an axis are called.
    own = [part for part in parts if isinstance(part, str) and part.partition("=")[0] in _OWN]
    if not axes:
        raise LussError(
            "there is nothing to compare: give a list of values, such as seed=[0,1] or pretrain.method=[swav,simclr], or of files, "
            "such as [configs/methods/swav.yaml,configs/methods/pass_s.yaml]"
        )
    choices = list(itertools.product(*(range(len(axis.words)) for axis in axes)))
    titles = [axis.title for axis in axes]
    if SEED in titles:
        choices.sort(key=lambda choice: choice[titles.index(SEED)])
    faults = Faults()
    cells: list[Cell] = []
    for choice in choices:
        name = "-".join(axis.names[place] for axis, place in zip(axes, choice, strict=True))
        chosen = iter(choice)
        cell_words = [part if isinstance(part, str) else part.words[next(chosen)] for part in parts]
        labels = {axis.title: axis.labels[place] for axis, place in zip(axes, choice, strict=True)}
        with faults.of(name):
            cells.append(Cell(name, labels, load_config(config, [*cell_words, *own])))
    faults.tell(len(choices))
    return _placed(axes, cells)


def check_cells(grid: Grid, until: str | None, console: Console) -> None:
    """Checks everything about the cells that can be known before any of them works (`stages.running.preflight`); warnings are told once.

    Raises:
        LussError: Every fault, with the cells that have it.
    """
    check_each(grid, lambda cell, quiet: _check(cell.run, until, quiet), console)


def check_each(grid: Grid, check: Callable[[Cell, Console], None], console: Console) -> None:
    """Does something with every cell that may refuse it; what was printed is told once.

    Raises:
        LussError: Every fault, with the cells that have it.
    """
    faults, said = Faults(), io.StringIO()
    quiet = Console(file=said)
    for cell in grid.cells:
        with faults.of(cell.name):
            check(cell, quiet)
    for line in dict.fromkeys(said.getvalue().splitlines()):
        console.print(line)
    faults.tell(len(grid.cells))


def _check(run: RunSettings, until: str | None, console: Console) -> None:
    select(run, until=until)
    preflight(run, console)


class Faults:
    """What is wrong with which cells."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._cells: dict[str, list[str]] = {}

    def of(self, cell: str) -> "_Noting":
        """A context in which a `LussError` is noted for a cell instead of raised."""
        return _Noting(self._cells, cell)

    def tell(self, num_cells: int) -> None:
        """Raises what was noted; what is wrong with all `num_cells` cells is said without their names.

        Raises:
            LussError: Something is wrong.
        """
        if self._cells:
            raise LussError(
                "\n".join(
                    text if len(cells) == num_cells else f"{_some(cells)}: {text}"
                    for text, cells in self._cells.items()
                )
            )


class _Noting:
    def __init__(self, found: dict[str, list[str]], cell: str) -> None:
        self._found, self._cell = found, cell

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if not isinstance(error, LussError):
            return False
        for line in str(error).splitlines():
            self._found.setdefault(line, []).append(self._cell)
        return True


def _some(cells: Sequence[str]) -> str:
    more = f" and {len(cells) - _SHOWN} more" if len(cells) > _SHOWN else ""
    return ", ".join(cells[:_SHOWN]) + more


def _placed(axes: tuple[Axis, ...], cells: Sequence[Cell]) -> Grid:
    """The comparison that loaded cells make: each gets a folder in its."""
    folders = dict.fromkeys(cell.run.output for cell in cells)
    if len(folders) > 1:
        raise LussError(
            f"the configurations give {len(folders)} names to the comparison ({', '.join(folders)}): give it one with name=NAME"
        )
    same: dict[str, str] = {}
    names = [cell.name for cell in cells]
    for cell in cells:
        if names.count(cell.name) > 1:
            raise LussError(f"two cells would be called {cell.name}: rename a configuration file")
        if (other := same.setdefault(repr(cell.run), cell.name)) != cell.name:
            raise LussError(
                f"{other} and {cell.name} have the same settings: a later word wins over an axis; leave it out"
            )
    name, folder = cells[0].run.name, Path(cells[0].run.output)
    for cell in cells:
        cell.run.name, cell.run.output = f"{name}-{cell.name}", str(folder / cell.name)
    return Grid(name, folder, axes, tuple(cells))


def _parts(config: Path, words: Sequence[str]) -> list[str | Axis]:
    """The words, of which some are axes.

    Raises:
        LussError: Every fault of the axes.
    """
    parts: list[str | Axis] = []
    faults: list[str] = []
    # The first value of every axis stands for it: which settings there are may depend on it.
    before: list[str] = []
    for word in words:
        try:
            part = _part(config, word, before)
        except LussError as error:
            faults.append(str(error))
            continue
        parts.append(part)
        before.append(part.words[0] if isinstance(part, Axis) else part)
    files = (part for part in parts if isinstance(part, Axis) and part.title == FILES)
    for number, part in enumerate(list(files)[1:], 2):
        parts[parts.index(part)] = replace(part, title=f"{FILES} {number}")
    titles = [part.title for part in parts if isinstance(part, Axis)]
    faults += [f"the axis {title} stands twice: give all its values in one word" for title in dict.fromkeys(titles)
               if titles.count(title) > 1]  # fmt: skip
    if faults:
        raise LussError("\n".join(faults))
    return parts


def _part(config: Path, word: str, before: Sequence[str]) -> str | Axis:
    key, equals, value = word.partition("=") if word.lstrip()[:1] != "[" else ("", "", word)
    value = value.strip() if equals else word.strip()
    if value[:1] != "[" and (equals or value[-1:] != "]"):
        return word
    if (value[:1] == "[") != (value[-1:] == "]"):
        raise LussError(f"{word!r} is only a part of a list: leave out its spaces, or put the whole word in quotes")
    if not equals:
        return _files(word, value)
    if key in _OWN:
        raise LussError(f"{key} cannot be an axis: every run of a comparison gets a name of its own")
    kind = setting_type(key, config, before)
    try:
        items = yaml.load(value, yaml.BaseLoader if is_text(kind) else yaml.SafeLoader)
    except yaml.YAMLError:
        # No list; whether it can be is told when the cells are loaded.
        return word
    nested = [isinstance(item, list) for item in items]
    if _takes_list(kind) and not any(nested):
        return word
    if not items:
        raise LussError(f"{key} has no value: name one or more in its list")
    if _takes_list(kind) and not all(nested):
        raise LussError(f"{word!r} mixes lists and single values: {key} takes a list, so give a list of lists")
    texts = [item if isinstance(item, str) else json.dumps(item, default=str) for item in items]
    found = [f"{key}={item if is_text(kind) else json.dumps(item, default=str)}" for item in items]
    return _axis(
        word, _title(key), found, texts, [_named(key, item, text) for item, text in zip(items, texts, strict=True)]
    )


def _files(word: str, value: str) -> Axis:
    try:
        files = yaml.load(value, yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise LussError(f"{word!r} is no list of files: write [ONE.yaml,OTHER.yaml]") from error
    if not files or not all(isinstance(file, str) and file and "=" not in file for file in files):
        raise LussError(f"{word!r} is no list of files: write [ONE.yaml,OTHER.yaml]")
    stems = [Path(file).stem for file in files]
    return _axis(word, FILES, files, stems, [_folder_name(stem) for stem in stems])


def _axis(word: str, title: str, words: list[str], labels: list[str], names: list[str]) -> Axis:
    for label in labels:
        if labels.count(label) > 1:
            raise LussError(
                f"{word!r} names {label!r} {labels.count(label)} times: every value is a cell of its own, name it once"
            )
    return Axis(title, tuple(words), tuple(labels), tuple(names))


def _takes_list(kind: Any) -> bool:
    """Whether a value of a declared type is a list; `list[str] | None` is."""
    return get_origin(kind) in (list, tuple) or any(get_origin(each) in (list, tuple) for each in get_args(kind))


def _title(key: str) -> str:
    """The key but for what says nothing to a person: the block of a name."""
    return SEED if key == SEED else key.removesuffix(".name").removeprefix("pretrain.")


def _named(key: str, item: Any, text: str) -> str:
    """A word speaks for itself; a number has its setting before it."""
    if isinstance(item, str) and item[:1].isalpha():
        return _folder_name(text)
    if isinstance(item, list):
        text = "_".join(map(str, item))
    last = key.removesuffix(".name").rpartition(".")[2]
    return _folder_name(f"{last}{text}" if text[:1].isdigit() else f"{last}-{text}")


def _folder_name(text: str) -> str:
    """A part of a folder's name, which no other text has and which does not change with the other values of an axis."""
    plain = re.sub(r"[^A-Za-z0-9._+-]+", "_", text).lstrip(".-")[:_MAX_NAME]
    return plain if plain == text else f"{plain}_{hashlib.sha256(text.encode()).hexdigest()[:4]}"
