"""MoCo v2: learning by finding an image's other view among a queue of past images (He et al. 2020, Chen et al. 2020)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from luss.data.views import Views
from luss.losses.info_nce import info_nce
from luss.methods.base import Given, Method
from luss.methods.momentum import Teacher
from luss.methods.queue import pushed
from luss.methods.two_views import TwoViewSettings, embedding_health
from luss.models.heads import two_layers
from luss.settings import MethodSettings, TrainSettings
from luss.settings.fields import above, at_least, share
from luss.training.task import Progress, StepOutput


@dataclass
class MoCoV2Settings(TwoViewSettings):
    """Method `moco_v2`: a query and a key view, a momentum teacher for the keys, and a queue of keys."""

    name: str = "moco_v2"
    # Of the projector; 0 = as wide as the network's last map.
    hidden_dim: int = at_least(0, 0)
    embedding_dim: int = above(0, 128)
    temperature: float = above(0, 0.2)
    # Keys of past images. As many as there are images, and an image's own key of the last epoch is among its negatives.
    queue_length: int = above(0, 65536)
    # Share of its weights that the teacher keeps at a step.
    momentum: float = share(0.999)

    def fits(self, training: TrainSettings) -> list[str]:
        """The queue holds a batch."""
        length, images = self.queue_length, training.images_a_pass
        if length >= images:
            return []
        return [f"queue_length is {length}, less than the {images} images of a forward pass: set a multiple of them"]


class MoCoV2(Method):
    """Backbone, projector, their momentum teacher and a queue; loss: InfoNCE of the first view against the second.

    Batch norms are those of the whole batch (`sync_batch_norm`); the official code shuffles the images of each GPU instead, for the same end.
    """

    Settings: ClassVar[type[MethodSettings]] = MoCoV2Settings
    settings: MoCoV2Settings
    queue: Tensor

    def __init__(self, settings: MoCoV2Settings, given: Given) -> None:
        """Builds backbone, projector, teacher and a queue of random directions."""
        super().__init__(settings, given)
        width = self.backbone.num_channels
        self.projector = two_layers(width, settings.hidden_dim or width, settings.embedding_dim, norm=False)
        self.teacher_backbone, self.teacher_projector = Teacher(self.backbone), Teacher(self.projector)
        queue = F.normalize(torch.randn(settings.queue_length, settings.embedding_dim), dim=1)
        self.register_buffer("queue", queue)

    def forward(self, inputs: Views, progress: Progress) -> StepOutput:
        """Scalars: `info_nce` and signs of collapse."""
        seen, other = inputs.groups[0].images
        query = F.normalize(self.projector(self.backbone(seen).pooled()).float(), dim=1)
        with torch.no_grad():
            key = F.normalize(self.teacher_projector(self.teacher_backbone(other).pooled()).float(), dim=1)
        loss = info_nce(query, key, self.queue, temperature=self.settings.temperature)
        if self.training:
            self.queue = pushed(self.queue, key)
        return StepOutput(loss, {"info_nce": loss.detach(), **(embedding_health(query) if progress.log else {})})

    def after_step(self, progress: Progress) -> None:
        """The teacher follows; its first step stands between the first and the second batch, as in the official code."""
        self.teacher_backbone.follow(self.backbone, self.settings.momentum)
        self.teacher_projector.follow(self.projector, self.settings.momentum)
