"""What is checked before work begins: everything that can be known now and would otherwise fail after hours."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import Console

from luss.data.imagenet_s import IGNORE, Layout, category_ids
from luss.errors import LussError
from luss.models.backbone import Backbone
from luss.settings import DataSettings, RunSettings, TrainSettings
from stages.base import Stage, stage_state
from stages.manifest import EMBEDDED, data_layout, listed_folders, nearest_split, num_pretrained, num_trained
from stages.registry import STAGES, stages_of
from stages.train_semi import check_train_semi

# Stages that train, and whose batch cannot be larger than the images they train on.
_TRAINED = ("pretrain", "pixel_attention", "finetune")


def preflight(run: RunSettings, console: Console) -> None:
    """Checks the data folders, what the run's protocols need of them, the engines and the networks, before any image is read.

    Raises:
        LussError: Something is missing, or cannot be.
    """
    if run.data.root != EMBEDDED:
        _check_data(run, data_layout(run.data), console)
    _check_engines(run)
    _check_network(run, console)


def check_sizes(run: RunSettings, run_folder: Path) -> None:
    """Checks what depends on the number of images, as soon as the manifest stage has counted them.

    Raises:
        LussError: More clusters, components or images a batch than there are images; all of them.
    """
    if stage_state(STAGES["manifest"], run, run_folder, STAGES).kind != "done":
        return
    num_images = num_trained(run_folder)
    problems = list(_too_large(run, num_images, num_pretrained(run, run_folder)))
    if problems:
        raise LussError("\n".join(problems))


def check_processes(run: RunSettings, num_tasks: Mapping[str, int]) -> None:
    """Checks that the global batch of every training divides over the processes of its job.

    Args:
        run: Settings.
        num_tasks: Processes of each stage.

    Raises:
        LussError: One does not.
    """
    from luss.training.distributed import share_of_batch

    for name, processes in num_tasks.items():
        block = getattr(run, name, None)
        if isinstance(block, TrainSettings):
            share_of_batch(block.batch_size, block.accumulate, key=name, processes=processes)


def _check_data(run: RunSettings, layout: Layout, console: Console) -> None:
    listed_folders(run.data, layout)
    for split in run.data.evaluate:
        if split not in layout.images and [split] != DataSettings().evaluate:
            _warn(
                console,
                f"data.evaluate names {split!r}, which {layout.root} lacks{nearest_split(split, layout)}: it is left out",
            )
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
        _warn(
            console,
            f"the data has {num_categories} categories but cluster.num_clusters is {run.cluster.num_clusters}: "
            "the benchmark compares equal numbers",
        )


def _check_engines(run: RunSettings) -> None:
    from luss.clustering.faiss_engine import faiss_is_installed

    blocks = ("cluster", "distance_matching")
    asked = [
        name for name in blocks if STAGES[name] in stages_of(run).values() and getattr(run, name).engine == "faiss"
    ]
    if asked and not faiss_is_installed():
        raise LussError(
            f"{asked[0]}.engine is faiss, which is not installed: pip install 'luss[cpu]', or {asked[0]}.engine=torch"
        )


def _check_network(run: RunSettings, console: Console) -> None:
    """Builds the network at every output stride that a stage will ask for: some can be built at their own alone."""
    own, folder = stages_of(run), Path(run.output)
    if all(stage_state(stage, run, folder, STAGES).kind == "done" for stage in own.values()):
        return
    from luss.features.layout import descriptor_widths
    from luss.models.build import build_backbone

    wanted = {run.pretrain.backbone.output_stride: "pretrain.backbone.output_stride"}
    for name in ("finetune", "semi_finetune"):
        # 0 = that of the pretraining.
        if name in own and getattr(run, name).output_stride:
            wanted[getattr(run, name).output_stride] = f"{name}.output_stride"
    for stride, key in wanted.items():
        try:
            backbone = build_backbone(run.pretrain.backbone.name, output_stride=stride)
        except LussError as error:
            raise LussError(f"{key}={stride}: {error}") from error
    _check_image_sizes(run, own, backbone, console)
    if run.cluster.layout_dim and "cluster" in own:
        layout = run.extract_features
        length = sum(descriptor_widths(layout.layout_stages, backbone.channels)) * layout.layout_grid**2
        if run.cluster.layout_dim > length:
            raise LussError(
                f"cluster.layout_dim is {run.cluster.layout_dim}, but the descriptors of extract_features.layout_stages="
                f"{layout.layout_stages} on a grid of {layout.layout_grid} have {length} numbers: lower it"
            )


def _check_image_sizes(run: RunSettings, own: Mapping[str, Stage], backbone: Backbone, console: Console) -> None:
    """Crops that networks learn from must have sides that it takes; whole images are resized to the nearest, which is said."""
    views = [(f"pretrain.{name}", getattr(run.pretrain, name)) for name in ("global_views", "local_views")]
    views.append(("pixel_attention.views", run.pixel_attention.views))
    sides = {f"{key}.size": view.size for key, view in views if key.split(".")[0] in own and view.count}
    sides |= {f"{name}.size": getattr(run, name).size for name in ("finetune", "semi_finetune") if name in own}
    whole = {
        f"{name}.short_side": getattr(run, name).short_side
        for name in ("pseudo_labels", "predict", "semi_predict", "distance_matching")
        if name in own
    }
    if backbone.fixed_size and whole:
        height, width = backbone.fixed_size
        raise LussError(
            f"{next(iter(whole)).split('.')[0]} takes images of any aspect, but {backbone.name} those of {height} x {width} pixels only: "
            "choose another backbone"
        )
    if "extract_features" in own:
        (sides if backbone.fixed_size else whole)["extract_features.crop"] = run.extract_features.crop
    for key, side in sides.items():
        backbone.check_side(side, key)
    for key, side in whole.items():
        if (used := backbone.nearest_side(side)) != side:
            _warn(
                console,
                f"{key} is {side}, but {backbone.name} takes multiples of {backbone.multiple}: images get {used} pixels",
            )


def _too_large(run: RunSettings, num_images: int, num_pretrained: int) -> Iterator[str]:
    own = stages_of(run)
    for name in _TRAINED:
        block, available = getattr(run, name), num_pretrained if name == "pretrain" else num_images
        if name in own and block.epochs and block.batch_size > available:
            yield f"{name}.batch_size is {block.batch_size}, but there are {available} images: lower it"
    if "cluster" not in own:
        return
    if run.cluster.num_clusters > num_images:
        yield f"cluster.num_clusters is {run.cluster.num_clusters}, but there are {num_images} images: lower it"
    if run.cluster.layout_dim > num_images:
        yield f"cluster.layout_dim is {run.cluster.layout_dim}, but there are {num_images} images: lower it"


def _warn(console: Console, text: str) -> None:
    console.print(f"[yellow]warning:[/yellow] {text}", highlight=False)
