"""What the trained stages share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from luss.progress import Reporter
from luss.settings import TrainSettings
from luss.training.loop import AddressedDataset, Trainer, TrainJob
from stages.base import CHECKPOINTS, StageContext


def train(
    context: StageContext,
    model: nn.Module,
    dataset: AddressedDataset,
    prepare: Callable[[Any, torch.device], Any],
    settings: TrainSettings,
    *,
    reporter: Reporter | None = None,
) -> int:
    """Trains a stage's model from its newest checkpoint to the end.

    Args:
        context: Of the stage.
        model: See `TrainJob`.
        dataset: See `TrainJob`.
        prepare: See `TrainJob`.
        settings: The stage's own.
        reporter: Where news go instead of the stage's reporter.

    Returns:
        Steps in all.

    Raises:
        Interrupted: A stop was asked for; the newest checkpoint is on disk.
        LussError: Too many images cannot be read.
    """
    job = TrainJob(
        key=context.folder.name,
        model=model,
        dataset=dataset,
        prepare=prepare,
        settings=settings,
        folder=context.folder / CHECKPOINTS,
        device=context.device,
        seed=context.run.seed,
        reporter=reporter or context.reporter,
        stop=context.stop,
        on_unreadable=_note_unreadable(context, len(dataset)),
    )
    return Trainer(job).run()


def _note_unreadable(context: StageContext, num_images: int) -> Callable[[str, str], None]:
    """A function that lists an unreadable image in `skipped.csv` and fails the stage when there are too many."""

    def note(path: str, reason: str) -> None:
        before = context.skipped.count
        context.skipped.add(Path(path), reason)
        if context.skipped.count > before:
            context.reporter.warn(f"skipped {path}: {reason}")
            context.skipped.check(num_images, context.run.data.max_skipped_share)

    return note
