"""What PASS adds to a learner: deep-to-shallow supervision (D2S) and pixel-to-pixel alignment (P2P); PASS section 5.3, as in the published code."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luss.errors import LussError
from luss.losses.pixel_alignment import overlap_grids, pixel_alignment, pixel_contrast, sample_points
from luss.losses.sinkhorn import sinkhorn
from luss.losses.swapped_prediction import own_prediction, swapped_prediction
from luss.methods.base import Given, Method
from luss.methods.clustering import OnlineClustering
from luss.models.heads import ShallowHead, pixel_predictor, pixel_projector, start_convolutions
from luss.settings import ClusteringSettings, ConvolutionStart, MethodSettings
from luss.settings.fields import at_least, setting, weights


@dataclass
class PassTermSettings(MethodSettings):
    """Settings of both terms, for learners that have a clustering head."""

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
    # How points of two views are compared: by the cosine of a prediction, by contrast with the points of other places, or by the codes of
    # each other's prototypes (table 5.6a: 24.8, 18.0 and 21.2 mIoU on ImageNet-S-300).
    alignment: Literal["regression", "contrast", "clustering"] = "regression"
    # Of the alignment, M_p (table 5.6b: 24.8 with, 24.6 without). Comparing by clusters needs it.
    alignment_projector: bool = True
    # Whose codes supervise a shallow stage: the deepest stage's, or its own (table 5.6c: 23.4 and 22.6).
    supervising_stage: Literal["deep", "same"] = "deep"
    # Of which view they are (table 5.6d: 23.4 and 23.1).
    supervising_view: Literal["other", "same"] = "other"
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
        if self.alignment == "clustering" and not self.alignment_projector:
            found.append(
                "alignment is clustering: points meet the prototypes through alignment_projector, set that to true"
            )
        return found


class PassTerms(Method):
    """The heads of both terms, beside those of the learner that they are added to, and what they make of two views."""

    settings: PassTermSettings
    clustering: OnlineClustering

    def __init__(self, settings: PassTermSettings, given: Given, head: ClusteringSettings) -> None:
        """Builds the learner that comes next in the order of classes, then the heads, of the sizes of its clustering head.

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
        hidden, dim = head.hidden_dim, head.embedding_dim
        # Parameters that no loss reaches would stop distributed training.
        aligned, width = bool(settings.pixel_alignment_weight), backbone.num_channels
        projects = aligned and settings.alignment_projector
        self.pixel_projector = pixel_projector(width, hidden, dim) if projects else nn.Identity()
        predicts = aligned and settings.alignment != "clustering"
        self.pixel_predictor = pixel_predictor(dim if projects else width) if predicts else nn.Identity()
        # Stage s (1 = the first that is returned) has index s - 1.
        self.shallow = nn.ModuleDict(
            {str(stage): ShallowHead(backbone.channels[stage - 1], hidden, dim) for stage in settings.shallow_stages}
        )
        for part in (self.pixel_projector, self.pixel_predictor, self.shallow):
            start_convolutions(part, settings.convolution_start)

    def supervised(
        self, deep: Tensor, codes: list[Tensor], maps: tuple[Tensor, ...], scalars: dict[str, Tensor]
    ) -> Tensor:
        """The weighted mean of the deep clustering loss and of what its codes cost each shallow stage.

        Args:
            deep: L_e, a scalar.
            codes: V tensors (B, K).
            maps: (V * B, L_s, H_s, W_s) of the V global views, one after another, shallow to deep.
            scalars: Gets `d2s_<stage>`.
        """
        own = self.settings
        total, weight_sum = own.deep_weight * deep, own.deep_weight
        for stage, weight in zip(own.shallow_stages, own.shallow_weights, strict=True):
            loss = self.deep_to_shallow(stage, maps[stage - 1], codes)
            scalars[f"d2s_{stage}"] = loss.detach()
            total, weight_sum = total + weight * loss, weight_sum + weight
        return total / weight_sum

    def deep_to_shallow(self, stage: int, features: Tensor, codes: list[Tensor]) -> Tensor:
        """L_s: the deep codes supervise what a shallow stage predicts of the other global view; prototypes get no gradient.

        Table 5.6's other forms: codes of the stage itself, or of the same view.

        Args:
            stage: Which stage, 1 = the shallowest returned one.
            features: (V * B, L_s, H, W) of the V global views, one after another.
            codes: V tensors (B, K).
        """
        scores: Sequence[Tensor] = torch.split(self._scores(self.shallow[str(stage)](features)), codes[0].shape[0])
        if self.settings.supervising_stage == "same":
            codes = [self._codes(score) for score in scores]
        predict = swapped_prediction if self.settings.supervising_view == "other" else own_prediction
        return predict(scores, codes, temperature=self.clustering.settings.temperature)

    def _scores(self, vectors: Tensor) -> Tensor:
        """(N, D) -> (N, K) cosines to the prototypes, which get no gradient."""
        embeddings = F.normalize(vectors.float(), dim=1)
        with torch.autocast(embeddings.device.type, enabled=False):
            return F.linear(embeddings, self.clustering.prototypes.weight.detach().float())

    def _codes(self, scores: Tensor) -> Tensor:
        own = self.clustering.settings
        return sinkhorn(scores, epsilon=own.epsilon, num_iterations=own.sinkhorn_iterations)

    def align(self, features: Tensor, rectangles: Tensor, flips: Tensor) -> Tensor:
        """L_P2P of two global views.

        Args:
            features: (2 * B, L, H, W) last feature maps, one view after the other.
            rectangles: (2, B, 4) left, top, width, height of the crops in pixels of the images.
            flips: (2, B) bool.

        Returns:
            Scalar in [-1, 1].
        """
        own, num_images = self.settings, rectangles.shape[1]
        # Pairs without common pixels are left out of the mean only: their features still are in the statistics of the batch norms.
        projected = self.pixel_projector(features).float()
        size = own.grid_size or features.shape[-1]
        grids = overlap_grids(*rectangles.float(), *flips, size=size, points=own.points)
        first, second = (
            sample_points(each, grid, padding=own.padding)
            for each, grid in zip(projected.split(num_images), grids[:2], strict=True)
        )
        valid = grids[2] if own.pairs == "overlapping" else None
        if own.alignment == "clustering":
            return self._clustered(first, second, valid)
        one, other = self.pixel_predictor(torch.cat([first, second])).float().split(num_images)
        compare = pixel_alignment if own.alignment == "regression" else pixel_contrast
        return compare(one, other, first, second, valid=valid)

    def _clustered(self, first: Tensor, second: Tensor, valid: Tensor | None) -> Tensor:
        """Swapped prediction of points: (B, D, S, S) of both views at the same places."""
        scores = [self._scores(maps.flatten(2).transpose(1, 2).flatten(0, 1)) for maps in (first, second)]
        # Codes are balanced over the same number of points on every process, whichever pairs count.
        codes = [self._codes(score) for score in scores]
        if valid is not None:
            counts = valid.repeat_interleave(first.shape[2] * first.shape[3])
            scores, codes = ([rows[counts] for rows in views] for views in (scores, codes))
        if not len(scores[0]):
            return first.sum() * 0
        return swapped_prediction(scores, codes, temperature=self.clustering.settings.temperature)
