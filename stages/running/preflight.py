"""What is checked before work begins: everything that can be known now and would otherwise fail after hours."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from luss import processes
from luss.clustering.faiss_engine import faiss_is_installed
from luss.data.imagenet_s import IGNORE, Layout, category_ids
from luss.errors import LussError
from luss.features.layout import descriptor_widths
from luss.methods.start import gives_files, start_method
from luss.models.backbone import Backbone
from luss.models.build import build_backbone
from luss.processes import share_of_batch
from luss.settings import (
    DataSettings,
    ExtractFeaturesSettings,
    FinetuneSettings,
    RunSettings,
    TrainSettings,
    ViewSettings,
    WholeImageSettings,
)
from luss.settings.fields import problems
from stages.base import AnyStage
from stages.finetune import Finetune
from stages.parts.images import EMBEDDED, categories_of, data_layout, listed_folders, nearest_split
from stages.parts.train_semi import check_train_semi
from stages.pipeline import CLUSTERS, DISTANCE_MATCHING, MANIFEST, PRETRAIN, STAGES, stages_of
from stages.running.fitting import absent_folders, may_be_lowered, unfilled, without_absent
from stages.running.screen import Console
from stages.running.state import States


def preflight(run: RunSettings, console: Console) -> None:
    """Checks the data folders, what the run's protocols need of them, the engines and the networks, before any image is read.

    Raises:
        LussError: Something is missing, or cannot be.
    """
    if run.data.root != EMBEDDED:
        _check_data(run, data_layout(run.data), console)
    _check_engines(run)
    _check_network(run, console)
    _check_weights(run)
    _check_steps(run)


def check_sizes(run: RunSettings, console: Console | None = None) -> None:
    """Checks what depends on the number of images, as soon as the manifest stage has counted them; tells `console` what is lowered.

    Raises:
        LussError: More clusters, components, prototypes or images a batch than there are images, which were typed or may not be lowered; all
            of them, and the words to type.
    """
    states = States(run)
    if states.of(MANIFEST).kind != "done":
        return
    sizes = unfilled(without_absent(run, states.run_folder), states.run_folder)
    refused = [size for size in sizes if not may_be_lowered(size, run)]
    wrong = [*map(str, refused), *problems(states.run)]
    if wrong:
        words = " ".join(size.word for size in refused)
        raise LussError("\n".join([*wrong, *([f"sizes that they fill, to type: {words}"] if words else [])]))
    if sizes and console is not None:
        changes = ", ".join(f"{size.key} {size.value} -> {size.fitting}" for size in sizes)
        counts = " and ".join(str(count) for count in sorted({size.available for size in sizes}))
        _warn(console, f"sizes are lowered to what {counts} images fill: {changes}; few images want more epochs")


def warn_of_absent(run: RunSettings, console: Console) -> None:
    """Says which folders of `data.extra` are left out because they are not there."""
    for extra in absent_folders(run, Path(run.output)):
        _warn(console, f"data.extra names {extra!r}, which {run.data.root} lacks: it is left out")


def check_processes(run: RunSettings, num_tasks: Mapping[str, int]) -> None:
    """Checks that the global batch of every training divides over the processes of its job; `num_tasks`: those of each stage.

    Raises:
        LussError: One does not.
    """
    for name, number in num_tasks.items():
        block = STAGES[name].block(run)
        if isinstance(block, TrainSettings):
            share_of_batch(block.batch_size, block.accumulate, key=name, processes=number)


def _check_data(run: RunSettings, layout: Layout, console: Console) -> None:
    listed_folders(without_absent(run, Path(run.output)).data, layout)
    if run.pretrain.method.USES_LABELS and PRETRAIN.name in stages_of(run) and not categories_of(layout):
        raise LussError(
            f"pretrain.method is {run.pretrain.method.name}, but the images of {layout.root} are not sorted into a folder a category: sort "
            "them, or choose a method that needs no labels"
        )
    for split in run.data.evaluate:
        if split not in layout.images and [split] != DataSettings().evaluate:
            near = nearest_split(split, layout)
            _warn(console, f"data.evaluate names {split!r}, which {layout.root} lacks{near}: it is left out")
    if {"distance_matching", "semi_supervised"} & set(run.protocols):
        check_train_semi(run)
    if "unsupervised" not in run.protocols:
        return
    if run.pseudo_labels.threshold == "validation" and not layout.has_masks("validation"):
        raise LussError(
            f"pseudo_labels.threshold=validation needs the masks {layout.root / 'validation-segmentation'}: use auto, which needs none"
        )
    if any(split in layout.masks for split in run.data.evaluate):
        _check_num_clusters(run, len(category_ids(layout.image_folder("train"))), console)


def _check_num_clusters(run: RunSettings, num_categories: int, console: Console) -> None:
    """Where predictions are compared with masks."""
    if run.cluster.num_clusters >= IGNORE:
        raise LussError(
            f"cluster.num_clusters is {run.cluster.num_clusters}, but masks compare at most {IGNORE - 1} ids: lower it, or "
            "evaluate nothing with data.evaluate=[] and a threshold without masks"
        )
    if num_categories != run.cluster.num_clusters:
        found = f"the data has {num_categories} categories but cluster.num_clusters is {run.cluster.num_clusters}"
        _warn(console, f"{found}: the benchmark compares equal numbers")


def _check_engines(run: RunSettings) -> None:
    engines = {CLUSTERS.name: CLUSTERS.block(run).engine, DISTANCE_MATCHING.name: DISTANCE_MATCHING.block(run).engine}
    asked = [name for name in stages_of(run) if engines.get(name) == "faiss"]
    if asked and not faiss_is_installed():
        raise LussError(
            f"{asked[0]}.engine is faiss, which is not installed: pip install 'luss[cpu]', or {asked[0]}.engine=torch"
        )


def _check_network(run: RunSettings, console: Console) -> None:
    """Builds the network at every output stride that a stage will ask for: some can be built at their own alone."""
    own, states = stages_of(run), States(run)
    if all(states.kind(stage) == "done" for stage in own.values()):
        return
    wanted = {run.pretrain.backbone.output_stride: "pretrain.backbone.output_stride"}
    for stage in own.values():
        # 0 = that of the pretraining.
        if isinstance(stage, Finetune) and stage.block(run).output_stride:
            wanted[stage.block(run).output_stride] = f"{stage.name}.output_stride"
    for stride, key in wanted.items():
        try:
            backbone = build_backbone(run.pretrain.backbone.name, output_stride=stride)
        except LussError as error:
            raise LussError(f"{key}={stride}: {error}") from error
    _check_image_sizes(run, own, backbone, console)
    if run.cluster.layout_dim and CLUSTERS.name in own:
        layout = run.extract_features
        length = sum(descriptor_widths(layout.layout_stages, backbone.channels)) * layout.layout_grid**2
        if run.cluster.layout_dim > length:
            raise LussError(
                f"cluster.layout_dim is {run.cluster.layout_dim}, but the descriptors of extract_features.layout_stages="
                f"{layout.layout_stages} on a grid of {layout.layout_grid} have {length} numbers: lower it"
            )


def _check_weights(run: RunSettings) -> None:
    """Reads the weights that the run was given once: the images may take hours to list before the pretraining does."""
    block, folder = PRETRAIN.block(run), Path(run.output).resolve()
    if PRETRAIN.name not in stages_of(run) or not gives_files(block) or States(run).kind(PRETRAIN) == "done":
        return
    key, given = ("weights", block.weights) if block.weights else ("backbone.weights", block.backbone.weights)
    if Path(given).resolve() == folder or Path(given).resolve().is_relative_to(folder / PRETRAIN.name):
        raise LussError(
            f"pretrain.{key} is {given}, the pretraining of this very run, which would be moved aside: give the new run another name or output"
        )
    if not block.method.USES_LABELS:
        # How many categories there are is not known yet.
        start_method(block)


def _check_steps(run: RunSettings) -> None:
    """Tries a step of every training that is to begin: a norm over one value, and whatever else a network refuses, is known after a second."""
    states = States(run)
    for stage in stages_of(run).values():
        block = stage.block(states.run)
        if not isinstance(block, TrainSettings) or not block.epochs or states.kind(stage) in ("done", "partial"):
            continue
        # A norm that is synchronised sees the images of all processes.
        sharing = 1 if block.sync_batch_norm else processes.world_size()
        with torch.random.fork_rng(devices=[]):
            stage.try_step(states.run, max(1, min(block.images_a_pass // sharing, 2)))


def _check_image_sizes(run: RunSettings, own: Mapping[str, AnyStage], backbone: Backbone, console: Console) -> None:
    """Crops that networks learn from must have sides that it takes; whole images are resized to the nearest, which is said."""
    sides: dict[str, int] = {}
    whole: dict[str, int] = {}
    for name, stage in own.items():
        block = stage.block(run)
        sides |= {f"{key}.size": view.size for key, view in _views(block, name) if view.count}
        if isinstance(block, FinetuneSettings):
            sides[f"{name}.size"] = block.size
        elif isinstance(block, WholeImageSettings):
            whole[f"{name}.short_side"] = block.short_side
        elif isinstance(block, ExtractFeaturesSettings):
            (sides if backbone.fixed_size else whole)[f"{name}.crop"] = block.crop
    if backbone.fixed_size and whole:
        height, width = backbone.fixed_size
        raise LussError(
            f"{next(iter(whole)).split('.')[0]} takes images of any aspect, but {backbone.name} those of {height} x {width} pixels only: "
            "choose another backbone"
        )
    for key, side in sides.items():
        backbone.check_side(side, key)
    for key, side in whole.items():
        if (used := backbone.nearest_side(side)) != side:
            multiples = f"{backbone.name} takes multiples of {backbone.multiple}"
            _warn(console, f"{key} is {side}, but {multiples}: images get {used} pixels")


def _views(block: Any, prefix: str) -> Iterator[tuple[str, ViewSettings]]:
    """Every group of views in a block and the blocks in it, by its key."""
    for entry in dataclasses.fields(block):
        value = getattr(block, entry.name)
        if isinstance(value, ViewSettings):
            yield f"{prefix}.{entry.name}", value
        elif dataclasses.is_dataclass(value):
            yield from _views(value, f"{prefix}.{entry.name}")


def _warn(console: Console, text: str) -> None:
    console.print(f"warning: {text}", style="yellow")
