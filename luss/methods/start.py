"""A learner as its training begins: with random weights, the backbone of others, or a whole pretraining: backbone, heads and prototypes."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from luss.errors import LussError
from luss.methods import method_class
from luss.methods.base import Given, Method
from luss.methods.clustering import OnlineClustering
from luss.methods.saved import DESCRIPTION, WEIGHTS, load_heads
from luss.models.backbone import Backbone, start_residuals_at_one
from luss.models.build import build_backbone
from luss.models.io import load_backbone
from luss.models.layouts import COUNTER, best_prefix
from luss.models.weight_files import content_mark, read_weights
from luss.models.weights import LoadedWeights, check_numbers, counted, initialise, take
from luss.settings import ClusteringSettings, PretrainSettings

_BACKBONE, _BACKBONE_DESCRIPTION = "backbone.safetensors", "backbone.json"
# The heads of PASS's and SwAV's own code, and what they are called here.
_PUBLISHED = tuple(
    (re.compile(rf"(?<![^.]){theirs}\."), rf"{own}.")
    for theirs, own in (
        (r"projection_head_shallow\.projection_head_shallow(\d)", r"shallow.\1.image"),
        (r"projection_head_pixel_shallow\.projection_head_pixel(\d)", r"shallow.\1.pixel"),
        ("projection_head_pixel", "pixel_projector"),
        ("predictor_head_pixel", "pixel_predictor"),
        ("projection_head", "clustering.projector"),
        (r"(?<!clustering\.)prototypes", "clustering.prototypes"),
    )
)
# Settings that say how large a clustering head is: the tensor and the side of it that show them.
_SIZES = {
    "num_prototypes": ("clustering.prototypes.weight", 0),
    "embedding_dim": ("clustering.prototypes.weight", 1),
    "hidden_dim": ("clustering.projector.0.weight", 0),
}
_LAST_LAYER, _LAST_NORM = "clustering.projector.3.weight", "clustering.projector.4.running_mean"
# Part of the names of past embeddings.
_QUEUE = "queue"
# What a later stage takes from the settings of the pretraining beside its prototypes.
_READ_LATER = ("temperature", "epsilon", "sinkhorn_iterations")


@dataclass(frozen=True)
class Pretraining:
    """Weights on disk that a learner may start from.

    Attributes:
        files: What was read.
        backbone: Tensors among which the backbone is, by name.
        heads: Tensors among which the heads are, by name; the same where one file holds both.
        trained: Whether its clustering head has been trained.
        clustering: The settings of that head, where luss wrote it.
        network: The backbone, where luss wrote it.
    """

    files: tuple[Path, ...]
    backbone: Mapping[str, Tensor]
    heads: Mapping[str, Tensor]
    trained: bool = True
    clustering: ClusteringSettings | None = None
    network: Backbone | None = None


@dataclass
class Start:
    """A learner with its first weights, and where they came from.

    Attributes:
        method: The learner.
        clustering: Whether its clustering head came trained.
        problems: Sentences about what should have come and did not.
        notes: Sentences about what was taken, and what was left out on purpose.
        record: The same as JSON values; empty where no file was read.
    """

    method: Method
    clustering: bool = False
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Heads:
    """A learner's heads in a file: tensors by the learner's names, what the file calls them, and the names that it lacks."""

    tensors: dict[str, Tensor]
    theirs: dict[str, str]
    missing: list[str]
    other_shape: list[str]


def gives_files(settings: PretrainSettings) -> bool:
    """Whether the first weights come from files."""
    own = settings.backbone.weights
    return bool(settings.weights) or not (own in ("random", "timm") or own.startswith("timm:"))


def start_method(settings: PretrainSettings, *, categories: Callable[[], Tensor] | None = None) -> Start:
    """Builds the learner of a pretraining with its first weights.

    Args:
        settings: The pretraining's.
        categories: What a learner that uses labels is told (`Given`); no other one can ask.

    Raises:
        LussError: A file cannot be read, is of another network, or its heads have other sizes than the settings say.
    """
    source = settings.weights or settings.backbone.weights
    given = _read(settings) if gives_files(settings) else None
    reports: list[LoadedWeights] = []

    def backbone() -> Backbone:
        built = build_backbone(settings.backbone.name, output_stride=settings.backbone.output_stride)
        if not settings.backbone.zero_init_residual:
            start_residuals_at_one(built)
        reports.append(initialise(built, source) if given is None else _take_backbone(built, given, source))
        return built

    told = categories if settings.method.USES_LABELS else None
    method = method_class(settings.method.name)(
        settings.method, Given(backbone, settings.images_a_pass, categories=told)
    )
    # A learner with a teacher asks for two networks, which find the same.
    loaded = reports[0]
    if given is None:
        return Start(method, problems=loaded.problems(), notes=loaded.notes())
    start = Start(method, problems=loaded.problems())
    start.record = {
        "setting": "pretrain.weights" if settings.weights else "pretrain.backbone.weights",
        "source": source,
        "files": [str(path.resolve()) for path in given.files],
        "mark": content_mark(given.files),
        "backbone": {"missing": loaded.missing, "other_shape": loaded.other_shape},
    }
    if settings.weights:
        _take_heads(start, given, loaded, source)
    else:
        start.notes += loaded.notes()
        start.notes += _untaken_heads(method, given, source)
    return start


def find_pretraining(path: Path) -> Pretraining:
    """Reads a whole pretraining, without unpickling code.

    Args:
        path: A run of luss, its pretrain folder, a folder with `backbone.safetensors` and `method.safetensors`, one of these two files, or a
            checkpoint of PASS or SwAV (torch or safetensors).

    Raises:
        LussError: There is none, or a file is damaged.
    """
    folder = path.parent if path.name in (_BACKBONE, WEIGHTS) else path
    folder = folder / "pretrain" if (folder / "pretrain").is_dir() else folder
    if path.is_file() and not ((folder / _BACKBONE).is_file() and (folder / WEIGHTS).is_file()):
        given = read_weights(path)
        return Pretraining((path,), given, given)
    lacking = [name for name in (_BACKBONE, WEIGHTS) if not (folder / name).is_file()]
    if lacking:
        what = (
            "does not exist"
            if not path.exists()
            else f"is no finished pretraining: {folder} lacks {' and '.join(lacking)}"
        )
        raise LussError(
            f"pretrain.weights: {path} {what}. Give a run, its pretrain folder, or a checkpoint of PASS or SwAV; pretrain.backbone.weights=FILE "
            "takes a backbone alone"
        )
    head = load_heads(folder) if (folder / DESCRIPTION).is_file() else None
    return Pretraining(
        tuple(folder / name for name in (_BACKBONE, _BACKBONE_DESCRIPTION, WEIGHTS, DESCRIPTION) if (folder / name).is_file()),
        read_weights(folder / _BACKBONE),
        read_weights(folder / WEIGHTS),
        trained=head is not None or not (folder / DESCRIPTION).is_file(),
        clustering=head.settings if head else None,
        network=load_backbone(folder) if (folder / _BACKBONE_DESCRIPTION).is_file() else None,
    )  # fmt: skip


def _read(settings: PretrainSettings) -> Pretraining:
    if settings.weights:
        return find_pretraining(Path(settings.weights))
    path = Path(settings.backbone.weights)
    given = read_weights(path)
    beside = path.name == _BACKBONE and (path.parent / WEIGHTS).is_file()
    whole = find_pretraining(path) if beside else Pretraining((path,), given, given)
    return Pretraining((path,), given, whole.heads, trained=whole.trained)


def _take_backbone(backbone: Backbone, given: Pretraining, source: str) -> LoadedWeights:
    if given.network is not None:
        if given.network.name != backbone.name:
            raise LussError(
                f"pretrain.backbone.name is {backbone.name!r}, but {source} is a pretraining of {given.network.name!r}: set "
                f"pretrain.backbone.name={given.network.name}"
            )
        backbone.set_normalisation(given.network.mean, given.network.std)
    return take(backbone, given.backbone, source)


def _take_heads(start: Start, given: Pretraining, loaded: LoadedWeights, source: str) -> None:
    """Gives a learner the heads of a pretraining; completes what is said about it.

    Raises:
        LussError: They have other sizes than the settings say.
    """
    method, heads = start.method, _heads_in(given.heads, start.method)
    if not heads.tensors and not heads.other_shape:
        raise LussError(
            f"pretrain.weights: {source} holds no heads of {type(method).__name__}: pretrain.backbone.weights={given.files[0]} takes its "
            "backbone"
        )
    _check_sizes(heads, method, given, source)
    check_numbers(heads.tensors, source)
    method.load_state_dict(heads.tensors, strict=False)
    taken = set(heads.theirs.values())
    beside = [] if given.heads is given.backbone else [name for name in given.heads if _QUEUE not in name]
    unused = [name for name in (*loaded.unused, *beside) if name not in taken]
    if heads.missing:
        start.problems.append(f"{source} lacks {counted(heads.missing)}: kept random")
    prototypes = method.prototypes()
    start.clustering = prototypes is not None and given.trained and not _lacking(method, prototypes, heads)
    if prototypes is not None and not start.clustering:
        start.problems.append(
            f"{source} has no trained clustering head (projector and prototypes): without training, the pixel attention trains its own"
        )
    if prototypes is not None and given.clustering is not None:
        for name in _READ_LATER:
            before, now = getattr(given.clustering, name), getattr(prototypes.settings, name)
            if before != now:
                start.problems.append(f"{source} was trained with clustering.{name}={before}, this run has {now}")
    if prototypes is not None and prototypes.settings.draw_prototypes_steps:
        start.problems.append(
            "clustering.draw_prototypes_steps replaces the given prototypes in the first steps of training: set it to 0"
        )
    start.notes.append(f"{source}: took the backbone and {counted(list(heads.tensors))}")
    start.notes += dataclasses.replace(loaded, unused=unused).notes()
    start.record |= {
        "heads": {"taken": list(heads.tensors), "missing": heads.missing},
        "clustering": start.clustering,
        "left_out": unused,
    }


def _heads_in(given: Mapping[str, Tensor], method: Method) -> _Heads:
    """A learner's heads among a file's tensors. Queues are left where they are: they hold embeddings of another training."""
    own = {
        name: tensor
        for name, tensor in method.state_dict().items()
        if not name.startswith("backbone.") and _QUEUE not in name
    }
    translated = {_translated(name): name for name in given}
    prefix = best_prefix({name: given[theirs] for name, theirs in translated.items()}, own, by_shape=False)
    theirs = {name: translated[prefix + name] for name in (*own, _LAST_NORM) if prefix + name in translated}
    other_shape = [name for name in own if name in theirs and given[theirs[name]].shape != own[name].shape]
    missing = [name for name in own if name not in theirs and not name.endswith(COUNTER)]
    tensors = {name: given[theirs[name]] for name in own if name in theirs and name not in other_shape}
    return _Heads(tensors, theirs, missing, other_shape)


def _translated(name: str) -> str:
    for pattern, replacement in _PUBLISHED:
        name = pattern.sub(replacement, name)
    return name


def _check_sizes(heads: _Heads, method: Method, given: Pretraining, source: str) -> None:
    key, alone = "pretrain.method", f"or take its backbone alone: pretrain.backbone.weights={given.files[0]}"
    if heads.other_shape:
        own, words = method.state_dict(), []
        for size, (name, side) in _SIZES.items():
            theirs = given.heads[heads.theirs[name]] if name in own and name in heads.theirs else None
            if theirs is not None and theirs.ndim == 2 and theirs.shape[side] != own[name].shape[side]:
                words.append(f"{key}.clustering.{size}={theirs.shape[side]}")
        remedy = " ".join(words) or f"{key} as that pretraining had it"
        raise LussError(
            f"{source} has heads of other sizes than {key}: {counted(heads.other_shape)}. Set {remedy}, {alone}"
        )
    if _LAST_NORM in heads.missing and _LAST_LAYER in heads.tensors:
        raise LussError(
            f"the projector of {source} ends without batch norm, as SwAV's does: set {key}.clustering.projector_norm=false, {alone}"
        )
    if _LAST_NORM in heads.theirs and _LAST_NORM not in method.state_dict():
        raise LussError(
            f"the projector of {source} ends with a batch norm: set {key}.clustering.projector_norm=true, {alone}"
        )


def _lacking(method: Method, prototypes: OnlineClustering, heads: _Heads) -> list[str]:
    prefix = next(name for name, module in method.named_modules() if module is prototypes)
    return [name for name in heads.missing if name.startswith(f"{prefix}.")]


def _untaken_heads(method: Method, given: Pretraining, source: str) -> list[str]:
    """A word for who gave the backbone alone, where the file's clustering head would fit too."""
    heads, prototypes = _heads_in(given.heads, method), method.prototypes()
    if prototypes is None or not given.trained or heads.other_shape or _lacking(method, prototypes, heads):
        return []
    return [
        f"{source} comes with heads that fit {type(method).__name__} ({counted(list(heads.tensors))}): pretrain.weights={source} instead of "
        "pretrain.backbone.weights takes them too, and the pixel attention starts from its prototypes"
    ]
