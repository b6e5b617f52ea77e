"""PASS_s: SwAV with pixel-to-pixel alignment and deep-to-shallow supervision (PASS section 5.3; losses as in the published code)."""

from dataclasses import dataclass
from typing import ClassVar

from luss.data.views import Views
from luss.methods.base import Given
from luss.methods.pass_terms import PassTerms, PassTermSettings
from luss.methods.swav import SwAV, SwAVSettings
from luss.settings import MethodSettings
from luss.training.task import Progress, StepOutput


@dataclass
class PassSSettings(PassTermSettings, SwAVSettings):
    """Method `pass_s`: SwAV + pixel-to-pixel alignment (P2P) + deep-to-shallow supervision (D2S)."""

    name: str = "pass_s"


class PassS(PassTerms, SwAV):
    """(w_e L_e + sum of w_s L_s) / (w_e + sum of w_s) + w_p L_P2P.

    L_e is SwAV's loss; L_s the deep-to-shallow loss of shallow stage s; L_P2P aligns the pixels of the first two global views.
    """

    Settings: ClassVar[type[MethodSettings]] = PassSSettings
    settings: PassSSettings

    def __init__(self, settings: PassSSettings, given: Given) -> None:
        """Builds SwAV and the heads of both terms.

        Raises:
            LussError: A shallow stage that the backbone does not have.
        """
        super().__init__(settings, given, settings.clustering)

    def forward(self, inputs: Views, progress: Progress) -> StepOutput:
        """All three losses; scalars: `swav`, `d2s_<stage>`, `p2p` and SwAV's signs of collapse."""
        num_images, group = len(inputs.indices), inputs.groups[0]
        features = [self.backbone(group.flat()) for group in inputs.groups]
        batches = self.projector_batches([group.pooled() for group in features])
        deep, codes, scalars = self.clustering.loss(batches, progress, num_images=num_images)
        total = self.supervised(deep, codes, features[0].maps, scalars)
        if self.settings.pixel_alignment_weight:
            alignment = self.align(features[0].last, group.rectangles, group.flips)
            scalars["p2p"] = alignment.detach()
            total = total + self.settings.pixel_alignment_weight * alignment
        return StepOutput(total, scalars)
