"""PASS_s: SwAV with pixel-to-pixel alignment and deep-to-shallow supervision (PASS section 5.3; losses as in the published code)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luss.data.views import ViewGroup, Views
from luss.errors import LussError
from luss.losses.pixel_alignment import overlap_grids, pixel_alignment, sample_points
from luss.losses.swapped_prediction import swapped_prediction
from luss.methods.base import Given
from luss.methods.swav import SwAV, SwAVSettings
from luss.models.heads import ShallowHead, pixel_predictor, pixel_projector, start_convolutions
from luss.settings import ConvolutionStart, MethodSettings
from luss.settings.fields import at_least, setting, weights
from luss.training.task import Progress, StepOutput


@dataclass
class PassSSettings(SwAVSettings):
    """Method `pass_s`: SwAV + pixel-to-pixel alignment (P2P) + deep-to-shallow supervision (D2S)."""

    name: str = "pass_s"
    # Weights of the deep clustering loss and of each shallow stage; the sum is divided by the total weight.
    deep_weight: float = at_least(0, 1.0)
    shallow_stages: list[int] = setting([3])
    shallow_weights: list[float] = weights([1.0])
    pixel_alignment_weight: float = at_least(0, 1.0)
    # Points a side sampled in the common region of two global views; 0 = the side of the last feature map.
    grid_size: int = at_least(0, 7)
    # Where points lie in their cells, what is read outside of a map, and which pairs of views count. The published code: edges, zeros, all.
    points: Literal["centres", "edges"] = "centres"
    padding: Literal["border", "zeros"] = "border"
    pairs: Literal["overlapping", "all"] = "overlapping"
    # First weights of the heads' convolutions; kaiming: normal with variance 2 / fan-out (the published code).
    convolution_start: ConvolutionStart = "torch"

    def problems(self) -> list[str]:
        """A weight for every stage, and some weight for the clustering loss."""
        found = super().problems()
        if len(self.shallow_weights) != len(self.shallow_stages):
            found.append(
                f"shallow_weights has {len(self.shallow_weights)} entries for {len(self.shallow_stages)} stages in "
                "shallow_stages: give one weight a stage"
            )
        if not self.deep_weight + sum(self.shallow_weights):
            found.append("deep_weight and shallow_weights are all 0: the clustering loss needs one of them")
        return found


class PassS(SwAV):
    """(w_e L_e + sum of w_s L_s) / (w_e + sum of w_s) + w_p L_P2P.

    L_e is SwAV's loss; L_s the deep-to-shallow loss of shallow stage s; L_P2P aligns the pixels of the first two global views.
    """

    Settings: ClassVar[type[MethodSettings]] = PassSSettings
    settings: PassSSettings

    def __init__(self, settings: PassSSettings, given: Given) -> None:
        """Adds the heads of both losses.

        Raises:
            LussError: A shallow stage that the backbone does not have.
        """
        super().__init__(settings, given)
        backbone, last = self.backbone, len(self.backbone.channels)
        for stage in settings.shallow_stages:
            if not 1 <= stage < last:
                raise LussError(
                    f"pretrain.method.shallow_stages: {stage} is not one of 1 to {last - 1} of {backbone.name}"
                )
        hidden, dim = settings.clustering.hidden_dim, settings.clustering.embedding_dim
        if settings.pixel_alignment_weight:
            # Parameters that no loss reaches would stop distributed training.
            self.pixel_projector = pixel_projector(backbone.num_channels, hidden, dim)
            self.pixel_predictor = pixel_predictor(dim)
        # Stage s (1 = the first that is returned) has index s - 1.
        self.shallow = nn.ModuleDict(
            {str(stage): ShallowHead(backbone.channels[stage - 1], hidden, dim) for stage in settings.shallow_stages}
        )
        for name, head in self.named_children():
            if name != "backbone":
                start_convolutions(head, settings.convolution_start)

    def forward(self, inputs: Views, progress: Progress) -> StepOutput:
        """All three losses; scalars: `swav`, `d2s_<stage>`, `p2p` and SwAV's signs of collapse."""
        own, num_images = self.settings, len(inputs.indices)
        features = [self.backbone(group.flat()) for group in inputs.groups]
        batches = self.projector_batches([group.pooled() for group in features])
        deep, codes, scalars = self.clustering.loss(batches, progress, num_images=num_images)
        total, weight_sum = own.deep_weight * deep, own.deep_weight
        for stage, weight in zip(own.shallow_stages, own.shallow_weights, strict=True):
            loss = self.deep_to_shallow(stage, features[0].maps[stage - 1], codes)
            scalars[f"d2s_{stage}"] = loss.detach()
            total, weight_sum = total + weight * loss, weight_sum + weight
        total = total / weight_sum
        if own.pixel_alignment_weight:
            alignment = self.align(features[0].last, inputs.groups[0])
            scalars["p2p"] = alignment.detach()
            total = total + own.pixel_alignment_weight * alignment
        return StepOutput(total, scalars)

    def deep_to_shallow(self, stage: int, features: Tensor, codes: list[Tensor]) -> Tensor:
        """L_s: the deep codes supervise what a shallow stage predicts of the other global view; prototypes get no gradient.

        Args:
            stage: Which stage, 1 = the shallowest returned one.
            features: (V * B, L_s, H, W) of the V global views, one after another.
            codes: V tensors (B, K).
        """
        embeddings = F.normalize(self.shallow[str(stage)](features).float(), dim=1)
        prototypes = self.clustering.prototypes.weight.detach().float()
        with torch.autocast(embeddings.device.type, enabled=False):
            scores = torch.split(F.linear(embeddings, prototypes), codes[0].shape[0])
        return swapped_prediction(scores, codes, temperature=self.settings.clustering.temperature)

    def align(self, features: Tensor, group: ViewGroup) -> Tensor:
        """L_P2P of the two global views of `group`: (2 * B, L, H, W) last feature maps -> scalar in [-1, 1]."""
        own, num_images = self.settings, group.images.shape[1]
        # Pairs without common pixels are left out of the mean only: their features still are in the statistics of the batch norms.
        projected = self.pixel_projector(features).float()
        grids = overlap_grids(
            *group.rectangles.float(), *group.flips, size=own.grid_size or features.shape[-1], points=own.points
        )
        first, second = (
            sample_points(each, grid, padding=own.padding)
            for each, grid in zip(projected.split(num_images), grids[:2], strict=True)
        )
        predicted = self.pixel_predictor(torch.cat([first, second])).float()
        valid = grids[2] if own.pairs == "overlapping" else None
        one, other = predicted.split(num_images)
        return pixel_alignment(one, other, first, second, valid=valid)
