"""What the trained stages share."""

from collections.abc import Callable
from pathlib import Path

from luss.settings import TrainSettings
from luss.training.loop import AddressedDataset, Trainer, TrainJob
from luss.training.task import Task
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


def _note_unreadable(context: StageContext, num_images: int) -> Callable[[str, str], None]:
    """A function that lists an unreadable image in `skipped.csv` and fails the stage when there are too many."""

    def note(path: str, reason: str) -> None:
        before = context.skipped.count
        context.skipped.add(Path(path), reason)
        if context.skipped.count > before:
            context.reporter.warn(f"skipped {path}: {reason}")
            context.skipped.check(num_images, context.run.data.max_skipped_share)

    return note
