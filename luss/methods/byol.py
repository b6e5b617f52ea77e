"""BYOL: learning by predicting what a momentum teacher makes of another view (Grill et al. 2020)."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from luss.data.views import Views
from luss.losses.negative_cosine import negative_cosine
from luss.methods.base import Given, Method
from luss.methods.momentum import Teacher
from luss.methods.two_views import UnlikeViewSettings, byol_view, embedding_health
from luss.models.heads import two_layers
from luss.settings import MethodSettings, ViewSettings
from luss.settings.fields import above, share
from luss.training.schedules import cosine
from luss.training.task import Progress, StepOutput


@dataclass
class BYOLSettings(UnlikeViewSettings):
    """Method `byol`: two views of unlike colours, projector, predictor, and a momentum teacher."""

    name: str = "byol"
    first_view: ViewSettings = field(default_factory=lambda: byol_view(blur=1.0, solarise=0.0, interpolation="bicubic"))
    second_view: ViewSettings = field(
        default_factory=lambda: byol_view(blur=0.1, solarise=0.2, interpolation="bicubic")
    )
    # Of projector and predictor.
    hidden_dim: int = above(0, 4096)
    embedding_dim: int = above(0, 256)
    # Share of its weights that the teacher keeps at the first step; a cosine takes it to 1.
    momentum: float = share(0.99)


class BYOL(Method):
    """Backbone, projector, predictor and a teacher of the first two; loss: each view predicts the teacher's projection of the other."""

    Settings: ClassVar[type[MethodSettings]] = BYOLSettings
    settings: BYOLSettings

    def __init__(self, settings: BYOLSettings, given: Given) -> None:
        """Builds the student and the teacher, which begins as its copy."""
        super().__init__(settings, given)
        hidden, dim = settings.hidden_dim, settings.embedding_dim
        self.projector = two_layers(self.backbone.num_channels, hidden, dim, biases=(True, False))
        self.predictor = two_layers(dim, hidden, dim, biases=(True, False))
        self.teacher_backbone, self.teacher_projector = Teacher(self.backbone), Teacher(self.projector)

    def target(self, images: Tensor) -> Tensor:
        """The teacher's projections (B, D), not normalised."""
        target: Tensor = self.teacher_projector(self.teacher_backbone(images).pooled())
        return target

    def forward(self, inputs: Views, progress: Progress) -> StepOutput:
        """Sum over both directions of the squared distance of unit vectors, 0 to 8; scalars: `byol` and signs of collapse."""
        # View by view: every view is a batch of its own for the batch norms.
        views = [group.images[0] for group in inputs.groups]
        projections = [self.projector(self.backbone(view).pooled()) for view in views]
        predictions = [self.predictor(projection) for projection in projections]
        with torch.no_grad():
            targets = [self.target(view) for view in views]
        away = negative_cosine(predictions[0], targets[1]) + negative_cosine(predictions[1], targets[0])
        loss = 4 + 2 * away
        scalars = {"byol": loss.detach(), **(embedding_health(projections[0]) if progress.log else {})}
        return StepOutput(loss, scalars)

    def after_step(self, progress: Progress) -> None:
        """The teacher follows, ever more slowly."""
        momentum = cosine(progress, self.settings.momentum, 1.0)
        self.teacher_backbone.follow(self.backbone, momentum)
        self.teacher_projector.follow(self.projector, momentum)
