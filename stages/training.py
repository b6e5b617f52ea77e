"""What the trained stages share."""

from collections.abc import Callable
from pathlib import Path

from stages.base import StageContext


def note_unreadable(context: StageContext, num_images: int) -> Callable[[str, str], None]:
    """A function that lists an unreadable image in `skipped.csv` and fails the stage when there are too many."""

    def note(path: str, reason: str) -> None:
        before = context.skipped.count
        context.skipped.add(Path(path), reason)
        if context.skipped.count > before:
            context.reporter.warn(f"skipped {path}: {reason}")
            context.skipped.check(num_images, context.run.data.max_skipped_share)

    return note
