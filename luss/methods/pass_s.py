"""PASS_s: SwAV with pixel-to-pixel alignment and deep-to-shallow supervision (PASS section 5.3; losses as in the published code)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luss.errors import LussError
from luss.losses.pixel_alignment import overlap_grids, pixel_alignment, sample_points
from luss.losses.swapped_prediction import swapped_prediction
from luss.methods.base import Method, Progress, StepOutput, Views
from luss.methods.forward import backbone_views, pool
from luss.methods.online_clustering import OnlineClustering
from luss.methods.swav import multi_crop_groups
from luss.models.backbone import Backbone
from luss.models.heads import ShallowHead, pixel_predictor, pixel_projector
from luss.settings import PretrainSettings, ViewSettings


class PassS(Method):
    """(w_e L_e + sum of w_s L_s) / (w_e + sum of w_s) + w_p L_P2P.

    L_e is SwAV's loss; L_s the deep-to-shallow loss of shallow stage s; L_P2P aligns the pixels of the first two global views.
    """

    def __init__(self, backbone: Backbone, settings: PretrainSettings) -> None:
        """Builds the heads for a backbone; `settings` is the pretrain block.

        Raises:
            LussError: A shallow stage that the backbone does not have, or weights of another number than stages.
        """
        super().__init__()
        own = settings.pass_s
        if len(own.shallow_weights) != len(own.shallow_stages):
            raise LussError(
                f"pretrain.pass_s.shallow_weights has {len(own.shallow_weights)} entries for {len(own.shallow_stages)} stages in "
                "pretrain.pass_s.shallow_stages: give one weight a stage"
            )
        last = len(backbone.channels)
        for stage in own.shallow_stages:
            if not 1 <= stage < last:
                raise LussError(
                    f"pretrain.pass_s.shallow_stages: {stage} is not one of 1 to {last - 1} of {backbone.name}"
                )
        if settings.global_views.count < 2:
            raise LussError(f"pretrain.global_views.count is {settings.global_views.count}: pixel alignment needs 2")
        self.backbone = backbone
        self.settings = settings
        self.clustering = OnlineClustering(
            backbone.num_channels, settings.clustering, batch_size=settings.batch_size // settings.accumulate
        )
        hidden, dim = settings.clustering.hidden_dim, settings.clustering.embedding_dim
        if own.pixel_alignment_weight:
            # Parameters that no loss reaches would stop distributed training.
            self.pixel_projector = pixel_projector(backbone.num_channels, hidden, dim)
            self.pixel_predictor = pixel_predictor(dim)
        # Stage s (1 = the first that is returned) has index s - 1.
        self.shallow = nn.ModuleDict(
            {str(stage): ShallowHead(backbone.channels[stage - 1], hidden, dim) for stage in own.shallow_stages}
        )

    @property
    def view_groups(self) -> tuple[ViewSettings, ...]:
        """Two global views and any number of local ones, as SwAV."""
        return multi_crop_groups(self.settings)

    def forward(self, views: Views, progress: Progress) -> StepOutput:
        """All three losses; scalars: `swav`, `d2s_<stage>`, `p2p` and SwAV's signs of collapse."""
        own = self.settings.pass_s
        maps = backbone_views(self.backbone, views)
        vectors = [pool(group[-1]) for group in maps]
        deep, codes, scalars = self.clustering.loss(vectors, progress, num_images=len(views.indices))
        total, weight_sum = own.deep_weight * deep, own.deep_weight
        for stage, weight in zip(own.shallow_stages, own.shallow_weights, strict=True):
            loss = self.deep_to_shallow(stage, maps[0][stage - 1], codes)
            scalars[f"d2s_{stage}"] = loss.detach()
            total, weight_sum = total + weight * loss, weight_sum + weight
        total = total / weight_sum
        if own.pixel_alignment_weight:
            alignment = self.align(maps[0][-1], views)
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

    def align(self, features: Tensor, views: Views) -> Tensor:
        """L_P2P of the first two global views: (V * B, L, H, W) last feature maps -> scalar in [-1, 1]."""
        own = self.settings.pass_s
        num_images = len(views.indices)
        # Pairs without common pixels are left out of the mean only: their features still are in the statistics of the batch norms.
        rectangles, flips = views.rectangles[0], views.flips[0]
        projected = self.pixel_projector(features[: 2 * num_images]).float()
        first_grid, second_grid, overlaps = overlap_grids(
            rectangles[0].float(),
            rectangles[1].float(),
            flips[0],
            flips[1],
            size=own.grid_size or features.shape[-1],
            published=own.published,
        )
        first = sample_points(projected[:num_images], first_grid, published=own.published)
        second = sample_points(projected[num_images:], second_grid, published=own.published)
        predicted = self.pixel_predictor(torch.cat([first, second])).float()
        return pixel_alignment(
            predicted[:num_images], predicted[num_images:], first, second, valid=None if own.published else overlaps
        )

    def after_backward(self, progress: Progress) -> None:
        """Freezes the prototypes during the first steps."""
        self.clustering.drop_frozen_gradient(progress)
