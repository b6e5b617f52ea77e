"""PixPro: learning by agreement of near pixels of two views (Xie et al. 2021)."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from luss.data.views import Views
from luss.losses.negative_cosine import negative_cosine
from luss.losses.pixel_propagation import image_coordinates, near_agreement, near_positions, propagate
from luss.methods.base import Given, Method
from luss.methods.momentum import Teacher
from luss.methods.two_views import UnlikeViewSettings, embedding_health
from luss.models.backbone import Features
from luss.models.heads import two_layers
from luss.settings import MethodSettings
from luss.settings.fields import above, at_least, share
from luss.training.schedules import cosine
from luss.training.task import Progress, StepOutput


@dataclass
class PixProSettings(UnlikeViewSettings):
    """Method `pixpro`: two views of unlike colours, projector, pixel propagation, and a momentum teacher."""

    name: str = "pixpro"
    hidden_dim: int = above(0, 4096)
    embedding_dim: int = above(0, 256)
    # Layers of what is propagated: 0 the projections themselves, 1 a 1x1 convolution, 2 two with a batch norm between.
    value_layers: Literal[0, 1, 2] = 1
    # Exponent of the cosines that weigh the propagation.
    sharpness: float = above(0, 2.0)
    # Positions are near below this multiple of the longer of their diagonals.
    near: float = above(0, 0.7)
    # Share of its weights that the teacher keeps at the first step; a cosine takes it to 1.
    momentum: float = share(0.99)
    # Of the loss of whole images; 0 = none, as in both released recipes.
    image_weight: float = at_least(0, 0.0)


class PixelPropagation(nn.Module):
    """Online and teacher branch over a map: projector, propagation, and the teacher's projector. The network itself is the learner's.

    PASS_p shares it.
    """

    def __init__(self, in_dim: int, settings: PixProSettings) -> None:
        """Builds the heads; the teacher's begin as copies."""
        super().__init__()
        self.settings = settings
        hidden, dim = settings.hidden_dim, settings.embedding_dim
        self.projector = two_layers(in_dim, hidden, dim, pixels=True)
        self.values = _values(settings.value_layers, dim)
        self.teacher = Teacher(self.projector)

    def predict(self, features: Tensor) -> Tensor:
        """(B, L, H, W) online map -> (B, D, H, W) propagated."""
        projected = self.projector(features)
        return propagate(projected, self.values(projected), sharpness=self.settings.sharpness)

    def loss(self, inputs: Views, online: list[Tensor], taught: list[Tensor]) -> Tensor:
        """L_PixPro of the two views, -4 to 4.

        Args:
            inputs: Two groups of one view, which say where the crops lie.
            online: The student's last maps (B, L, H, W) of both views.
            taught: The teacher's.
        """
        ends = [image_coordinates(group.rectangles[0].float(), group.flips[0], inputs.sizes) for group in inputs.groups]
        size = (online[0].shape[2], online[0].shape[3])
        near = near_positions(ends[0], ends[1], size, threshold=self.settings.near)
        predictions = [self.predict(features) for features in online]
        targets = [self.teacher(features) for features in taught]
        forth = near_agreement(predictions[0], targets[1], near)
        return forth + near_agreement(predictions[1], targets[0], near.transpose(1, 2))

    def follow(self, momentum: float) -> None:
        """The teacher's projector follows; the propagation has no teacher."""
        self.teacher.follow(self.projector, momentum)


class PixPro(Method):
    """Backbone with pixel propagation and a teacher of backbone and projector; where asked for, a loss of whole images beside it."""

    Settings: ClassVar[type[MethodSettings]] = PixProSettings
    settings: PixProSettings

    def __init__(self, settings: PixProSettings, given: Given) -> None:
        """Builds the student and the teacher, which begins as its copy."""
        super().__init__(settings, given)
        width, hidden, dim = self.backbone.num_channels, settings.hidden_dim, settings.embedding_dim
        self.pixels = PixelPropagation(width, settings)
        self.teacher_backbone = Teacher(self.backbone)
        if settings.image_weight:
            self.image_projector = two_layers(width, hidden, dim, pixels=True)
            self.image_predictor = two_layers(dim, hidden, dim, pixels=True)
            self.image_teacher = Teacher(self.image_projector)

    def features(self, inputs: Views) -> tuple[list[Features], list[Features]]:
        """What student and teacher make of the two views: view by view, every one a batch of its own for the batch norms."""
        views = [group.images[0] for group in inputs.groups]
        with torch.no_grad():
            taught = [self.teacher_backbone(view) for view in views]
        return [self.backbone(view) for view in views], taught

    def forward(self, inputs: Views, progress: Progress) -> StepOutput:
        """Scalars: `pixpro`, `image` where that loss is on, and signs of collapse."""
        student, teacher = self.features(inputs)
        online, taught = [each.last for each in student], [each.last for each in teacher]
        loss = self.pixels.loss(inputs, online, taught)
        scalars = {"pixpro": loss.detach()}
        if self.settings.image_weight:
            image = self.image_loss(online, taught)
            scalars["image"] = image.detach()
            loss = loss + self.settings.image_weight * image
        if progress.log:
            scalars |= embedding_health(student[0].pooled())
        return StepOutput(loss, scalars)

    def image_loss(self, online: list[Tensor], taught: list[Tensor]) -> Tensor:
        """-2 cos of either view's prediction and the other's target, both averaged over the map behind their heads; -4 to 4."""
        predictions = [self.image_predictor(self.image_projector(features)).mean(dim=(2, 3)) for features in online]
        targets = [self.image_teacher(features).mean(dim=(2, 3)) for features in taught]
        return 2 * (negative_cosine(predictions[0], targets[1]) + negative_cosine(predictions[1], targets[0]))

    def after_step(self, progress: Progress) -> None:
        """The teacher follows, ever more slowly: before each forward pass but the first, with that pass's momentum, as published."""
        momentum = cosine(replace(progress, step=progress.step + 1), self.settings.momentum, 1.0)
        self.teacher_backbone.follow(self.backbone, momentum)
        self.pixels.follow(momentum)
        if self.settings.image_weight:
            self.image_teacher.follow(self.image_projector, momentum)


def _values(layers: int, dim: int) -> nn.Module:
    if layers == 0:
        return nn.Identity()
    return nn.Conv2d(dim, dim, 1) if layers == 1 else two_layers(dim, dim, dim, pixels=True)
