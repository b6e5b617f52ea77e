"""Checks of a configuration's values that types cannot express, made before anything runs."""

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterator
from typing import Any

from luss.errors import LussError
from luss.settings import RunSettings

PROTOCOLS = ("unsupervised", "distance_matching", "semi_supervised")
"""The protocols of the benchmark, as `protocols` names them."""

_CHOICES: dict[str, tuple[str, ...]] = {
    "data.verify": ("header", "full"),
    "pretrain.method": ("pass_s", "swav"),
    "extract_features.dtype": ("float16", "float32"),
    "cluster.engine": ("auto", "faiss", "torch"),
    "cluster.metric": ("cosine", "euclidean"),
    "pseudo_labels.threshold_method": ("otsu", "triangle", "minimum_error"),
    "evaluate.matching": ("hungarian", "identity"),
    "distance_matching.engine": ("auto", "faiss", "torch"),
}
# By the last part of a key.
_CHOICES_EVERYWHERE: dict[str, tuple[str, ...]] = {
    "optimizer": ("lars", "larc", "sgd", "adamw"),
    "precision": ("auto", "fp32", "bf16", "fp16"),
}
_POSITIVE = {
    "batch_size", "accumulate", "lr_batch_size", "log_every", "peer_timeout_min", "checkpoint_minutes", "checkpoint_epochs", "size", "num_prototypes",
    "embedding_dim", "hidden_dim", "temperature", "epsilon", "sinkhorn_iterations", "upsample", "resize", "crop", "shard_size",
    "num_clusters", "layout_grid", "num_iterations", "num_restarts", "chunk_size", "short_side", "size_multiple", "label_stride", "max_pixels",
    "num_neighbours",
}  # fmt: skip
_NOT_NEGATIVE = {
    "epochs", "layout_dim", "lr", "final_lr", "warmup_epochs", "momentum", "weight_decay", "clip_grad", "workers", "count", "queue_length",
    "queue_start_epoch", "freeze_prototypes_steps", "draw_prototypes_steps", "deep_weight", "pixel_alignment_weight", "grid_size", "weight", "seed",
    "brightness", "contrast", "saturation",
}  # fmt: skip
_SHARES = {
    "max_skipped_share",
    "whitening",
    "jitter_probability",
    "grey_probability",
    "blur_probability",
    "image_weight",
    "saliency",
    "difficulty",
}
_WEIGHT_LISTS = {"shallow_weights", "layout_weights"}
# 0 has a meaning of its own here.
_ZERO_MEANS_OFF = {"predict.max_pixels", "semi_predict.max_pixels"}


def validate(settings: RunSettings) -> None:
    """Checks ranges, choices and values that must fit each other.

    Raises:
        LussError: Listing everything that is wrong, with the key and what it may be.
    """
    problems = [problem for key, value in _values(settings) for problem in _check(key, value)]
    problems += [*_check_protocols(settings.protocols), *_check_together(settings)]
    if problems:
        raise LussError("\n".join(problems) if len(problems) > 1 else problems[0])


def _values(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for entry in dataclasses.fields(settings):
        value = getattr(settings, entry.name)
        if dataclasses.is_dataclass(value):
            yield from _values(value, f"{prefix}{entry.name}.")
        else:
            yield f"{prefix}{entry.name}", value


def _check(key: str, value: Any) -> Iterator[str]:
    last = key.split(".")[-1]
    choices = _CHOICES.get(key) or _CHOICES_EVERYWHERE.get(last)
    if choices and value not in choices:
        yield f"{key} is {value!r}: choose one of {', '.join(choices)}"
    rules: list[tuple[bool, Callable[[Any], bool], str]] = [
        (last in _POSITIVE and key not in _ZERO_MEANS_OFF, lambda v: v > 0, "more than 0"),
        (last in _NOT_NEGATIVE, lambda v: v >= 0, "0 or more"),
        (last in _SHARES, lambda v: 0 <= v <= 1, "from 0 to 1"),
        (last == "scale", lambda v: 0 < v[0] <= v[1] <= 1, "two shares of the area, 0 < low <= high <= 1"),
        (last == "blur_sigma", lambda v: 0 <= v[0] <= v[1], "two sigmas, 0 <= low <= high"),
        # 0 = that of the pretraining.
        (
            last == "output_stride",
            lambda v: v in (8, 16, 32) or (v == 0 and key != "pretrain.backbone.output_stride"),
            "8, 16 or 32",
        ),
        (last == "max_aspect", lambda v: v >= 1, "1 or more"),
        (last == "hue", lambda v: 0 <= v <= 0.5, "from 0 to 0.5, in turns of the colour circle"),
        (last in _WEIGHT_LISTS, lambda v: min(v, default=0) >= 0, "numbers of 0 or more"),
        (isinstance(value, float), math.isfinite, "a finite number"),
    ]
    for applies, holds, allowed in rules:
        if applies and not holds(value):
            yield f"{key} is {value!r}: it must be {allowed}"


def _check_protocols(names: list[str]) -> Iterator[str]:
    if not names:
        yield f"protocols is empty: name one or more of {', '.join(PROTOCOLS)}"
    for name in names:
        if name not in PROTOCOLS:
            near = difflib.get_close_matches(name, PROTOCOLS, n=1, cutoff=0.4)
            hint = f" did you mean {near[0]}?" if near else ""
            yield f"protocols names {name!r}:{hint} the protocols are {', '.join(PROTOCOLS)}"


def _check_together(settings: RunSettings) -> Iterator[str]:
    for name in ("pretrain", "pixel_attention", "finetune", "semi_finetune"):
        block = getattr(settings, name)
        if block.batch_size % block.accumulate:
            yield f"{name}.batch_size ({block.batch_size}) must be a multiple of {name}.accumulate ({block.accumulate})"
    queues = {
        "pretrain.clustering": (settings.pretrain, settings.pretrain.clustering.queue_length),
        "pixel_attention": (settings.pixel_attention, settings.pixel_attention.queue_length),
    }
    for name, (block, length) in queues.items():
        images = block.batch_size // block.accumulate
        if 0 < length < images:
            yield f"{name}.queue_length is {length}, less than the {images} images of a forward pass: set it to 0, or to a multiple of them"
    for name in ("finetune", "semi_finetune"):
        block = getattr(settings, name)
        if block.label_stride > block.size:
            yield f"{name}.label_stride ({block.label_stride}) is larger than {name}.size ({block.size})"
    own = settings.pretrain.pass_s
    if settings.pretrain.method == "pass_s" and not own.deep_weight + sum(own.shallow_weights):
        yield "pretrain.pass_s.deep_weight and shallow_weights are all 0: the clustering loss needs one of them"
    if not settings.name:
        yield "name is empty: a run needs one"
    if settings.pretrain.global_views.count != 2:
        yield f"pretrain.global_views.count is {settings.pretrain.global_views.count}: the methods here compare exactly 2"
    if settings.pixel_attention.views.count < 2:
        yield f"pixel_attention.views.count is {settings.pixel_attention.views.count}: at least 2 views are compared"
    if settings.extract_features.crop > settings.extract_features.resize:
        yield (
            f"extract_features.crop ({settings.extract_features.crop}) is larger than extract_features.resize "
            f"({settings.extract_features.resize})"
        )
    threshold = settings.pseudo_labels.threshold
    if threshold not in ("auto", "validation"):
        try:
            valid = 0 <= float(threshold) <= 1
        except ValueError:
            valid = False
        if not valid:
            yield f"pseudo_labels.threshold is {threshold!r}: use auto, validation, or a number from 0 to 1"
    if settings.cluster.layout_dim and not settings.extract_features.layout_stages:
        yield "cluster.layout_dim clusters layout descriptors: name their stages in extract_features.layout_stages, such as [0, 4]"
    if settings.cluster.layout_dim and len(settings.cluster.layout_weights) != len(
        settings.extract_features.layout_stages
    ):
        yield (
            f"cluster.layout_weights has {len(settings.cluster.layout_weights)} entries for "
            f"{len(settings.extract_features.layout_stages)} stages in extract_features.layout_stages: give one weight a stage"
        )
    if any(stage not in range(5) for stage in settings.extract_features.layout_stages):
        yield f"extract_features.layout_stages is {settings.extract_features.layout_stages}: stages are 0 (gradients) to 4"
    if settings.cluster.num_clusters > 65535:
        yield f"cluster.num_clusters is {settings.cluster.num_clusters}: label maps hold ids up to 65535"
