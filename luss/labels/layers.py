"""Edits of finished pseudo labels: another threshold, merged, dropped and named clusters, as small files over the stored maps.

`<labels>/layers/NNN.json` holds one layer: what was asked for, when, and on top of which layer, and the whole state that
results, so that a reader needs one file only. `<labels>/layers/current` holds the number of the layer that readers use;
without it the maps are read as stored, which is layer 0. Nothing is ever overwritten: undoing an edit moves the pointer.

Ids are never renumbered: they stay in 0..C. A merged cluster takes the smallest id of its group, a dropped one becomes
background, and the ids that are thereby free stay unused.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from luss.errors import LussError
from luss.files import read_record, read_user_text, write_json, write_text
from luss.labels.writer import Labels, check_threshold

FOLDER = "layers"
CURRENT = "current"
MAX_NAME_LENGTH = 200
_KEYS = ("names", "merge", "drop", "threshold")


@dataclass(frozen=True)
class Edits:
    """What a person wants changed.

    Attributes:
        threshold: A new tau in [0, 1], or None.
        merge: Groups of clusters that become one.
        drop: Clusters that become background.
        names: Cluster id to name; an empty name takes a name away.
    """

    threshold: float | None = None
    merge: tuple[tuple[int, ...], ...] = ()
    drop: tuple[int, ...] = ()
    names: Mapping[int, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.threshold is not None or bool(self.merge or self.drop or self.names)

    def and_then(self, other: "Edits") -> "Edits":
        """Both together; where they differ in a threshold or a name, the other one's counts."""
        threshold = self.threshold if other.threshold is None else other.threshold
        return Edits(threshold, self.merge + other.merge, self.drop + other.drop, {**self.names, **other.names})


@dataclass(frozen=True)
class Layer:
    """The state of the labels after some edits.

    Attributes:
        number: 1, 2, ...; 0 = as stored.
        parent: Number of the layer that was edited.
        created: When, ISO 8601.
        change: The edits that made it, as in `Edits`.
        threshold: tau in place of the stored one, or None.
        merged: Id to the smallest id of its group, for the others of the group.
        dropped: Ids that read as background.
        names: Id to name.
    """

    number: int = 0
    parent: int = 0
    created: str = ""
    change: Mapping[str, Any] = field(default_factory=dict)
    threshold: float | None = None
    merged: Mapping[int, int] = field(default_factory=dict)
    dropped: tuple[int, ...] = ()
    names: Mapping[int, str] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """Identity of the labels: 16 hexadecimal digits; empty where they are as stored. Names do not count."""
        content = [self.threshold, sorted(self.merged.items()), sorted(self.dropped)]
        return "" if content == [None, [], []] else hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def table(self, num_clusters: int) -> Labels:
        """(C + 1,) uint16: what every stored id reads as."""
        table = np.arange(num_clusters + 1, dtype=np.uint16)
        for found, target in self.merged.items():
            table[found] = target
        table[list(self.dropped)] = 0
        return table


def read_edits(path: Path) -> Edits:
    """Reads `names.json`: {"3": "dog"}, or what the report downloads.

    The report's file is {"names": {"3": "dog"}, "merge": [[3, 17]], "drop": [5]}; each part may be absent, and
    "threshold" may be there too.

    Raises:
        LussError: The file is absent or is no such file.
    """
    try:
        content = json.loads(read_user_text(path))
    except LussError:
        raise
    except FileNotFoundError as error:
        raise LussError(f"{path} does not exist: download names.json from the report, or write one") from error
    except (OSError, ValueError, RecursionError) as error:
        raise LussError(f'{path} cannot be read as JSON ({error}): write for example {{"3": "dog"}}') from error
    if not isinstance(content, dict):
        raise LussError(f'{path} is not an object: write for example {{"3": "dog"}}')
    if not any(key in content for key in _KEYS):
        content = {"names": content}
    if unknown := [key for key in content if key not in _KEYS]:
        raise LussError(f"{path} has an unknown part {unknown[0]!r}: it may have {', '.join(_KEYS)}")
    try:
        return _parse(content)
    except LussError as error:
        raise LussError(f"{path}: {error}") from error


def _parse(content: Mapping[str, Any]) -> Edits:
    names, merge, drop = content.get("names") or {}, content.get("merge") or [], content.get("drop") or []
    threshold = content.get("threshold")
    if not isinstance(names, dict) or not isinstance(merge, list) or not isinstance(drop, list):
        raise LussError("names is an object, merge a list of lists and drop a list of cluster ids")
    if not all(isinstance(group, list) for group in merge):
        raise LussError("merge is a list of groups, such as [[3, 17], [4, 8]]")
    if isinstance(threshold, bool) or not isinstance(threshold, int | float | None):
        raise LussError(f"the threshold {threshold!r} is not a number")
    return Edits(
        None if threshold is None else float(threshold),
        tuple(tuple(_id(found) for found in group) for group in merge),
        tuple(_id(found) for found in drop),
        {_id(key): _name(key, name) for key, name in names.items()},
    )


def _id(value: Any) -> int:
    try:
        if isinstance(value, bool) or float(value) != int(value):
            raise ValueError
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise LussError(f"{value!r} is not a cluster id: write a whole number such as 3") from None


def _name(key: Any, name: Any) -> str:
    if name is not None and not isinstance(name, str):
        raise LussError(f"the name of cluster {key} is {name!r}: write it in quotes")
    text = str(name or "").strip()
    if len(text) > MAX_NAME_LENGTH or not all(character.isprintable() for character in text):
        raise LussError(
            f"the name of cluster {key} is too long or has control characters: one line, {MAX_NAME_LENGTH} letters"
        )
    return text


def edit(layer: Layer, edits: Edits, *, num_clusters: int, stored_threshold: float) -> tuple[Layer, list[str]]:
    """Applies edits to a layer.

    An edit that is already there changes nothing, so the same names.json may be given twice.

    Args:
        layer: What is edited.
        edits: What to change. Ids are those of the stored maps; a merged id stands for its group.
        num_clusters: C; ids lie in 1..C.
        stored_threshold: The threshold of the stored maps.

    Returns:
        The new state with the number of the old one, and sentences that a person should read.

    Raises:
        LussError: An id that does not exist, a group of fewer than two clusters, a cluster that is both merged and
            dropped, a threshold outside [0, 1].
    """
    _check_ids(edits, num_clusters)
    threshold = layer.threshold
    if edits.threshold is not None:
        check_threshold(edits.threshold)
        threshold = None if edits.threshold == stored_threshold else edits.threshold
    merged = _merge(layer, edits)
    dropped = _drop(layer, edits, merged)
    given = {key: _name(key, name) for key, name in edits.names.items()}
    names = {key: name for key, name in sorted({**layer.names, **given}.items()) if name}
    state = replace(layer, threshold=threshold, merged=merged, dropped=dropped, names=names)
    return state, _notes(state)


def _check_ids(edits: Edits, num_clusters: int) -> None:
    for what, ids in (
        ("merge", [i for group in edits.merge for i in group]),
        ("drop", edits.drop),
        ("name", edits.names),
    ):
        for found in ids:
            if found == 0:
                raise LussError(f"cannot {what} 0: it is the background, clusters have the ids 1 to {num_clusters}")
            if not 1 <= found <= num_clusters:
                raise LussError(f"cannot {what} cluster {found}: clusters have the ids 1 to {num_clusters}")


def _merge(layer: Layer, edits: Edits) -> dict[int, int]:
    groups: dict[int, int] = dict(layer.merged)
    for group in edits.merge:
        if len(set(group)) < 2:
            raise LussError(f"cannot merge {', '.join(map(str, group)) or 'nothing'}: give two clusters or more")
        roots = {groups.get(found, found) for found in group}
        if lost := sorted({*group, *roots} & {*layer.dropped, *edits.drop}):
            raise LussError(f"cannot merge cluster {lost[0]}: it is dropped (--undo takes the newest edit back)")
        members = {*roots, *(found for found, root in groups.items() if root in roots)}
        groups.update(dict.fromkeys(members - {min(roots)}, min(roots)))
    return dict(sorted(groups.items()))


def _drop(layer: Layer, edits: Edits, merged: Mapping[int, int]) -> tuple[int, ...]:
    for found in edits.drop:
        if found in merged:
            raise LussError(f"cannot drop cluster {found}: it was merged into {merged[found]}, drop that one")
    dropped = {*layer.dropped, *edits.drop}
    # With the cluster that a group goes by, the whole group is dropped.
    dropped |= {found for found, root in merged.items() if root in dropped}
    return tuple(sorted(dropped))


def _notes(state: Layer) -> list[str]:
    notes = []
    used = {key: name for key, name in state.names.items() if key not in state.merged and key not in state.dropped}
    for name, count in Counter(used.values()).items():
        if count > 1:
            same = [key for key, other in used.items() if other == name]
            notes.append(
                f"clusters {' and '.join(map(str, same))} have the same name {name!r} and stay {count} clusters: "
                f"--merge {','.join(map(str, same))} makes them one"
            )
    for key, name in state.names.items():
        root = state.merged.get(key, key)
        if root in state.dropped:
            notes.append(f"cluster {key} has the name {name!r} but is dropped")
        elif root != key and group_name(state, root) != name:
            notes.append(f"cluster {key}, {name!r}, is part of cluster {root}, {group_name(state, root)!r}")
    return notes


def group_name(layer: Layer, cluster: int) -> str:
    """The name of a cluster: its own, else that of the first named one that was merged into it; empty if none is named."""
    members = [cluster, *sorted(found for found, root in layer.merged.items() if root == cluster)]
    return next((layer.names[found] for found in members if layer.names.get(found)), "")


@dataclass(frozen=True)
class Layers:
    """The layers over one label-map store.

    Attributes:
        folder: Their folder; absent where nothing was edited.
        fingerprint: Of the store: layers do not fit other label maps.
        num_clusters: C.
        threshold: The stored threshold.
    """

    folder: Path
    fingerprint: str
    num_clusters: int
    threshold: float

    def current_number(self) -> int:
        """Number of the layer that readers use; 0 = as stored."""
        return _current(self.folder)

    def read(self, number: int) -> Layer:
        """Reads a layer.

        Raises:
            LussError: There is no such layer; it is damaged, or belongs to other label maps.
        """
        if number == 0:
            return Layer()
        layer, fingerprint = _read(self.folder, number)
        if max((*layer.merged, *layer.merged.values(), *layer.dropped, *layer.names), default=0) > self.num_clusters:
            raise LussError(
                f"{_path(self.folder, number)} names clusters above {self.num_clusters}: delete {self.folder}"
            )
        if fingerprint != self.fingerprint:
            raise LussError(
                f"{_path(self.folder, number)} was made for other label maps than those beside it: "
                f"delete {self.folder}, or open the labels with layer=None"
            )
        return layer

    def numbers(self) -> list[int]:
        """Numbers of all layers that were ever made."""
        return sorted(int(path.stem) for path in self.folder.glob("[0-9]*.json"))

    def add(self, edits: Edits) -> tuple[Layer, list[str]]:
        """Writes a layer on top of the current one and makes it the current one.

        Returns:
            The new layer, or the current one where the edits change nothing, and sentences that a person should read.

        Raises:
            LussError: The edits do not fit (see `edit`); the disk is full.
        """
        before = self.read(self.current_number())
        state, notes = edit(before, edits, num_clusters=self.num_clusters, stored_threshold=self.threshold)
        if state == before:
            return before, notes
        if (known := self._same(before.number, state)) is not None:
            self.use(known.number)
            return known, notes
        number = max(self.numbers(), default=0) + 1
        created = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        change = {key: value for key, value in asdict(edits).items() if value}
        if edits.threshold is not None:
            change["threshold"] = edits.threshold
        layer = replace(state, number=number, parent=before.number, created=created, change=change)
        write_json(_path(self.folder, number), {"store": self.fingerprint, **asdict(layer)})
        self.use(number)
        return layer, notes

    def _same(self, parent: int, state: Layer) -> Layer | None:
        """A layer of the same edits of the same layer: one that was undone, or whose maker was killed before it became the current one."""
        facts = (state.threshold, state.merged, state.dropped, state.names)
        made = (self.read(number) for number in self.numbers() if number > parent)
        same = (layer for layer in made if layer.parent == parent)
        return next(
            (layer for layer in same if (layer.threshold, layer.merged, layer.dropped, layer.names) == facts), None
        )

    def use(self, number: int) -> None:
        """Makes a layer the current one; 0 = the labels as stored.

        Raises:
            LussError: There is no such layer; the disk is full.
        """
        self.read(number)
        write_text(self.folder / CURRENT, f"{number}\n")

    def history(self) -> Iterator[Layer]:
        """All layers in the order in which they were made."""
        return (self.read(number) for number in self.numbers())


def current_layer(labels: Path) -> Layer:
    """The current layer of a folder of label maps, without opening the maps.

    Args:
        labels: The folder that holds `labels.h5`; it need not exist.

    Raises:
        LussError: The layer is damaged.
    """
    number = _current(labels / FOLDER)
    return _read(labels / FOLDER, number)[0] if number else Layer()


def cluster_names(layer: Layer, clusters: Iterable[int]) -> dict[int, str]:
    """Id to name for the clusters that have one."""
    return {found: name for found in clusters if (name := group_name(layer, found))} if layer.names else {}


def _current(folder: Path) -> int:
    path = folder / CURRENT
    try:
        return int(path.read_text(encoding="ascii"))
    except FileNotFoundError:
        return 0
    except ValueError as error:
        raise LussError(f"{path} is damaged ({error}): delete it to read the labels as stored") from error


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:03d}.json"


def _check(layer: Layer) -> None:
    """Raises ValueError or LussError for values that no edit can have made."""
    ids = [*layer.merged, *layer.merged.values(), *layer.dropped, *layer.names]
    if not all(type(found) is int and 1 <= found <= np.iinfo(np.uint16).max for found in ids):
        raise ValueError("an id is none")
    if not all(isinstance(name, str) and name.isprintable() for name in layer.names.values()):
        raise ValueError("a name is no text")
    if not (isinstance(layer.number, int) and isinstance(layer.parent, int) and isinstance(layer.change, dict)):
        raise ValueError("an entry is of another kind")
    if layer.threshold is not None:
        check_threshold(layer.threshold)


def _read(folder: Path, number: int) -> tuple[Layer, str]:
    """A layer and the fingerprint of its store."""
    path, remedy = _path(folder, number), f"delete {folder} to read the labels as stored"
    if not path.exists():
        numbers = ", ".join(str(int(found.stem)) for found in sorted(folder.glob("[0-9]*.json"))) or "none"
        raise LussError(f"there is no layer {number} in {folder}: there is 0, the labels as stored, and {numbers}")
    # What was merely not opened is not called damaged.
    content = read_record(path, remedy=remedy)
    try:
        fingerprint = str(content.pop("store"))
        for key in ("merged", "names"):
            content[key] = {int(found): value for found, value in content[key].items()}
        content["dropped"] = tuple(content["dropped"])
        layer = Layer(**content)
        _check(layer)
        return layer, fingerprint
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise LussError(f"{path} is damaged ({error}): {remedy}") from error
