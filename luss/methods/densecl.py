"""DenseCL: MoCo v2 at every position of the last map (Wang et al. 2021)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luss.data.views import Views
from luss.losses.dense_contrast import dense_contrast, matching_positions
from luss.losses.info_nce import info_nce
from luss.methods.base import Given, Method
from luss.methods.moco_v2 import MoCoV2Settings
from luss.methods.momentum import Teacher
from luss.methods.queue import pushed
from luss.methods.two_views import embedding_health
from luss.models.heads import two_layers
from luss.settings import MethodSettings
from luss.settings.fields import above, at_least, share
from luss.training.task import Progress, StepOutput


@dataclass
class DenseCLSettings(MoCoV2Settings):
    """Method `densecl`: as `moco_v2`, with a second projector and a second queue of the same length for the positions of the map."""

    name: str = "densecl"
    # Of both projectors.
    hidden_dim: int = above(0, 2048)
    # Share of the loss that the positions have; the rest is the whole image's.
    dense_weight: float = share(0.5)
    # Steps at first without the loss of the positions; their matches say little before the network has learned something.
    dense_start_step: int = at_least(0, 0)


class DenseNeck(nn.Module):
    """Both projectors: of the pooled map and of its positions."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int) -> None:
        """Two layers each, without norms."""
        super().__init__()
        self.image = two_layers(in_dim, hidden_dim, out_dim, norm=False)
        self.pixels = two_layers(in_dim, hidden_dim, out_dim, norm=False, pixels=True)
        for layer in self.image:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
                nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L, H, W) -> the image's unit embedding (B, D), and (B, D, H, W), not normalised."""
        return F.normalize(self.image(features.mean(dim=(2, 3))).float(), dim=1), self.pixels(features).float()


class DenseCL(Method):
    """Backbone, neck, their momentum teacher and two queues; loss: InfoNCE of images and of positions."""

    Settings: ClassVar[type[MethodSettings]] = DenseCLSettings
    settings: DenseCLSettings
    queue: Tensor
    dense_queue: Tensor

    def __init__(self, settings: DenseCLSettings, given: Given) -> None:
        """Builds backbone, neck, teacher and queues of random directions."""
        super().__init__(settings, given)
        self.neck = DenseNeck(self.backbone.num_channels, settings.hidden_dim, settings.embedding_dim)
        self.teacher_backbone, self.teacher_neck = Teacher(self.backbone), Teacher(self.neck)
        for name in ("queue", "dense_queue"):
            self.register_buffer(name, F.normalize(torch.randn(settings.queue_length, settings.embedding_dim), dim=1))

    def forward(self, inputs: Views, progress: Progress) -> StepOutput:
        """Scalars: `info_nce` of the images, `dense` of the positions, and signs of collapse."""
        own = self.settings
        seen, other = inputs.groups[0].images
        features = self.backbone(seen).last
        query, query_map = self.neck(features)
        with torch.no_grad():
            key_features = self.teacher_backbone(other).last
            key, key_map = self.teacher_neck(key_features)
            match = matching_positions(features, key_features)
        image = info_nce(query, key, self.queue, temperature=own.temperature)
        dense = dense_contrast(query_map, key_map, match, self.dense_queue, temperature=own.temperature)
        weight = own.dense_weight if progress.step >= own.dense_start_step else 0.0
        if self.training:
            self.queue = pushed(self.queue, key)
            # An image enters as the mean of its positions, taken before they are normalised.
            self.dense_queue = pushed(self.dense_queue, F.normalize(key_map.mean(dim=(2, 3)), dim=1))
        scalars = {"info_nce": image.detach(), "dense": dense.detach()}
        if progress.log:
            scalars |= embedding_health(query)
        return StepOutput((1 - weight) * image + weight * dense, scalars)

    def after_step(self, progress: Progress) -> None:
        """The teacher follows."""
        self.teacher_backbone.follow(self.backbone, self.settings.momentum)
        self.teacher_neck.follow(self.neck, self.settings.momentum)
