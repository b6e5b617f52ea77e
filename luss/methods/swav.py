"""SwAV: learning by predicting one view's cluster from another view (Caron et al. 2020)."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from luss.data.views import Views
from luss.methods.base import Given, Method
from luss.methods.clustering import OnlineClustering
from luss.methods.two_views import TwoViewSettings
from luss.settings import ClusteringSettings, MethodSettings, TrainSettings, ViewSettings
from luss.training.task import Progress, StepOutput


@dataclass
class SwAVSettings(TwoViewSettings):
    """Method `swav`: two global views, any number of local ones, and a clustering head."""

    name: str = "swav"
    global_views: ViewSettings = field(default_factory=lambda: ViewSettings(2, 224, (0.14, 1.0)))
    local_views: ViewSettings = field(default_factory=lambda: ViewSettings(6, 96, (0.05, 0.14)))
    clustering: ClusteringSettings = field(default_factory=ClusteringSettings)
    # Which crops the projector's batch norms see together: those of all sizes (the published code), or those of each size by themselves.
    projector_batch: Literal["all_sizes", "each_size"] = "all_sizes"

    def fits(self, training: TrainSettings) -> list[str]:
        """The queue holds a batch."""
        return [f"clustering.{problem}" for problem in self.clustering.too_short(training.images_a_pass)]


class SwAV(Method):
    """Backbone, projector, prototypes; loss: swapped prediction over global and local views."""

    Settings: ClassVar[type[MethodSettings]] = SwAVSettings
    settings: SwAVSettings

    def __init__(self, settings: SwAVSettings, given: Given) -> None:
        """Builds backbone and clustering head."""
        super().__init__(settings, given)
        self.clustering = OnlineClustering(
            self.backbone.num_channels, settings.clustering, batch_size=given.images_a_pass
        )

    def forward(self, inputs: Views, progress: Progress) -> StepOutput:
        """Swapped prediction loss; scalars: loss parts and signs of collapse."""
        vectors = [self.backbone(group.flat()).pooled() for group in inputs.groups]
        batches = self.projector_batches(vectors)
        loss, _, scalars = self.clustering.loss(batches, progress, num_images=len(inputs.indices))
        return StepOutput(loss, scalars)

    def projector_batches(self, vectors: list[Tensor]) -> list[Tensor]:
        """The batches that pass the projector one after another: pooled vectors (count * B, L), one tensor a view group, or all in one."""
        return [torch.cat(vectors)] if self.settings.projector_batch == "all_sizes" else vectors

    def after_backward(self, progress: Progress) -> None:
        """Freezes the prototypes during the first steps."""
        self.clustering.drop_frozen_gradient(progress)

    def prototypes(self) -> OnlineClustering:
        """The clustering head."""
        return self.clustering
