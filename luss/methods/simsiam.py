"""SimSiam: learning by predicting one view's embedding from another, without negatives and without a teacher (Chen and He 2021)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from luss.data.views import Views
from luss.losses.negative_cosine import negative_cosine
from luss.methods.base import Given, Method
from luss.methods.two_views import TwoViewSettings, embedding_health
from luss.models.heads import two_layers
from luss.settings import MethodSettings
from luss.settings.fields import above
from luss.training.task import Part, Progress, StepOutput


@dataclass
class SimSiamSettings(TwoViewSettings):
    """Method `simsiam`: two views, projector and predictor. It collapses under Adam, and without batch norms over the whole batch."""

    name: str = "simsiam"
    embedding_dim: int = above(0, 2048)
    # The predictor's bottleneck: a quarter of the embedding.
    predictor_dim: int = above(0, 512)
    # Whether the predictor's rate stays at its peak, as in the official recipe.
    constant_predictor_lr: bool = True


class SimSiam(Method):
    """Backbone, projector and predictor; loss: each view's prediction of the other's embedding, whose gradient is stopped."""

    Settings: ClassVar[type[MethodSettings]] = SimSiamSettings
    settings: SimSiamSettings

    def __init__(self, settings: SimSiamSettings, given: Given) -> None:
        """Builds backbone, projector and predictor."""
        super().__init__(settings, given)
        width, dim = self.backbone.num_channels, settings.embedding_dim
        self.projector = nn.Sequential(
            *two_layers(width, width, width, biases=(False, False)),
            nn.BatchNorm1d(width),
            nn.ReLU(inplace=True),
            # The official layer has a bias that is frozen, and that the norm behind it takes away.
            nn.Linear(width, dim, bias=False),
            nn.BatchNorm1d(dim, affine=False),
        )
        self.predictor = two_layers(dim, settings.predictor_dim, dim, biases=(False, True))

    def forward(self, inputs: Views, progress: Progress) -> StepOutput:
        """Mean negative cosine of both directions, -1 to 1; scalars: `simsiam` and signs of collapse."""
        # View by view: every view is a batch of its own for the batch norms.
        embeddings = [self.projector(self.backbone(view).pooled()) for view in inputs.groups[0].images]
        first, second = (self.predictor(embedding) for embedding in embeddings)
        loss = (negative_cosine(first, embeddings[1]) + negative_cosine(second, embeddings[0])) / 2
        scalars = {"simsiam": loss.detach(), **(embedding_health(embeddings[0]) if progress.log else {})}
        return StepOutput(loss, scalars)

    def parts(self) -> Sequence[Part]:
        """The predictor's rate may stay constant."""
        return [Part(self.predictor, constant_lr=self.settings.constant_predictor_lr), Part(self)]
