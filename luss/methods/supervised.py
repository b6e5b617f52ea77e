"""Supervised learning of the images' categories: what representations without labels are compared with (PASS tables 5.7 and 5.11)."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from luss.data.views import Views
from luss.errors import LussError
from luss.methods.base import Given, Method
from luss.settings import MethodSettings, ViewSettings, no_colours
from luss.settings.fields import share
from luss.training.task import Progress, StepOutput


@dataclass
class SupervisedSettings(MethodSettings):
    """Method `supervised`: crops and a classifier. It reads the categories that folders name, and every result of such a run says so."""

    name: str = "supervised"
    global_views: ViewSettings = field(default_factory=lambda: ViewSettings(1, 224, (0.08, 1.0), colours=no_colours()))
    label_smoothing: float = share(0.0)

    USES_LABELS: ClassVar[bool] = True

    def problems(self) -> list[str]:
        """At least one view."""
        found = super().problems()
        return found if self.global_views.count else [*found, "global_views.count is 0: nothing would be seen"]


class Supervised(Method):
    """Backbone and a linear classifier; loss: cross-entropy. Images without a category (those of `data.extra`) teach nothing."""

    Settings: ClassVar[type[MethodSettings]] = SupervisedSettings
    settings: SupervisedSettings
    categories: Tensor

    def __init__(self, settings: SupervisedSettings, given: Given) -> None:
        """Builds backbone and classifier.

        Raises:
            LussError: The images have no categories.
        """
        super().__init__(settings, given)
        categories = given.categories() if given.categories else None
        if categories is None or int(categories.max()) < 1:
            raise LussError(
                "pretrain.method is supervised, but the images are not sorted into a folder a category: sort them, or choose another method"
            )
        self.classifier = nn.Linear(self.backbone.num_channels, int(categories.max()) + 1)
        # Known from the folders: no state of the training.
        self.register_buffer("categories", categories.long(), persistent=False)

    def forward(self, inputs: Views, progress: Progress) -> StepOutput:
        """Scalars: `cross_entropy` and `accuracy` of the batch, in [0, 1]."""
        group = inputs.groups[0]
        logits = self.classifier(self.backbone(group.flat()).pooled()).float()
        categories = self.categories[inputs.indices.to(self.categories.device)].repeat(group.count)
        known = categories >= 0
        loss = F.cross_entropy(
            logits, categories, ignore_index=-1, label_smoothing=self.settings.label_smoothing, reduction="sum"
        )
        loss = loss / known.sum().clamp(min=1)
        right = ((logits.argmax(dim=1) == categories) & known).sum() / known.sum().clamp(min=1)
        return StepOutput(loss, {"cross_entropy": loss.detach(), "accuracy": right.detach()})
