"""Optimisers and schedules."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

import luss.compat  # noqa: F401  (before timm)
from luss.errors import LussError
from luss.settings import TrainSettings

# isort: split
from timm.optim._optim_factory import create_optimizer_v2

OPTIMIZERS = ("lars", "larc", "sgd", "adamw")


def build_optimizer(parameters: Iterable[nn.Parameter], settings: TrainSettings, *, key: str) -> torch.optim.Optimizer:
    """An optimiser by name, from timm.

    `lars` is SGD with layer-wise trust ratios of 0.001, which is what PASS and SwAV run as "LARC without clipping"; weight decay applies
    to every tensor, biases and batch norms included, as there.

    Raises:
        LussError: Unknown name.
    """
    if settings.optimizer not in OPTIMIZERS:
        raise LussError(f"{key}.optimizer is {settings.optimizer!r}: choose one of {', '.join(OPTIMIZERS)}")
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    # timm's "sgd" is Nesterov's, which needs momentum. Its trust ratios otherwise end where weight decay is 0.
    name = "momentum" if settings.optimizer == "sgd" and not settings.momentum else settings.optimizer
    options: dict[str, Any] = {"always_adapt": True} if name in ("lars", "larc") else {}
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        trainable,
        opt=name,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        momentum=settings.momentum,
        filter_bias_and_bn=False,
        **options,
    )
    return optimizer


def scaled_lr(settings: TrainSettings) -> float:
    """The peak learning rate for the real global batch: linear scaling (Goyal et al. 2017)."""
    return settings.lr * settings.batch_size / settings.lr_batch_size


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
    progress = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return final + (peak - final) * (1 + math.cos(math.pi * progress)) / 2
