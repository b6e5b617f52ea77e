"""Every registered learner at a size for tests, trained on small pictures. Run as a script, it is one of two processes that train them all."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from toy_training import Recorder, toy_trainer
from two_at_once import as_process

from luss import processes
from luss.data.manifest import Manifest, build_manifest
from luss.data.skipped import SkippedFiles
from luss.data.views import ViewDataset
from luss.methods import METHODS, method_class
from luss.methods.base import Given, Method
from luss.models.build import build_backbone
from luss.progress import StopFlag
from luss.settings import ClusteringSettings, MethodSettings, OptimizerSettings, ViewSettings

BATCH, NUM_PICTURES = 8, 16
NUM_STEPS = 4
"""Two epochs of two steps."""
_CLUSTERING = ClusteringSettings(
    num_prototypes=8,
    embedding_dim=16,
    hidden_dim=12,
    queue_length=2 * BATCH,
    queue_start_epoch=0,
    freeze_prototypes_steps=1,
)
# Sides that are whole patches of a small vision transformer too.
_LARGE_VIEW, _SMALL_VIEW = 48, 32


def small(name: str) -> MethodSettings:
    """The learner's defaults, but views, heads, queues and everything else that is counted in hundreds are small."""
    settings = method_class(name).Settings()
    _shrink(settings)
    return settings


def _shrink(block: Any) -> None:
    for entry in dataclasses.fields(block):
        value = getattr(block, entry.name)
        if isinstance(value, ViewSettings):
            value.size = _LARGE_VIEW if value.size > 128 else _SMALL_VIEW
        elif isinstance(value, ClusteringSettings):
            setattr(block, entry.name, dataclasses.replace(_CLUSTERING))
        elif dataclasses.is_dataclass(value):
            _shrink(value)
        elif entry.name == "temperature":
            # A sharp one multiplies rounding errors of an untrained network from step to step.
            setattr(block, entry.name, 0.5)
        elif type(value) is int and value > 64:
            setattr(block, entry.name, 16)


def built(name: str, *, seed: int = 0) -> Method:
    """The small learner with random weights; one that hides patches has a network of patches."""
    settings = small(name)
    hides = any(getattr(getattr(settings, entry.name), "mask", None) for entry in dataclasses.fields(settings))
    network = "test_vit" if hides else "test_resnet"
    torch.manual_seed(seed)
    given = Given(
        lambda: build_backbone(network),
        images_a_pass=BATCH,
        base=lambda: build_backbone(network),
        categories=lambda: torch.arange(NUM_PICTURES) % 4,
    )
    return method_class(name)(settings, given)


def pictures(folder: Path) -> Manifest:
    """Sixteen pictures of smooth colours."""
    root = folder / "images"
    root.mkdir(parents=True)
    for index in range(NUM_PICTURES):
        pixels = np.random.default_rng(index).integers(0, 256, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((60, 50 + index), Image.Resampling.BICUBIC).save(root / f"{index:02}.png")
    build_manifest(root, folder / "manifest", "train", skipped=SkippedFiles(folder / "skipped.csv"))
    return Manifest.open(folder / "manifest", "train")


def views_for(method: Method, manifest: Manifest) -> ViewDataset:
    """The views that the learner asks for, as the stage makes them."""
    return ViewDataset([manifest], method.views, seed=3, max_pixels=10_000, patch=method.backbone.patch or 16)


def train(method: Method, manifest: Manifest, folder: Path, *, stop_after: int = 0) -> Recorder:
    """Trains to the end, or asks for a stop after a number of steps; returns what was said."""
    reporter, stop, own = Recorder(), StopFlag(), method.after_step

    def after_step(progress: Any) -> None:
        own(progress)
        if progress.step + 1 == stop_after:
            stop.set("asked")

    method.after_step = after_step  # type: ignore[method-assign]
    data = views_for(method, manifest)
    toy_trainer(
        folder,
        method,
        data=data,
        reporter=reporter,
        stop=stop,
        batch_size=BATCH,
        lr=0.003,
        optimizer=OptimizerSettings("sgd"),
    ).run()
    return reporter


def measure(folder: Path) -> dict[str, Any]:
    """Losses and weights of every learner, on as many processes as there are."""
    own = folder / f"process{processes.rank()}"
    manifest, found = pictures(own), {}
    for name in METHODS:
        method = built(name)
        reporter = train(method, manifest, own / name)
        found[name] = {"losses": [loss for _, loss in reporter.column("loss")], "weights": method.state_dict()}
    return found


if __name__ == "__main__":
    as_process(measure)
