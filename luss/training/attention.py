"""Training of the pixel attention over a frozen network (PASS section 5.3.3)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luss.methods.base import Progress, StepOutput, Views
from luss.methods.online_clustering import OnlineClustering
from luss.models.backbone import Backbone
from luss.models.pixel_attention import PixelAttention, attention_pool, upsample_to
from luss.models.saliency import border_saliency
from luss.settings import ClusteringSettings, PixelAttentionSettings


class AttentionTask(nn.Module):
    """Learns attention from the clustering loss; backbone, projector and (by default) prototypes stay as pretrained.

    The frozen backbone runs on its stored batch-norm statistics. The projector sees vectors of another scale than in pretraining (pooled
    from unit vectors), so its batch norms use the batch's statistics, but do not store them: nothing frozen changes. The published code
    lets the statistics of both drift and trains the prototypes; `settings.published` does the same.
    """

    def __init__(self, backbone: Backbone, clustering: OnlineClustering, settings: PixelAttentionSettings) -> None:
        """Args:
        backbone: Pretrained.
        clustering: Pretrained projector and prototypes, with this stage's queue.
        settings: The pixel_attention block.
        """
        super().__init__()
        self.backbone, self.clustering, self.settings = backbone, clustering, settings
        self.attention = PixelAttention(backbone.num_channels, shared=settings.shared)
        for parameter in [*backbone.parameters(), *clustering.parameters()]:
            parameter.requires_grad_(False)
        clustering.prototypes.weight.requires_grad_(settings.train_prototypes or settings.published)

    def train(self, mode: bool = True) -> "AttentionTask":
        """Keeps the frozen parts frozen."""
        super().train(mode)
        if mode and not self.settings.published:
            self.backbone.eval()
            for module in self.clustering.projector.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    # Batch statistics, and a running mean that keeps all of its old value.
                    module.momentum = 0.0
        return self

    def features(self, images: Tensor) -> Tensor:
        """Upsampled last feature map, not normalised: (B, 3, H, W) -> (B, L, h, w) float32."""
        with torch.no_grad():
            stride = self.backbone.stride
            return upsample_to(
                self.backbone(images).last.float(), stride=stride, target=stride / self.settings.upsample
            )

    def forward(self, views: Views, progress: Progress) -> StepOutput:
        """Clustering loss of attention-pooled views, plus the saliency teacher where it is on; scalars include `attention_spread`."""
        vectors, maps = [], []
        for view in views.groups[0]:
            normalised = F.normalize(self.features(view), dim=1)
            attention = self.attention(normalised).float()
            vectors.append(attention_pool(normalised, attention))
            maps.append(attention.mean(dim=1))
        loss, _, scalars = self.clustering.loss([torch.cat(vectors)], progress, num_images=len(views.indices))
        if progress.log:
            scalars["attention_mean"] = maps[0].detach().mean()
            scalars["attention_spread"] = maps[0].detach().flatten(1).std(dim=1).mean()
        weight = self.settings.saliency.weight
        if weight and len(views.groups) > 1:
            teaching = self._saliency_loss(views.groups[1][0])
            scalars["saliency"] = teaching.detach()
            loss = loss + weight * teaching
        return StepOutput(loss, scalars)

    def _saliency_loss(self, images: Tensor) -> Tensor:
        """Cross-entropy between the mean attention and the border saliency of whole images (B, 3, H, W)."""
        normalised = F.normalize(self.features(images), dim=1)
        attention = self.attention(normalised).float().mean(dim=1)
        teacher = border_saliency(
            self.backbone.colours(images),
            size=(attention.shape[1], attention.shape[2]),
            centre=self.settings.saliency.centre,
        )
        with torch.autocast(images.device.type, enabled=False):
            return F.binary_cross_entropy(attention.clamp(1e-4, 1 - 1e-4), teacher)

    def after_backward(self, progress: Progress) -> None:
        """Nothing: prototypes that train here train from the first step."""

    def after_step(self, progress: Progress) -> None:
        """Nothing."""


def attention_clustering(
    state: dict[str, Tensor], in_dim: int, clustering: ClusteringSettings, settings: PixelAttentionSettings
) -> OnlineClustering:
    """Pretrained projector and prototypes (made unit vectors) with an empty queue of this stage's length.

    Args:
        state: The pretrained method's weights.
        in_dim: L.
        clustering: The pretrain.clustering block.
        settings: The pixel_attention block.
    """
    import dataclasses

    own = dataclasses.replace(
        clustering,
        queue_length=settings.queue_length,
        queue_start_epoch=settings.queue_start_epoch,
        freeze_prototypes_steps=0,
        draw_prototypes_steps=0,
    )
    module = OnlineClustering(in_dim, own, batch_size=settings.batch_size // settings.accumulate)
    weights: dict[str, Any] = {
        name.removeprefix("clustering."): tensor
        for name, tensor in state.items()
        if name.startswith("clustering.") and "queue" not in name
    }
    module.load_state_dict({**module.state_dict(), **weights})
    # Pretraining's last step left them off the unit sphere; from here on they can stay as they are to the bit.
    module.normalise_prototypes()
    return module
