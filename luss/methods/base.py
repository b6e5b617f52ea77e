"""The contract of a representation learner.

A method owns its backbone, heads, losses and state (queue, momentum teacher: modules and buffers, so `state_dict` saves and
`load_state_dict` restores them). It does not know the loop, the scheduler, or files. To add one, see CONTRIBUTING.md.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from luss.models.backbone import Backbone
from luss.settings import ViewSettings


@dataclass(frozen=True)
class Progress:
    """Where training stands; `log` says whether this step's scalars will be read (signs of collapse cost a decomposition)."""

    step: int
    num_steps: int
    epoch: int
    log: bool = True


@dataclass(frozen=True)
class Views:
    """A batch of views of the same B images, ready for the network.

    Attributes:
        groups: One list a view group that the method asked for; each holds `count` tensors (B, 3, size, size), normalised.
        rectangles: The same structure: (B, 4) left, top, width, height of each crop, in pixels of the original images.
        flips: The same structure: (B,) bool, mirrored left to right.
        indices: (B,) manifest indices of the images.
    """

    groups: list[list[Tensor]]
    rectangles: list[list[Tensor]]
    flips: list[list[Tensor]]
    indices: Tensor


@dataclass(frozen=True)
class StepOutput:
    """What a training step gives: the loss to minimise and named scalars (detached) for the log."""

    loss: Tensor
    scalars: dict[str, Tensor] = field(default_factory=dict)


class Method(nn.Module, ABC):
    """A representation learner: views in, loss out, plain timm weights at the end."""

    backbone: Backbone

    @property
    @abstractmethod
    def view_groups(self) -> tuple[ViewSettings, ...]:
        """The groups of views that `forward` needs, in order."""

    @abstractmethod
    def forward(self, views: Views, progress: Progress) -> StepOutput:
        """One training step's loss."""

    def after_backward(self, progress: Progress) -> None:
        """Called between the backward pass and the optimiser's step, to drop or change gradients."""

    def after_step(self, progress: Progress) -> None:
        """Called after the optimiser's step, such as for a momentum teacher's update."""

    def export(self) -> dict[str, Tensor]:
        """The learned backbone as plain timm weights."""
        return self.backbone.export()


@torch.no_grad()
def effective_rank(embeddings: Tensor) -> Tensor:
    """Exponential of the entropy of the normalised singular values (Roy and Vetterli 2007): 1 = collapsed, at most min(B, D).

    NaN where an embedding is not finite.
    """
    if not bool(torch.isfinite(embeddings).all()):
        # The decomposition would raise before the loop can say what is wrong.
        return torch.full((), float("nan"), device=embeddings.device)
    values = torch.linalg.svdvals(embeddings.float())
    share = values / values.sum().clamp(min=1e-12)
    return torch.exp(-(share * (share + 1e-12).log()).sum())


@torch.no_grad()
def normalised_entropy(distribution: Tensor) -> Tensor:
    """Entropy of the mean of probability rows (B, K), divided by log K: 0 = one entry has all the mass, 1 = uniform."""
    mean = distribution.float().mean(dim=0)
    return -(mean * (mean + 1e-12).log()).sum() / torch.log(torch.tensor(float(distribution.shape[1])))
