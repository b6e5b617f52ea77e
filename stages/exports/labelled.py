"""What the exports of labels share: which images and label maps a run has for a split, the work, and the data card."""

import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from luss.errors import LussError
from luss.export.card import CardFacts, write_card
from luss.export.job import ExportFolder, Writer, export_images
from luss.export.labelled import LabelledImages, PredictedMasks, StoredLabels
from luss.files import read_json
from luss.labels.layers import Layer, cluster_names, current_layer
from luss.labels.store import LabelStore
from stages.exports.base import ExportRequest
from stages.parts.images import evaluated_manifests, train_manifest
from stages.pipeline import MANIFEST, STAGES
from stages.running.folder import DONE
from stages.running.lock import run_lock
from stages.running.state import States

TRAIN = "train"
_NEWS_SECONDS = 20.0
MakeWriter = Callable[[LabelledImages, dict[str, Any] | None], Writer]


def export_labels(
    request: ExportRequest,
    name: str,
    format_text: str,
    make_writer: MakeWriter,
    *,
    finish: Callable[[LabelledImages], None] = lambda images: None,
) -> str:
    """Exports the labels of a split with a data card, continuing where an earlier try stopped.

    Args:
        request: What was asked for; the split is the training images unless named.
        name: The format.
        format_text: What lies in the folder, for the card; `SPLIT` stands for the split.
        make_writer: The format's writer, given the images and the position of an earlier try.
        finish: Called when all images are written.

    Returns:
        A sentence for the screen.

    Raises:
        LussError: The run has no labels of this split; the folder holds something else; the disk is full.
    """
    split = request.split or TRAIN
    images = labelled_images(request, split)
    stage = "pseudo_labels" if split == TRAIN else "predict"
    layer = current_layer(request.folder / "pseudo_labels" / "labels")
    identity = {
        "format": name,
        "split": split,
        "labels": _record(request.folder, stage)["id"],
        "edits": layer.identity if split == TRAIN else "",
        "names": {str(cluster): label for cluster, label in images.categories.items() if cluster in layer.names},
    }
    folder = ExportFolder(request.out, identity, images.num_clusters)
    was_complete = folder.complete
    facts = _card_facts(request, images, stage, layer, format_text.replace("SPLIT", split))
    for warning in facts.warnings:
        request.console.print(f"warning: {warning}", highlight=False, markup=False, soft_wrap=True)

    def complete() -> None:
        finish(images)
        write_card(request.out, facts, folder.tally, images.categories, num_skipped=folder.skipped.count)

    with run_lock(request.out):
        tally = export_images(
            folder,
            images,
            lambda position: make_writer(images, position),
            on_progress=_News(request, name),
            finish=complete,
        )
    left_out = f", {folder.skipped.count} left out (see skipped.csv)" if folder.skipped.count else ""
    begun = "was complete already" if was_complete else "exported"
    return f"{name}: {tally.num_images} images of {split}{left_out}, {begun}: {request.out}"


def labelled_images(request: ExportRequest, split: str) -> LabelledImages:
    """The images of a split with their label maps.

    Raises:
        LussError: The stage that makes them is not done, or has no such split.
    """
    if split == TRAIN:
        _record(request.folder, "pseudo_labels")
        store = LabelStore.open(request.folder / "pseudo_labels" / "labels")
        return StoredLabels(store, train_manifest(request.folder).image_root)
    _record(request.folder, "predict")
    manifests = evaluated_manifests(States(request.run, request.folder).place(MANIFEST))
    if split not in manifests or split == TRAIN:
        predicted = [found for found in manifests if found != TRAIN]
        raise LussError(
            f"there are no masks of split {split!r}: give one of {', '.join([TRAIN, *predicted])}, or add it to data.evaluate "
            "and run predict"
        )
    num_clusters = request.run.cluster.num_clusters
    names = cluster_names(current_layer(request.folder / "pseudo_labels" / "labels"), range(1, num_clusters + 1))
    categories = {cluster: names.get(cluster, f"cluster {cluster}") for cluster in range(1, num_clusters + 1)}
    return PredictedMasks(manifests[split], request.folder / "predict" / "masks" / split, categories, num_clusters)


def _record(folder: Path, stage: str) -> dict[str, Any]:
    """`DONE.json` of a stage."""
    if not (folder / stage / DONE).is_file():
        raise LussError(f"{stage} is not done in {folder}: run it first (luss run CONFIG.yaml --until {stage})")
    return dict(read_json(folder / stage / DONE))


def _card_facts(
    request: ExportRequest, images: LabelledImages, stage: str, layer: Layer, format_text: str
) -> CardFacts:
    records = {
        path.parent.name: dict(read_json(path))
        for name in STAGES
        if (path := request.folder / name / DONE).is_file() and list(STAGES).index(name) <= list(STAGES).index(stage)
    }
    made: dict[str, str] = {
        "run": request.run.name,
        "luss": version("luss"),
        "labels finished": records[stage]["finished"],
        "exported": time.strftime("%Y-%m-%d"),
        **{f"fingerprint of {name}": f"`{record['fingerprint']}`" for name, record in records.items()},
    }
    settings: Mapping[str, Mapping[str, Any]] = {name: record["settings"] for name, record in records.items()}
    state = States(request.run, request.folder).of(STAGES[stage])
    stale = (f"these labels are of an earlier state of the run: {stage} is {state.kind} ({state.detail})",)
    common = {
        "title": f"{request.run.name}: {images.split}",
        "format_text": format_text,
        "made": made,
        "settings": settings,
        "warnings": () if state.kind == "done" else stale,
    }
    if not isinstance(images, StoredLabels):
        return CardFacts(origin="Masks that a network, trained on the pseudo labels of the run, predicted.", **common)  # type: ignore[arg-type]
    store = images.store
    return CardFacts(
        origin="Pseudo labels of the training images: every position of an image has the cluster that its features are nearest to.",
        threshold=store.threshold,
        threshold_source=store.threshold_source,
        used_labels=store.used_labels,
        edits=_edits(layer),
        **common,  # type: ignore[arg-type]
    )


def _edits(layer: Layer) -> tuple[str, ...]:
    if not layer.number:
        return ()
    groups = sorted(set(layer.merged.values()))
    merged = [[root, *(found for found, target in layer.merged.items() if target == root)] for root in groups]
    return (
        f"layer {layer.number} of {layer.created}",
        *(f"clusters {', '.join(map(str, group))} are one, {group[0]}" for group in merged),
        *([f"dropped, now background: {', '.join(map(str, layer.dropped))}"] if layer.dropped else []),
    )


class _News:
    """A line on the screen now and then."""

    def __init__(self, request: ExportRequest, name: str) -> None:
        self._console, self._name, self._last = request.console, name, time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() - self._last > _NEWS_SECONDS:
            self._last = time.monotonic()
            self._console.print(f"{self._name}: {done} of {total} images", highlight=False)
