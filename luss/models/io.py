"""A trained network as files: safetensors beside a JSON that says how to rebuild it. No pickle."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from luss.errors import LussError
from luss.files import read_record, replacing, write_json
from luss.models.backbone import Backbone
from luss.models.build import build_backbone
from luss.models.segmenter import SegmentationNetwork
from luss.refusals import refuse
from luss.settings import PredictSettings

FORMAT_VERSION = 1
# Since 2 the segmenter's config.json has the digest of its weights; models of format 1 still load.
SEGMENTER_FORMAT = 2
WEIGHTS_NAME, CONFIG_NAME = "model.safetensors", "config.json"
# What turns logits into labels; the other settings of a prediction say where and how fast.
DECODING = ("short_side", "size_multiple", "max_aspect", "total_foreground", "image_weight", "max_pixels")
MAX_SIDE = 1 << 14
"""Pixels that a model may ask images to be enlarged to."""
# JSON has numbers that no float holds; not-a-number is not below it either.
_LARGEST = 1e30

_AGAIN = "copy the whole folder again, or run the stage that makes it again (--force)"


def save_tensors(path: Path, tensors: dict[str, Tensor], *, metadata: dict[str, str] | None = None) -> None:
    """Writes named tensors as safetensors, atomically."""
    with replacing(path) as temporary:
        content: dict[str, Tensor] = {}
        places: set[int] = set()
        for name, tensor in tensors.items():
            value = tensor.detach().cpu().contiguous()
            # The format has no shared tensors: modules that share one are written with a copy each.
            content[name] = value.clone() if value.numel() and value.data_ptr() in places else value
            places.add(value.data_ptr())
        safetensors.torch.save_file(content, temporary, metadata=metadata)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Reads named tensors.

    Raises:
        LussError: The file is absent or damaged.
    """
    if not path.is_file():
        raise LussError(f"{path} does not exist: {_AGAIN}")
    try:
        return dict(safetensors.torch.load_file(path))
    except Exception as error:
        refuse(error, path)
        raise LussError(f"{path} is damaged ({error}): {_AGAIN}") from error


def save_backbone(folder: Path, backbone: Backbone, weights: dict[str, Tensor], **extra: Any) -> None:
    """Writes `backbone.safetensors` (plain timm weights) and `backbone.json`."""
    save_tensors(folder / "backbone.safetensors", weights)
    write_json(folder / "backbone.json", {"format": FORMAT_VERSION, **backbone.describe(), **extra})


def load_backbone(folder: Path, *, output_stride: int = 0) -> Backbone:
    """Reads what `save_backbone` wrote, or the backbone of a segmenter; `output_stride`: another one than it was trained with, 0 = the same.

    Raises:
        LussError: A file is missing, damaged, or does not fit the other.
    """
    path = _description_path(folder)
    backbone = _built(read_record(path, remedy=_AGAIN), path, output_stride)
    of_segmenter = path.name == CONFIG_NAME
    tensors = load_tensors(folder / (WEIGHTS_NAME if of_segmenter else "backbone.safetensors"))
    backbone.load(below("backbone.", tensors) if of_segmenter else tensors)
    return backbone


def backbone_channels(folder: Path) -> list[int]:
    """Channels of the maps of the backbone that `load_backbone` would read, without reading it.

    Raises:
        LussError: As `load_backbone`.
    """
    path = _description_path(folder)
    channels = read_record(path, {"channels": list}, remedy=_AGAIN)["channels"]
    if not all(isinstance(number, int) for number in channels):
        raise _edited(path, ValueError(f"channels is {channels!r}"))
    return list(channels)


def _description_path(folder: Path) -> Path:
    """A stage that trains a segmenter leaves its backbone inside of it: a later round may start from either."""
    path = folder / "backbone.json"
    return folder / CONFIG_NAME if not path.is_file() and (folder / CONFIG_NAME).is_file() else path


def save_segmenter(
    folder: Path,
    network: SegmentationNetwork,
    *,
    num_clusters: int,
    names: Mapping[int, str] | None = None,
    decoding: PredictSettings | None = None,
    **extra: Any,
) -> None:
    """Writes `model.safetensors` and `config.json`: a folder that can be copied anywhere.

    Args:
        folder: Made when absent.
        network: Backbone and head.
        num_clusters: C.
        names: Names of some or all clusters.
        decoding: How logits become labels, where that is known.
        extra: More entries of `config.json`, such as the fingerprint of the stage that trained the network.
    """
    tensors = {f"backbone.{name}": tensor for name, tensor in network.backbone.export().items()}
    tensors.update({f"head.{name}": tensor for name, tensor in network.head.state_dict().items()})
    save_tensors(folder / WEIGHTS_NAME, tensors)
    description = {"format": SEGMENTER_FORMAT, **network.backbone.describe(), "num_clusters": num_clusters, **extra}
    description["names"] = {str(cluster): name for cluster, name in sorted((names or {}).items())}
    if decoding is not None:
        description["decoding"] = decoding_entries(decoding)
    write_json(folder / CONFIG_NAME, {**description, "sha256": sha256_of(folder / WEIGHTS_NAME)})


def load_segmenter(folder: Path) -> tuple[SegmentationNetwork, dict[str, Any]]:
    """Reads what `save_segmenter` wrote.

    Returns:
        The network on the CPU, in eval mode, and the content of `config.json`.

    Raises:
        LussError: A file is missing, damaged, not the one that `config.json` was written for (by its sha256), or of another network.
    """
    description = read_description(folder)
    backbone = _built(description, folder / CONFIG_NAME)
    try:
        num_clusters = int(description["num_clusters"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise _edited(folder / CONFIG_NAME, error) from error
    tensors = load_tensors(folder / WEIGHTS_NAME)
    weight = tensors.get("head.weight")
    # Before a head of that size is made.
    if weight is None or weight.ndim != 4 or weight.shape[0] != num_clusters + 1:
        held = "no head" if weight is None else f"a head of the shape {tuple(weight.shape)}"
        raise LussError(f"{folder / WEIGHTS_NAME} does not fit its {CONFIG_NAME}: {num_clusters} clusters, and {held}")
    network = SegmentationNetwork(backbone, num_clusters)
    backbone.load(below("backbone.", tensors))
    try:
        network.head.load_state_dict(below("head.", tensors))
    except RuntimeError as error:
        raise LussError(f"{folder / WEIGHTS_NAME} does not fit its {CONFIG_NAME}: {error}") from error
    return network.eval(), description


def read_description(folder: Path) -> dict[str, Any]:
    """Reads the `config.json` of a segmenter and checks that the weights beside it are the ones it was written for.

    Raises:
        LussError: A file is missing, damaged, of a newer format, or the weights have changed.
    """
    path, weights = folder / CONFIG_NAME, folder / WEIGHTS_NAME
    for needed in (path, weights):
        if not needed.is_file():
            raise LussError(
                f"{needed} does not exist: a model is the folder of both {CONFIG_NAME} and {WEIGHTS_NAME}; {_AGAIN}"
            )
    description = read_record(path, remedy=_AGAIN)
    version = description.get("format")
    if version not in (1, SEGMENTER_FORMAT):
        raise LussError(
            f"{path} has format {version!r}, this luss reads 1 and {SEGMENTER_FORMAT}: install the luss that wrote it"
        )
    if version == SEGMENTER_FORMAT and description.get("sha256") != sha256_of(weights):
        raise LussError(
            f"{weights} is not the file that {path} was written for (its sha256 differs): it was damaged or exchanged; {_AGAIN}"
        )
    return description


def sha256_of(path: Path) -> str:
    """The digest of a file's content, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def decoding_entries(settings: PredictSettings) -> dict[str, Any]:
    """How logits become labels, as it stands in `config.json`."""
    return {name: getattr(settings, name) for name in DECODING}


def decoding_settings(description: Mapping[str, Any], *, source: Path) -> PredictSettings:
    """The settings of a prediction by a model: those that its `config.json`, the file `source`, holds, else the defaults.

    Raises:
        LussError: An entry cannot be.
    """
    given = description.get("decoding", {})
    settings = PredictSettings()
    if not isinstance(given, dict):
        raise _edited(source, ValueError(f"decoding is {given!r}"))
    for entry in dataclasses.fields(PredictSettings):
        if entry.name not in DECODING or entry.name not in given:
            continue
        usual, value = getattr(settings, entry.name), given[entry.name]
        if isinstance(usual, bool) != isinstance(value, bool) or not isinstance(value, (int, float)):
            raise _edited(source, ValueError(f"decoding.{entry.name} is {value!r}"))
        if not abs(value) < _LARGEST:
            raise _edited(source, ValueError(f"decoding.{entry.name} is {value!r}"))
        setattr(settings, entry.name, type(usual)(value))
    # Larger ones would only fill the memory of who was given the model.
    sides = (settings.short_side, settings.size_multiple, settings.max_aspect)
    if not all(1 <= side <= MAX_SIDE for side in sides) or settings.max_pixels < 0:
        raise _edited(source, ValueError(f"decoding is {given!r}"))
    return settings


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, under the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _built(description: Mapping[str, Any], path: Path, output_stride: int = 0) -> Backbone:
    """The network of a description; weights may come with another mean and deviation than timm has under its bare name."""
    try:
        name, stride = str(description["name"]), int(description["output_stride"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise _edited(path, error) from error
    backbone = build_backbone(name, output_stride=output_stride or stride)
    found = {"mean": backbone.mean, "std": backbone.std}
    for key in found:
        value = description.get(key)
        if value is None:
            continue
        is_triple = isinstance(value, list) and len(value) == 3 and all(isinstance(n, (int, float)) for n in value)
        if not is_triple or not all(abs(n) < _LARGEST for n in value) or (key == "std" and min(value) <= 0):
            raise _edited(path, ValueError(f"{key} is {value!r}"))
        found[key] = tuple(float(number) for number in value)
    backbone.set_normalisation(**found)
    return backbone


def _edited(path: Path, error: Exception) -> LussError:
    reason = f"lacks {error}" if isinstance(error, KeyError) else f"has a wrong entry ({error})"
    return LussError(f"{path} {reason}: it was not written by luss, or was edited")
