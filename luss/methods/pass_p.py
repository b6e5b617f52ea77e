"""PASS_p: PixPro with a clustering loss, pixel-to-pixel alignment and deep-to-shallow supervision (PASS section 5.3).

Its code was never published. This is the reading of equations 5.2 to 5.5 in which PASS_s, whose code is, is the same sum over another learner.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from luss.data.views import Views
from luss.methods.base import Given
from luss.methods.clustering import OnlineClustering
from luss.methods.pass_terms import PassTerms, PassTermSettings
from luss.methods.pixpro import PixPro, PixProSettings
from luss.settings import ClusteringSettings, MethodSettings, TrainSettings
from luss.settings.fields import at_least, setting, weights
from luss.training.task import Progress, StepOutput


@dataclass
class PassPSettings(PassTermSettings, PixProSettings):
    """Method `pass_p`: PixPro + clustering + pixel-to-pixel alignment (P2P) + deep-to-shallow supervision (D2S)."""

    name: str = "pass_p"
    # Both stages, as table 5.6c found best; PASS_s has the third alone.
    shallow_stages: list[int] = setting([3, 2])
    shallow_weights: list[float] = weights([1.0, 1.0])
    # Of PixPro's loss, whose range is -4 to 4.
    pixpro_weight: float = at_least(0, 1.0)
    clustering: ClusteringSettings = field(default_factory=ClusteringSettings)

    def fits(self, training: TrainSettings) -> list[str]:
        """The queue holds a batch."""
        return [f"clustering.{problem}" for problem in self.clustering.too_short(training.images_a_pass)]


class PassP(PassTerms, PixPro):
    """w_x L_PixPro + (w_e L_e + sum of w_s L_s) / (w_e + sum of w_s) + w_p L_P2P.

    L_e is SwAV's clustering loss of the two views; L_s and L_P2P as in `pass_s`. All but PixPro's targets come from the student.
    """

    Settings: ClassVar[type[MethodSettings]] = PassPSettings
    settings: PassPSettings

    def __init__(self, settings: PassPSettings, given: Given) -> None:
        """Builds PixPro, the heads of both terms and the clustering head.

        Raises:
            LussError: A shallow stage that the backbone does not have.
        """
        super().__init__(settings, given, settings.clustering)
        width = self.backbone.num_channels
        self.clustering = OnlineClustering(width, settings.clustering, batch_size=given.images_a_pass)

    def forward(self, inputs: Views, progress: Progress) -> StepOutput:
        """All four losses; scalars: `pixpro`, `swav`, `d2s_<stage>`, `p2p` and signs of collapse."""
        student, teacher = self.features(inputs)
        pixels = self.pixels.loss(inputs, [each.last for each in student], [each.last for each in teacher])
        vectors = torch.cat([each.pooled() for each in student])
        deep, codes, scalars = self.clustering.loss([vectors], progress, num_images=len(inputs.indices))
        maps = tuple(torch.cat(views) for views in zip(*(each.maps for each in student), strict=True))
        total = self.settings.pixpro_weight * pixels + self.supervised(deep, codes, maps, scalars)
        scalars["pixpro"] = pixels.detach()
        if self.settings.pixel_alignment_weight:
            rectangles = torch.cat([group.rectangles for group in inputs.groups])
            alignment = self.align(maps[-1], rectangles, torch.cat([group.flips for group in inputs.groups]))
            scalars["p2p"] = alignment.detach()
            total = total + self.settings.pixel_alignment_weight * alignment
        return StepOutput(total, scalars)

    def after_backward(self, progress: Progress) -> None:
        """Freezes the prototypes during the first steps."""
        self.clustering.drop_frozen_gradient(progress)

    def prototypes(self) -> OnlineClustering:
        """The clustering head."""
        return self.clustering
