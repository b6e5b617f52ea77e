"""Training of the pixel attention over a frozen network (PASS section 5.3.3)."""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luss.data.views import Views
from luss.methods.clustering import OnlineClustering
from luss.models.backbone import Backbone
from luss.models.heads import start_convolutions
from luss.models.pixel_attention import PixelAttention, attention_pool, upsample_to
from luss.models.saliency import border_saliency
from luss.settings import ClusteringSettings, PixelAttentionSettings
from luss.training.task import Progress, StepOutput, Task


class AttentionTask(Task):
    """Learns attention from the clustering loss over a frozen backbone.

    A pretrained clustering head stays as it is: its projector sees vectors of another scale than in pretraining (pooled from unit vectors),
    so its batch norms use the batch's statistics, but do not store them. Where there is none, a new head trains beside the attention. The
    published code lets statistics drift and trains pretrained prototypes: `settings.batch_norm` and `settings.train_prototypes`.
    """

    def __init__(
        self, backbone: Backbone, settings: PixelAttentionSettings, pretrained: OnlineClustering | None
    ) -> None:
        """Freezes what stays.

        `pretrained`: projector and prototypes, with this stage's queue (`attention_clustering`); None = train a new head.
        """
        super().__init__()
        self.backbone, self.settings, self.own_head = backbone, settings, pretrained is None
        self.clustering = pretrained or attention_clustering(settings.head, settings, backbone.num_channels)
        self.attention = PixelAttention(backbone.num_channels, shared=settings.shared)
        start_convolutions(self.attention, settings.convolution_start)
        backbone.requires_grad_(False)
        if not self.own_head:
            self.clustering.requires_grad_(False)
            self.clustering.prototypes.weight.requires_grad_(settings.train_prototypes)

    def train(self, mode: bool = True) -> "AttentionTask":
        """Keeps the frozen parts frozen."""
        super().train(mode)
        if mode and self.settings.batch_norm == "frozen":
            self.backbone.eval()
            for module in self.clustering.projector.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm) and not self.own_head:
                    # Batch statistics, and a running mean that keeps all of its old value.
                    module.momentum = 0.0
        return self

    def prepare(self, batch: Views, device: torch.device) -> Views:
        """The batch on the device, in its colours, normalised."""
        return batch.prepared(device, self.backbone.normalise)

    def features(self, images: Tensor) -> Tensor:
        """Last feature map at the target stride, unit vectors: (B, 3, H, W) -> (B, L, h, w) float32."""
        with torch.no_grad():
            last = self.backbone(images).last.float()
            finer = upsample_to(last, stride=self.backbone.stride, target=self.settings.target_stride)
            return F.normalize(finer, dim=1)

    def forward(self, inputs: Views, progress: Progress) -> StepOutput:
        """Clustering loss of attention-pooled views, plus the saliency teacher where it is on; scalars include `attention_spread`."""
        vectors, maps = [], []
        together = self.settings.attention_batch == "all_views"
        for images in [inputs.groups[0].flat()] if together else inputs.groups[0].images:
            normalised = self.features(images)
            attention = self.attention(normalised).float()
            vectors.append(attention_pool(normalised, attention))
            maps.append(attention.mean(dim=1))
        loss, _, scalars = self.clustering.loss([torch.cat(vectors)], progress, num_images=len(inputs.indices))
        if progress.log:
            scalars["attention_mean"] = maps[0].detach().mean()
            scalars["attention_spread"] = maps[0].detach().flatten(1).std(dim=1).mean()
        weight = self.settings.saliency.weight
        if weight and len(inputs.groups) > 1:
            teaching = self._saliency_loss(inputs.groups[1].flat())
            scalars["saliency"] = teaching.detach()
            loss = loss + weight * teaching
        return StepOutput(loss, scalars)

    def _saliency_loss(self, images: Tensor) -> Tensor:
        """Cross-entropy between the mean attention and the border saliency of whole images (B, 3, H, W)."""
        attention = self.attention(self.features(images)).float().mean(dim=1)
        size = (attention.shape[1], attention.shape[2])
        teacher = border_saliency(self.backbone.colours(images), size=size, centre=self.settings.saliency.centre)
        with torch.autocast(images.device.type, enabled=False):
            return F.binary_cross_entropy(attention.clamp(1e-4, 1 - 1e-4), teacher)

    def after_backward(self, progress: Progress) -> None:
        """Freezes the prototypes of a new head during its first steps."""
        if self.own_head:
            self.clustering.drop_frozen_gradient(progress)


def attention_clustering(
    clustering: ClusteringSettings,
    settings: PixelAttentionSettings,
    in_dim: int,
    state: dict[str, Tensor] | None = None,
) -> OnlineClustering:
    """A clustering head with an empty queue of this stage's length.

    Args:
        clustering: Sizes, temperature and Sinkhorn.
        settings: The pixel_attention block.
        in_dim: L.
        state: Pretrained projector and prototypes (made unit vectors), which stay as they are; None = a new head.
    """
    own = dataclasses.replace(
        clustering, queue_length=settings.queue_length, queue_start_epoch=settings.queue_start_epoch
    )
    if state is None:
        return OnlineClustering(in_dim, own, batch_size=settings.images_a_pass)
    own = dataclasses.replace(own, freeze_prototypes_steps=0, draw_prototypes_steps=0)
    module = OnlineClustering(in_dim, own, batch_size=settings.images_a_pass)
    weights = {name: tensor for name, tensor in state.items() if "queue" not in name}
    module.load_state_dict({**module.state_dict(), **weights})
    # Pretraining's last step left them off the unit sphere; from here on they can stay as they are to the bit.
    module.normalise_prototypes()
    return module
