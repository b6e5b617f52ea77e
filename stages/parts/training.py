"""What the trained stages share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from luss.errors import LussError
from luss.files import read_json_lines
from luss.methods.health import plateau_epochs
from luss.models.backbone import Backbone
from luss.models.build import build_backbone
from luss.settings import RunSettings, TrainSettings
from luss.training.loop import AddressedDataset, Trainer, TrainJob
from luss.training.task import Progress, Task
from stages.base import CHECKPOINTS, StageContext


def train(context: StageContext, model: Task, dataset: AddressedDataset, settings: TrainSettings) -> int:
    """Trains a stage's model from its newest checkpoint to the end; returns the steps in all. For the arguments see `TrainJob`.

    Raises:
        Interrupted: A stop was asked for; the newest checkpoint is on disk.
        LussError: Too many images cannot be read.
    """
    job = TrainJob(
        key=context.folder.name,
        model=model,
        dataset=dataset,
        settings=settings,
        folder=context.folder / CHECKPOINTS,
        device=context.device,
        seed=context.run.seed,
        reporter=context.reporter,
        stop=context.stop,
        on_unreadable=_note_unreadable(context, len(dataset)),
    )
    return Trainer(job).run()


def first_backbone(run: RunSettings, output_stride: int = 0) -> Backbone:
    """The network that pretraining begins with, random; at the stride of the pretraining, unless one is given."""
    own = run.pretrain.backbone
    return build_backbone(own.name, output_stride=output_stride or own.output_stride)


def try_forward(name: str, task: Task, batch: Any, num_images: int) -> None:
    """Passes a batch of noise forward as in training, on the CPU: a second at most shows what would fail after hours.

    Args:
        name: The stage's.
        task: With random weights; not to be used afterwards.
        batch: As the loader gives it.
        num_images: How many images it has.

    Raises:
        LussError: The network, a norm or a loss refuses.
    """
    try:
        with torch.no_grad():
            task.train()(task.prepare(batch, torch.device("cpu")), Progress(0, 1))
    except LussError:
        raise
    except (ValueError, RuntimeError) as error:
        few = (
            f" with one image a process: raise {name}.batch_size, or the size of its images" if num_images == 1 else ""
        )
        raise LussError(f"{name} cannot take a step at the sizes that are set{few} ({error})") from error


def plateau(context: StageContext, num_prototypes: int) -> dict[str, int]:
    """The figure of a stage whose clustering loss ended where it began; see `luss.methods.health.plateau_epochs`. Streams the log."""
    epochs = plateau_epochs(read_json_lines(context.folder / "metrics.jsonl"), num_prototypes)
    return {"epochs_on_plateau": epochs} if epochs else {}


def _note_unreadable(context: StageContext, num_images: int) -> Callable[[str, str], None]:
    """A function that lists an unreadable image in `skipped.csv` and fails the stage when there are too many."""

    def note(path: str, reason: str) -> None:
        before = context.skipped.count
        context.skipped.add(Path(path), reason)
        if context.skipped.count > before:
            context.reporter.warn(f"skipped {path}: {reason}")
            context.skipped.check(num_images, context.run.data.max_skipped_share)

    return note
