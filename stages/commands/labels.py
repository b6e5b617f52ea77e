"""`luss labels`: another threshold, merged, dropped or named clusters, without a pass over images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from luss.errors import LussError
from stages.commands.base import run_argument
from stages.running.screen import Console

if TYPE_CHECKING:  # they import HDF5, which reading the command line does not need
    from luss.labels.layers import Edits, Layer
    from luss.labels.store import LabelStore

HELP = "change the threshold of the pseudo labels; merge, drop or name clusters"

_EPILOG = """examples:
  luss labels outputs/photos                           what there is, and every edit so far
  luss labels outputs/photos --threshold 0.45          more background; no image is read again
  luss labels outputs/photos --merge 3,17 --drop 5     3 and 17 become cluster 3, 5 becomes background
  luss labels outputs/photos --names names.json        {"3": "dog"}, or the file that the report downloads
  luss labels outputs/photos --undo                    back to the state before the newest edit
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.description = (
        "Writes a small layer over the stored label maps. Ids are never renumbered: merged clusters take the smallest of their\n"
        "ids, dropped ones become background. Every reader uses the newest layer; fine-tuning then runs anew."
    )
    parser.epilog = _EPILOG
    run_argument(parser)
    parser.add_argument("--threshold", type=float, help="attention below this is background, 0 to 1")
    parser.add_argument("--merge", action="append", default=[], metavar="A,B", help="clusters that become one; repeat")
    parser.add_argument(
        "--drop", action="append", default=[], metavar="A", help="clusters that become background; repeat"
    )
    parser.add_argument("--names", type=Path, metavar="FILE", help="names.json; its merges and drops apply too")
    parser.add_argument("--show", action="store_true", help="print the clusters and the history; change nothing")
    back = parser.add_mutually_exclusive_group()
    back.add_argument("--undo", action="store_true", help="go back to what the current layer was made from")
    back.add_argument("--use", type=int, metavar="LAYER", help="go to any layer; 0 = the labels as stored")


def main(options: argparse.Namespace) -> None:
    """Writes a layer, or shows what there is."""
    from luss.labels.store import LabelStore
    from stages.running.folder import done_record
    from stages.running.lock import run_lock

    folder = options.run / "pseudo_labels"
    done_record(options.run, folder.name)
    edits = requested_edits(options)
    moves = options.undo or options.use is not None
    if (edits and (moves or options.show)) or (moves and options.show):
        raise LussError("--show, --undo and --use stand alone: give edits in a command of their own")
    console = Console()
    if edits or moves:
        with run_lock(options.run):
            store = LabelStore.open(folder / "labels")
            before = store.layer
            layer, notes = store.layers.add(edits) if edits else (_move(store, options), [])
        _report(console, before, layer, notes)
    store = LabelStore.open(folder / "labels")
    _print(console, store, full=options.show or not (edits or moves))


def requested_edits(options: argparse.Namespace) -> Edits:
    """The edits of the command line on top of those of the file.

    Raises:
        LussError: A word is no number; the file cannot be read.
    """
    from luss.labels.layers import Edits, read_edits

    merge = tuple(_ids("--merge", word) for word in options.merge)
    drop = tuple(found for word in options.drop for found in _ids("--drop", word))
    own = Edits(threshold=options.threshold, merge=merge, drop=drop)
    return own if options.names is None else read_edits(options.names).and_then(own)


def _ids(option: str, word: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in word.split(","))
    except ValueError:
        raise LussError(f"{option} {word} is not a list of cluster ids: write for example {option} 3,17") from None


def _move(store: LabelStore, options: argparse.Namespace) -> Layer:
    if options.undo and not store.layer.number:
        raise LussError(f"there is nothing to undo in {options.run}: the labels are as stored")
    number = store.layer.parent if options.undo else options.use
    store.layers.use(number)
    return store.layers.read(number)


def _report(console: Console, before: Layer, layer: Layer, notes: list[str]) -> None:
    for note in notes:
        console.print(f"note: {note}", style="yellow")
    if layer.number == before.number:
        console.print("nothing changes: the labels are like that already")
    elif layer.number:
        console.print(f"layer {layer.number} is the current one (before: {before.number})")
    else:
        console.print(f"the labels are as stored again (before: layer {before.number})")
    if layer.identity != before.identity:
        console.print("fine-tuning and what follows will run anew on these labels")


def _print(console: Console, store: LabelStore, *, full: bool) -> None:
    facts = store.summary()
    console.print(
        f"{facts['images']} images, {facts['clusters']} of {store.num_clusters} clusters in use, threshold "
        f"{facts['threshold']:.4g} ({facts['threshold_source']}), layer {facts['layer']}",
    )
    if not full:
        return
    if store.names or facts["merged"] or facts["dropped"]:
        console.print(_clusters(store))
    if history := list(store.layers.history()):
        console.print(_history(history, store.layer.number))


def _clusters(store: LabelStore) -> Table:
    table = Table("cluster", "name", "what", title="edited clusters", title_justify="left")
    merged, dropped = store.layer.merged, store.layer.dropped
    for cluster in sorted({*store.names, *merged, *merged.values(), *dropped}):
        members = [str(found) for found, root in merged.items() if root == cluster]
        if cluster in dropped:
            what = "background"
        elif cluster in merged:
            what = f"is {merged[cluster]}"
        else:
            what = f"with {', '.join(members)}" if members else ""
        table.add_row(str(cluster), store.names.get(cluster, ""), what)
    return table


def _history(history: list[Layer], current: int) -> Table:
    table = Table("layer", "made from", "when", "what", title="history", title_justify="left")
    for layer in history:
        mark = " (current)" if layer.number == current else ""
        what = "; ".join(_shown(key, value) for key, value in layer.change.items())
        table.add_row(f"{layer.number}{mark}", str(layer.parent), layer.created, what)
    return table


def _shown(key: str, value: object) -> str:
    if key == "merge" and isinstance(value, list):
        return "merge " + " ".join(",".join(map(str, group)) for group in value)
    if key == "names" and isinstance(value, dict):
        return f"{len(value)} names"
    return f"{key} {', '.join(map(str, value)) if isinstance(value, list) else value}"
