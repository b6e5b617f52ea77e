"""Schedules: numbers that change during training, as pure functions of where it stands."""

import math

from luss.training.task import Progress


def cosine(
    progress: Progress, start: float, end: float, *, warmup_epochs: float = 0.0, warmup_from: float = 0.0
) -> float:
    """Half a cosine from `start` to `end` over the epochs behind the warm-up, which rises in a line from `warmup_from` to `start`.

    At the first step of the training it is `start` (or `warmup_from`), at its last one almost `end`.
    """
    if progress.epoch < warmup_epochs:
        return linear(progress, warmup_from, start, epochs=warmup_epochs)
    share = (progress.epoch - warmup_epochs) / max(progress.num_epochs - warmup_epochs, 1e-9)
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def linear(progress: Progress, start: float, end: float, *, epochs: float) -> float:
    """A line from `start` to `end` over the first `epochs`, then `end`."""
    return start + (end - start) * min(1.0, progress.epoch / epochs) if epochs else end


def lr_at(step: int, *, num_steps: int, warmup_steps: int, peak: float, final: float) -> float:
    """Learning rate of a step: linear warm-up (the first step has one part of it, not 0), then half a cosine from `peak` to `final`.

    Args:
        step: 0 to num_steps - 1.
        num_steps: Steps of the whole run.
        warmup_steps: Of which warm-up.
        peak: Reached at the end of the warm-up.
        final: Approached at the end.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    return cosine(Progress(step - warmup_steps, num_steps - warmup_steps), peak, final)
