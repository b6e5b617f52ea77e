"""SimCLR: learning by finding an image's other view in the batch (Chen et al. 2020)."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from luss.data.views import Views
from luss.losses.nt_xent import nt_xent
from luss.methods.base import Given, Method
from luss.methods.two_views import TwoViewSettings, embedding_health
from luss.models.heads import two_layers
from luss.settings import MethodSettings, ViewSettings
from luss.settings.fields import above, at_least
from luss.training.task import Progress, StepOutput


@dataclass
class SimCLRSettings(TwoViewSettings):
    """Method `simclr`: two views and a projector."""

    name: str = "simclr"
    global_views: ViewSettings = field(
        default_factory=lambda: ViewSettings(2, 224, (0.08, 1.0), interpolation="bicubic")
    )
    # Of the projector; 0 = as wide as the network's last map.
    hidden_dim: int = at_least(0, 0)
    embedding_dim: int = above(0, 128)
    temperature: float = above(0, 0.1)


class SimCLR(Method):
    """Backbone and projector; loss: NT-Xent over the global batch."""

    Settings: ClassVar[type[MethodSettings]] = SimCLRSettings
    settings: SimCLRSettings

    def __init__(self, settings: SimCLRSettings, given: Given) -> None:
        """Builds backbone and projector."""
        super().__init__(settings, given)
        width, dim = self.backbone.num_channels, settings.embedding_dim
        last = nn.BatchNorm1d(dim)
        # Published without a shift.
        last.bias.requires_grad_(False)
        hidden = settings.hidden_dim or width
        # Published with smaller weights at first. Both layers stand before a norm, so under LARS, whose steps are shares of a weight, that
        # changes nothing; under other optimisers the first steps would be larger than the weights.
        self.projector = nn.Sequential(*two_layers(width, hidden, dim, biases=(False, False)), last)

    def embed(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) -> (N, D) unit embeddings."""
        return F.normalize(self.projector(self.backbone(images).pooled()).float(), dim=1)

    def forward(self, inputs: Views, progress: Progress) -> StepOutput:
        """Scalars: `nt_xent` and signs of collapse."""
        # Both views together, as published: the batch norms see them as one batch.
        first, second = self.embed(inputs.groups[0].flat()).chunk(2)
        loss = nt_xent(first, second, temperature=self.settings.temperature)
        return StepOutput(loss, {"nt_xent": loss.detach(), **(embedding_health(first) if progress.log else {})})
