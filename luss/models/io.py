"""A trained network as files: safetensors beside a JSON that says how to rebuild it. No pickle."""

from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor, nn

from luss.errors import LussError
from luss.files import read_json, replacing, write_json
from luss.models.backbone import Backbone
from luss.models.segmenter import SegmentationNetwork

FORMAT_VERSION = 1


def save_tensors(path: Path, tensors: dict[str, Tensor], *, metadata: dict[str, str] | None = None) -> None:
    """Writes named tensors as safetensors, atomically."""
    with replacing(path) as temporary:
        content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        safetensors.torch.save_file(content, temporary, metadata=metadata)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Reads named tensors.

    Raises:
        LussError: The file is absent or damaged.
    """
    if not path.is_file():
        raise LussError(f"{path} does not exist: run the stage that makes it again (--force)")
    try:
        return dict(safetensors.torch.load_file(path))
    except Exception as error:
        raise LussError(f"{path} is damaged ({error}): run the stage that makes it again (--force)") from error


def state_without_duplicates(module: nn.Module) -> dict[str, Tensor]:
    """A module's state without the backbone, which is saved by itself."""
    return {name: tensor for name, tensor in module.state_dict().items() if not name.startswith("backbone.")}


def save_backbone(folder: Path, backbone: Backbone, weights: dict[str, Tensor], **extra: Any) -> None:
    """Writes `backbone.safetensors` (plain timm weights) and `backbone.json`."""
    save_tensors(folder / "backbone.safetensors", weights)
    write_json(folder / "backbone.json", {"format": FORMAT_VERSION, **_describe(backbone), **extra})


def load_backbone(folder: Path, *, output_stride: int = 0) -> Backbone:
    """Reads what `save_backbone` wrote.

    Args:
        folder: Holds the two files.
        output_stride: Another stride than it was trained with; 0 = the same.

    Raises:
        LussError: A file is missing, damaged, or does not fit the other.
    """
    description = read_json(folder / "backbone.json")
    try:
        name, stride = str(description["name"]), int(description["output_stride"])
    except (KeyError, TypeError, ValueError) as error:
        raise _edited(folder / "backbone.json", error) from error
    backbone = Backbone(name, output_stride=output_stride or stride)
    backbone.load(load_tensors(folder / "backbone.safetensors"))
    return backbone


def save_segmenter(folder: Path, network: SegmentationNetwork, *, num_clusters: int, **extra: Any) -> None:
    """Writes `model.safetensors` and `config.json`: a folder that can be copied anywhere."""
    tensors = {f"backbone.{name}": tensor for name, tensor in network.backbone.export().items()}
    tensors.update({f"head.{name}": tensor for name, tensor in network.head.state_dict().items()})
    save_tensors(folder / "model.safetensors", tensors)
    write_json(
        folder / "config.json",
        {"format": FORMAT_VERSION, **_describe(network.backbone), "num_clusters": num_clusters, **extra},
    )


def load_segmenter(folder: Path) -> tuple[SegmentationNetwork, dict[str, Any]]:
    """Reads what `save_segmenter` wrote.

    Returns:
        The network on the CPU, in eval mode, and the content of `config.json`.

    Raises:
        LussError: A file is missing, damaged, or does not fit the other.
    """
    description: dict[str, Any] = read_json(folder / "config.json")
    try:
        name, stride = str(description["name"]), int(description["output_stride"])
        num_clusters = int(description["num_clusters"])
    except (KeyError, TypeError, ValueError) as error:
        raise _edited(folder / "config.json", error) from error
    backbone = Backbone(name, output_stride=stride)
    network = SegmentationNetwork(backbone, num_clusters)
    tensors = load_tensors(folder / "model.safetensors")
    backbone.load({name.removeprefix("backbone."): t for name, t in tensors.items() if name.startswith("backbone.")})
    try:
        network.head.load_state_dict(
            {name.removeprefix("head."): t for name, t in tensors.items() if name.startswith("head.")}
        )
    except RuntimeError as error:
        raise LussError(f"{folder / 'model.safetensors'} does not fit its config.json: {error}") from error
    return network.eval(), description


def _edited(path: Path, error: Exception) -> LussError:
    reason = f"lacks {error}" if isinstance(error, KeyError) else f"has a wrong entry ({error})"
    return LussError(f"{path} {reason}: it was not written by luss, or was edited")


def _describe(backbone: Backbone) -> dict[str, Any]:
    return {
        "name": backbone.name,
        "output_stride": backbone.output_stride,
        "channels": list(backbone.channels),
        "mean": list(backbone.mean),
        "std": list(backbone.std),
    }
