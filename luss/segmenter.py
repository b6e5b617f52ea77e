"""A trained model as one object: images in, label maps and confidence out."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from luss.config import load_run_config, load_stored_config
from luss.data.images import read_image, read_size, to_rgb
from luss.data.resized import shape_batches, whole_size
from luss.data.views import cut
from luss.device import resolve_device
from luss.errors import LussError
from luss.labels.layers import cluster_names, current_layer
from luss.models.io import CONFIG_NAME, DECODING, WEIGHTS_NAME, decoding_settings, load_segmenter
from luss.models.segmenter import SegmentationNetwork
from luss.predict import Confidence, Labels, segment_batch
from luss.settings import PredictSettings
from luss.settings.run import MAX_PIXELS
from luss.training.precision import Precision

Picture = str | os.PathLike[str] | Image.Image | NDArray[Any]
"""A file, a PIL image, or an array (H, W, 3) or (H, W) of uint8."""

# The stages that make a model.
_MODEL_STAGES = ("finetune", "semi_finetune")


@dataclass(frozen=True)
class Segmentation:
    """What a model says about images, in their order.

    Example:
        >>> import luss
        >>> result = luss.Segmenter.load("outputs/demo")("photos/a.jpg")
        >>> label_map, confidence = result.label_maps[0], result.confidence[0]
        >>> label_map.shape == confidence.shape
        True
        >>> found = {result.names[int(i)] for i in set(label_map[confidence > 0.5].tolist())}

    Attributes:
        label_maps: (H, W) uint16 ids at each image's size, 0 = background, 1..C = clusters.
        confidence: (H, W) float32 in [0, 1]: the softmax probability of the class that the pixel was given, over the logits that decided
            it. It says how clear the choice was, not how often such pixels are right.
        names: Name of every id: "background", a given name, or "cluster 7".
    """

    label_maps: list[Labels]
    confidence: list[Confidence]
    names: dict[int, str]

    def __len__(self) -> int:
        return len(self.label_maps)


class Segmenter:
    """Segments images with a trained model; for whole folders `luss predict` also resumes and keeps nothing in memory.

    Example:
        >>> import luss
        >>> segmenter = luss.Segmenter.load("outputs/demo")  # a run, or a model folder
        >>> result = segmenter(["photos/a.jpg", "photos/b.jpg"])
        >>> result.label_maps[0].shape  # (height, width) of photos/a.jpg
        (60, 80)
        >>> float(result.confidence[0].max()) <= 1
        True
        >>> result.names[0], result.names[3]
        ('background', 'cluster 3')

    Attributes:
        network: On `device`, in eval mode.
        settings: How logits become labels; `batch_size` and `workers` too.
        num_clusters: C.
        given_names: Cluster id to name, for the clusters that have one.
        device: Where it computes.
        folder: The model folder it came from.
        description: Content of its `config.json`.
    """

    def __init__(
        self,
        network: SegmentationNetwork,
        description: Mapping[str, Any],
        settings: PredictSettings,
        *,
        folder: Path,
        names: Mapping[int, str],
        device: torch.device,
    ) -> None:
        """Use `Segmenter.load`."""
        self.network = network.to(device).eval()
        self.description, self.settings, self.folder, self.device = dict(description), settings, folder, device
        self.num_clusters = int(description["num_clusters"])
        self.given_names = dict(names)

    @property
    def names(self) -> dict[int, str]:
        """Name of every id 0..C: "background", a given name, or "cluster 7"."""
        ids = range(self.num_clusters + 1)
        return {i: self.given_names.get(i) or (f"cluster {i}" if i else "background") for i in ids}

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, device: str = "auto", names: Mapping[int, str] | None = None
    ) -> "Segmenter":
        """Reads a model.

        Args:
            path: A model folder (`model.safetensors` and `config.json`), or the folder of a run whose finetune stage is done. A run's own
                settings say how its logits become labels; a model folder holds them.
            device: "auto" (a GPU where there is one), "cpu", "cuda:1", ...
            names: Cluster id to name, over those that the model or the run has.

        Raises:
            LussError: No model there, a file of it is missing, damaged or exchanged; no such device; a name for an unknown cluster.
        """
        folder = find_model(Path(path))
        network, description = load_segmenter(folder)
        own = check_names(names or {}, int(description["num_clusters"]), source="names")
        known = {**_stored_names(description, folder), **own}
        settings, where = settings_of_model(folder, description), resolve_device(device)
        return cls(network, description, settings, folder=folder, names=known, device=where)

    def __call__(
        self, images: Picture | Iterable[Picture], *, batch_size: int | None = None, min_confidence: float = 0.0
    ) -> Segmentation:
        """Segments one image or several; the results are held in memory.

        Memory for one image is bounded: it is segmented at `settings.short_side`, and its logits are compared in strips, at most at
        `settings.max_pixels` pixels.

        Args:
            images: One or several of: a file, a PIL image (taken as it is, EXIF orientation is not applied), an array of uint8, (H, W, 3) or
                (H, W). Several may also be one array (N, H, W, 3).
            batch_size: Images of one shape that go through the network together.
            min_confidence: Pixels below it become background; from 0 (none) to 1.

        Raises:
            UnreadableImage: A file cannot be read.
            LussError: An image of another type; an argument out of range.
        """
        pictures = _as_list(images)
        if not 0 <= min_confidence <= 1:
            raise LussError(f"min_confidence is {min_confidence}: give a number from 0 to 1")
        settings = self.settings
        sizes = [_size_of(picture) for picture in pictures]
        targets = [whole_size(size, settings, self.network.backbone.multiple) for size in sizes]
        found: dict[int, tuple[Labels, Confidence | None]] = {}
        precision = Precision(settings.precision, self.device)
        segment = partial(segment_batch, self.network, settings=settings, precision=precision)
        for batch in shape_batches(targets, range(len(pictures)), max(1, batch_size or settings.batch_size)):
            pixels = np.stack([_resized(pictures[i], sizes[i], targets[i], settings.short_side) for i in batch])
            wanted = [sizes[i][::-1] for i in batch]
            outputs = segment(torch.from_numpy(pixels), wanted, with_confidence=True, min_confidence=min_confidence)
            found.update(zip(batch, outputs, strict=True))
        in_order = [found[i] for i in range(len(found))]
        confidence = [values for _, values in in_order if values is not None]
        return Segmentation([labels for labels, _ in in_order], confidence, self.names)


def find_model(path: Path) -> Path:
    """The model folder that a path names: itself, or the one in a run.

    Raises:
        LussError: There is none.
    """
    if (path / CONFIG_NAME).is_file() or (path / WEIGHTS_NAME).is_file():
        return path
    if not path.is_dir():
        raise LussError(f"{path} is not a folder: give the folder of a model, or of a run such as outputs/demo")
    for stage in _MODEL_STAGES:
        if (path / stage / CONFIG_NAME).is_file():
            return path / stage
    if any(path.glob("*/config.yaml")):
        raise LussError(f"the run {path} has no model yet: run its finetune stage first (luss status {path})")
    raise LussError(f"{path} holds no model: {CONFIG_NAME} and {WEIGHTS_NAME} are not there, and it is no run either")


def settings_of_model(folder: Path, description: Mapping[str, Any]) -> PredictSettings:
    """How a model's logits become labels: by its `config.json` (`description`), else by a run's settings, else by the defaults.

    Inside a run those that it was last started with count; a stage's folder that was copied and renamed has its own `config.yaml`.

    Raises:
        LussError: The settings cannot be.
    """
    own = folder / "config.yaml"
    if "decoding" not in description and own.is_file():
        # Beside a copy that has another name lie models of other runs.
        inside = folder.name in _MODEL_STAGES
        later = [folder.name, *(folder.name.replace("finetune", stage) for stage in ("predict", "evaluate"))]
        run = load_run_config(folder.parent, later) if inside else load_stored_config(own)
        settings: PredictSettings = run.semi_predict if folder.name == "semi_finetune" else run.predict
        return settings
    return decoding_settings(description, source=folder / CONFIG_NAME)


def decoding_identity(settings: PredictSettings) -> dict[str, Any]:
    """The settings that change labels, as plain values."""
    return {name: getattr(settings, name) for name in (*DECODING, "precision")}


def check_names(names: Mapping[int, str], num_clusters: int, *, source: str) -> dict[int, str]:
    """The names that are not empty.

    Raises:
        LussError: A name belongs to no cluster; all of them are listed.
    """
    if unknown := [cluster for cluster in names if not 1 <= cluster <= num_clusters]:
        listed = ", ".join(map(str, unknown[:10])) + (", ..." if len(unknown) > 10 else "")
        raise LussError(f"{source} names {listed}, but the clusters of this model have the ids 1 to {num_clusters}")
    return {cluster: name for cluster, name in names.items() if name}


def _stored_names(description: Mapping[str, Any], folder: Path) -> dict[int, str]:
    """The names in `config.json`, and those that `luss labels` gave where the model lies in its run."""
    stored, num_clusters = description.get("names", {}), int(description["num_clusters"])
    try:
        names = {int(cluster): str(name) for cluster, name in stored.items()}
    except (AttributeError, ValueError) as error:
        raise LussError(f"{folder / CONFIG_NAME} has wrong names ({error}): it was edited") from error
    if folder.name == "finetune":
        names |= cluster_names(current_layer(folder.parent / "pseudo_labels" / "labels"), range(1, num_clusters + 1))
    return check_names(names, num_clusters, source=str(folder / CONFIG_NAME))


def _as_list(images: Picture | Iterable[Picture]) -> Sequence[Picture]:
    if isinstance(images, (str, os.PathLike, Image.Image)):
        return [images]
    if isinstance(images, np.ndarray):
        return list(images) if images.ndim == 4 else [images]
    return list(images)


def _size_of(picture: Picture) -> tuple[int, int]:
    """(width, height) in pixels."""
    if isinstance(picture, (str, os.PathLike)):
        return read_size(Path(picture), MAX_PIXELS)
    if isinstance(picture, Image.Image):
        return picture.size
    kind = type(picture).__name__
    if isinstance(picture, np.ndarray):
        if picture.dtype == np.uint8 and picture.size and (picture.ndim == 2 or picture.shape[2:] == (3,)):
            return picture.shape[1], picture.shape[0]
        kind = f"an array of {picture.dtype} {picture.shape}"
    raise LussError(f"an image is a file, a PIL image or an array (H, W, 3) or (H, W) of uint8, not {kind}")


def _resized(picture: Picture, size: tuple[int, int], target: tuple[int, int], short_side: int) -> NDArray[np.uint8]:
    """(3, height, width) uint8 of the target's size."""
    if isinstance(picture, (str, os.PathLike)):
        image = read_image(Path(picture), min_side=short_side)
    else:
        image = to_rgb(picture if isinstance(picture, Image.Image) else Image.fromarray(picture))
    return cut(image, size, (0, 0, *size), size=target, flip=False)
