"""What the loop trains: a representation learner, the pixel attention, a segmenter."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Progress:
    """Where training stands; schedules are functions of it (`luss.training.schedules`).

    Attributes:
        step: 0 to num_steps - 1.
        num_steps: Of the whole training.
        steps_per_epoch: 1 or more.
        log: Whether this step's scalars will be read (signs of collapse cost a decomposition).
    """

    step: int
    num_steps: int
    steps_per_epoch: int = 1
    log: bool = True

    @property
    def epoch(self) -> float:
        """Epochs done, with their fraction."""
        return self.step / self.steps_per_epoch

    @property
    def num_epochs(self) -> float:
        """Epochs of the whole training."""
        return self.num_steps / self.steps_per_epoch


@dataclass(frozen=True)
class StepOutput:
    """What a training step gives: the loss to minimise and named scalars (detached) for the log."""

    loss: Tensor
    scalars: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """Modules that the optimiser treats alike.

    Attributes:
        module: Whose weights.
        lr_scale: Their rate as a multiple of the training's.
        constant_lr: Their rate stays at its peak (SimSiam's predictor).
        decay: false: no weight decay for any of them.
    """

    module: nn.Module
    lr_scale: float = 1.0
    constant_lr: bool = False
    decay: bool = True


class Task(nn.Module, ABC):
    """A module with a loss. Its state that a resumed training needs is in modules and buffers: `state_dict` is the checkpoint."""

    @abstractmethod
    def prepare(self, batch: Any, device: torch.device) -> Any:
        """Turns a collated batch into the inputs of `forward`, on the device."""

    @abstractmethod
    def forward(self, inputs: Any, progress: Progress) -> StepOutput:
        """One training step's loss."""

    def parts(self) -> Sequence[Part]:
        """What trains how: weights of no part, or without gradient, do not train. A weight belongs to the first part that has it."""
        return [Part(self)]

    def after_backward(self, progress: Progress) -> None:
        """Called between the backward pass and the optimiser's step, to drop or change gradients."""

    def after_step(self, progress: Progress) -> None:
        """Called after the optimiser's step, such as for a momentum teacher's update."""

    def warning(self, lines: Sequence[Mapping[str, float]]) -> str:
        """What to say about the newest metric lines, oldest first; empty where nothing is wrong. Said once."""
        return ""
