"""`luss export`: a run's model, masks or pseudo labels in the formats of other programs.

The formats are files of `luss.export`; here is what only the folder of a run tells: its labels, masks and models, and how they were made.
"""

import argparse
import contextlib
import dataclasses
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luss.errors import LussError
from luss.export import FORMATS, load_format
from stages.commands.base import now_and_then, run_argument
from stages.running.screen import Console

if TYPE_CHECKING:
    from luss.benchmark.matching import Matching
    from luss.export.card import CardFacts
    from luss.export.formats import LabelFormat, Submitted
    from luss.export.labelled import LabelledImages
    from luss.labels.layers import Layer
    from luss.models.backbone import Backbone
    from luss.settings import RunSettings

HELP = "write a run's model, masks or pseudo labels for other programs"

TRAIN = "train"
# Each stage that predicts masks, and the one that finds their matching; None where ids are categories already.
_PREDICTING: dict[str, str | None] = {"predict": "evaluate", "semi_predict": None, "distance_matching": None}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.epilog = "formats:\n" + "\n".join(f"  {name:<16}{text}" for name, (_, text) in FORMATS.items())
    run_argument(parser)
    parser.add_argument("--format", required=True, choices=list(FORMATS), metavar="FORMAT", help="one of those below")
    parser.add_argument("--out", required=True, type=Path, help="file or folder to write")
    parser.add_argument("--split", default="", help="train, validation, ...; each format has its usual one")
    parser.add_argument(
        "--images", type=Path, metavar="ROOT", help="the folder of the split's images, where it was moved"
    )


def main(options: argparse.Namespace) -> None:
    """Writes one format."""
    from luss.export.formats import ExportRequest, LabelFormat
    from luss.segmenter import Segmenter
    from stages.running.results import settings_of_run

    format, run, folder = load_format(options.format), settings_of_run(options.run), options.run
    if not folder.is_dir():
        raise LussError(f"{folder} is not the folder of a run")
    if isinstance(format, LabelFormat):
        sentence = _Labels(run, folder, options.format, format, options.split, options.images).export(
            options.out, Console()
        )
    else:
        request = ExportRequest(
            options.out,
            options.split,
            run,
            segmenter=lambda: Segmenter.load(folder, device="cpu"),
            backbones=lambda: _backbones(folder),
            submitted=lambda split: _submitted(folder, split),
        )
        sentence = format(request)
    _print(Console(), sentence)


class _Labels:
    """The labels of a split, as a run has them."""

    def __init__(
        self, run: "RunSettings", folder: Path, name: str, format: "LabelFormat", split: str, root: Path | None
    ) -> None:
        from luss.labels.layers import current_layer
        from stages.running.folder import done_record
        from stages.running.products import require_sound

        if format.only_split and split not in ("", format.only_split):
            raise LussError(
                f"--format {name} holds the pseudo labels of the training images, not split {split!r}: use png or webdataset"
            )
        self.run, self.folder, self.name, self.format, self.split = run, folder, name, format, split or TRAIN
        self.stage = "pseudo_labels" if self.split == TRAIN else "predict"
        self.layer = current_layer(folder / "pseudo_labels" / "labels")
        self.made = done_record(folder, self.stage)
        require_sound(folder, ["manifest", self.stage])
        self.images = self._images()
        self.images.image_root = self._image_root(self.images, root)

    def export(self, out: Path, console: Console) -> str:
        """Writes them with a data card, continuing where an earlier try stopped; returns a sentence for the screen."""
        from luss.export.card import write_card
        from luss.export.job import ExportFolder, export_images
        from stages.running.lock import run_lock

        images, news = self.images, now_and_then(console, f"{self.name}:")
        folder = ExportFolder(out, self._identity(), images.num_clusters)
        was_complete = folder.complete
        facts = self._card_facts()
        for warning in facts.warnings:
            _print(console, f"warning: {warning}")

        def finish() -> None:
            self.format.finish(out, images)
            write_card(out, facts, folder.tally, images.categories, num_skipped=folder.skipped.count)

        with run_lock(out):
            tally = export_images(
                folder, images, lambda place: self.format.writer(out, images, place), on_progress=news, finish=finish
            )
        if images.kept_apart:
            _print(console, images.kept_apart)
        left_out = f", {folder.skipped.count} left out (see skipped.csv)" if folder.skipped.count else ""
        begun = "was complete already" if was_complete else "exported"
        source = f" (images from {images.image_root})" if self.format.with_images else ""
        return f"{self.name}: {tally.num_images} images of {self.split}{source}{left_out}, {begun}: {out}"

    def _image_root(self, images: "LabelledImages", given: Path | None) -> Path:
        """Where the images are: where a person says, else where the run has listed them, else in the folder that its settings name now.

        Raises:
            LussError: Not there, and they were given or the format needs them.
        """
        from stages.parts.images import data_layout

        listed = images.image_root
        places = [listed] if given is None else [given.absolute()]
        if given is None:
            with contextlib.suppress(LussError):
                places += filter(None, [data_layout(self.run.data).images.get(self.split)])
        # Some may have been deleted since.
        names = [images.name(index) for index in sorted({0, len(images) // 2, len(images) - 1})]
        for place in places:
            if any((place / name).is_file() for name in names):
                return place
        if given is not None or self.format.with_images:
            where = f"--images {given}" if given is not None else str(listed)
            raise LussError(
                f"the images of {self.split} are not in {where} (looked for {names[0]}): "
                "give the folder that holds them with --images"
            )
        return listed

    def _images(self) -> "LabelledImages":
        from luss.data.skipped import SkippedFiles
        from luss.export.labelled import PredictedMasks, StoredLabels
        from luss.labels.layers import cluster_names
        from luss.labels.store import LabelStore
        from stages.parts.images import evaluated_manifests, train_manifest
        from stages.pipeline import MANIFEST
        from stages.running.state import States

        if self.split == TRAIN:
            store = LabelStore.open(self.folder / "pseudo_labels" / "labels")
            return StoredLabels(store, train_manifest(self.folder).image_root)
        manifests = evaluated_manifests(States(self.run, self.folder).place(MANIFEST))
        if self.split not in manifests:
            splits = ", ".join([TRAIN, *(split for split in manifests if split != TRAIN)])
            raise LussError(
                f"there are no masks of split {self.split!r}: give one of {splits}, or add it to data.evaluate and run predict"
            )
        ids = range(1, self.run.cluster.num_clusters + 1)
        names = cluster_names(self.layer, ids)
        categories = {cluster: names.get(cluster, f"cluster {cluster}") for cluster in ids}
        masks = self.folder / "predict" / "masks" / self.split
        unreadable = SkippedFiles(self.folder / "predict" / "skipped.csv")
        return PredictedMasks(manifests[self.split], masks, categories, len(ids), unreadable)

    def _identity(self) -> dict[str, Any]:
        categories = self.images.categories
        return {
            "format": self.name,
            "split": self.split,
            "labels": self.made["id"],
            "edits": self.layer.identity if self.split == TRAIN else "",
            "names": {str(cluster): label for cluster, label in categories.items() if cluster in self.layer.names},
        }

    def _card_facts(self) -> "CardFacts":
        from luss.export.card import CardFacts
        from luss.export.labelled import StoredLabels
        from stages.pipeline import STAGES
        from stages.running.folder import DONE, done_record
        from stages.running.state import States

        before = list(STAGES)[: list(STAGES).index(self.stage) + 1]
        records = {name: done_record(self.folder, name) for name in before if (self.folder / name / DONE).is_file()}
        made = {
            "run": self.run.name,
            "luss": version("luss"),
            "labels finished": self.made["finished"],
            "exported": time.strftime("%Y-%m-%d"),
            **{f"fingerprint of {name}": f"`{record['fingerprint']}`" for name, record in records.items()},
        }
        state = States(self.run, self.folder).of(STAGES[self.stage])
        stale = f"these labels are of an earlier state of the run: {self.stage} is {state.kind} ({state.detail})"
        facts = CardFacts(
            title=f"{self.run.name}: {self.split}",
            format_text=self.format.text.replace("SPLIT", self.split),
            origin="Masks that a network, trained on the pseudo labels of the run, predicted.",
            made=made,
            settings={name: record["settings"] for name, record in records.items()},
            warnings=() if state.kind == "done" else (stale,),
        )
        if not isinstance(self.images, StoredLabels):
            return facts
        store = self.images.store
        return dataclasses.replace(
            facts,
            origin="Pseudo labels of the training images: every position of an image has the cluster that its features are nearest to.",
            threshold=store.threshold,
            threshold_source=store.threshold_source,
            used_labels=store.used_labels,
            edits=_edits(self.layer),
        )


def _edits(layer: "Layer") -> tuple[str, ...]:
    if not layer.number:
        return ()
    groups = sorted(set(layer.merged.values()))
    merged = [[root, *(found for found, target in layer.merged.items() if target == root)] for root in groups]
    return (
        f"layer {layer.number} of {layer.created}",
        *(f"clusters {', '.join(map(str, group))} are one, {group[0]}" for group in merged),
        *([f"dropped, now background: {', '.join(map(str, layer.dropped))}"] if layer.dropped else []),
    )


def _backbones(folder: Path) -> "dict[str, Backbone]":
    """The pretrained backbone, and the fine-tuned one where there is one."""
    from luss.models.io import load_backbone, load_segmenter
    from stages.running.products import require_sound

    require_sound(folder, ["pretrain", "finetune"])
    backbones = {}
    if (folder / "pretrain" / "backbone.json").is_file():
        backbones["pretrained"] = load_backbone(folder / "pretrain")
    if (folder / "finetune" / "config.json").is_file():
        backbones["finetuned"] = load_segmenter(folder / "finetune")[0].backbone
    if not backbones:
        raise LussError(f"the run {folder} has no backbone yet: run its pretrain stage first")
    return backbones


def _submitted(folder: Path, split: str) -> "Submitted":
    """The masks of a split and their matching; the usual split is test, where it was predicted, else validation.

    Raises:
        LussError: No stage has predicted masks, or not of this split; the matching belongs to other masks.
    """
    from luss.data.imagenet_s import SPLITS
    from luss.export.formats import Submitted
    from stages.running.folder import DONE
    from stages.running.products import require_sound

    stage = next((stage for stage in _PREDICTING if (folder / stage / DONE).is_file()), None)
    if stage is None:
        raise LussError(f"{folder} has no finished predictions: run luss run with its configuration first")
    require_sound(folder, [stage, *([found] if (found := _PREDICTING[stage]) else [])])
    masks = folder / stage / "masks"
    present = sorted(entry.name for entry in masks.iterdir() if entry.is_dir()) if masks.is_dir() else []
    split = split or next((usual for usual in reversed(SPLITS) if usual in present), "validation")
    if split not in present:
        raise LussError(
            f"{folder} has no masks of the split {split!r}: give data.evaluate=[validation,{split}] to luss run, "
            f"or one of those that are there with --split ({', '.join(present)})"
        )
    are_clusters = _PREDICTING[stage] is not None
    return Submitted(split, masks / split, stage, are_clusters, _matching(folder, stage))


def _matching(folder: Path, stage: str) -> "Matching | None":
    """The matching found for these very masks; None where there was nothing to find."""
    from stages.parts.metrics import read_metrics
    from stages.running.folder import done_record, read_done

    if (evaluating := _PREDICTING[stage]) is None:
        return None
    done = read_done(folder / evaluating)
    if not done or done["inputs"].get(stage) != done_record(folder, stage)["id"]:
        raise LussError(f"{folder} has not evaluated its present masks: run luss run with its configuration first")
    found: Mapping[str, int] | None = read_metrics(folder / evaluating / "metrics.json").get("matching")
    return None if found is None else {int(cluster): int(category) for cluster, category in found.items()}


def _print(console: Console, text: str) -> None:
    console.print(text)
