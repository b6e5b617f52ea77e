"""A frozen backbone with its pixel attention: pooled vectors for clustering, and label maps from centroids."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luss.errors import LussError
from luss.features.layout import layout_descriptor, oriented_gradients
from luss.models.backbone import Backbone
from luss.models.io import load_backbone, load_tensors
from luss.models.pixel_attention import PixelAttention, attention_pool, upsample_to
from luss.models.saliency import border_saliency


class AttendedBackbone(nn.Module):
    """What stages 3 and 5 run on images."""

    def __init__(self, backbone: Backbone, attention: PixelAttention, *, target_stride: float) -> None:
        """`target_stride`: image pixels a position of the enlarged map that attention works on."""
        super().__init__()
        self.backbone, self.attention, self.target_stride = backbone, attention, target_stride

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Upsampled features z (B, L, h, w), not normalised, and attention c(z) (B, L or 1, h, w) in (0, 1), both float32."""
        deepest = self.backbone(images).last.float()
        features = upsample_to(deepest, stride=self.backbone.stride, target=self.target_stride)
        return features, self.attention(F.normalize(features, dim=1)).float()

    @torch.no_grad()
    def layout(self, images: Tensor, stages: Sequence[int], grid: int, *, mirror: bool = False) -> Tensor:
        """Raw layout descriptors of images (B, 3, H, W), see `luss.features.layout`.

        With `mirror` the mean over each image and its mirror image, so that an object's descriptor does not say which way it faces.
        """
        if mirror:
            return (self.layout(images, stages, grid) + self.layout(images.flip(-1), stages, grid)) / 2
        return layout_descriptor([oriented_gradients(images), *self.backbone(images).maps], stages, grid)

    @torch.no_grad()
    def vectors(self, images: Tensor, *, pool: Literal["unit", "raw"] = "unit") -> Tensor:
        """Attention-pooled unit vectors: (B, 3, H, W) normalised images -> (B, L).

        unit pools c(z) |z| as the paper (section 5.3.3), as attention was trained; raw pools c(z) z as the published code does.
        """
        features, attention = self.maps(images)
        pooled = attention_pool(features if pool == "raw" else F.normalize(features, dim=1), attention)
        return F.normalize(pooled, dim=1)

    @torch.no_grad()
    def label(
        self, images: Tensor, centroids: Tensor, *, image_clusters: Tensor | None = None, image_weight: float = 0.0,
        saliency: float = 0.0, centre: float = 0.5,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """The nearest centroid by cosine at every position, and the mean attention.

        Args:
            images: (B, 3, H, W) normalised.
            centroids: (C, L) unit vectors.
            image_clusters: (B,) int64 cluster of each whole image, 0..C-1; None = the one nearest to its pooled vector.
            image_weight: Share in [0, 1] of that cluster in each position's score: 1 gives the whole image its cluster.
            saliency: Share in [0, 1] of the images' border saliency in the returned attention.
            centre: Of that saliency, see `border_saliency`.

        Returns:
            (B, h, w) int64 cluster ids 1..C, and (B, h, w) attention in (0, 1).
        """
        features, attention = self.maps(images)
        normalised = F.normalize(features, dim=1)
        scores = torch.einsum("blhw,cl->bchw", normalised, centroids)
        if image_weight:
            if image_clusters is None:
                image_clusters = (attention_pool(normalised, attention) @ centroids.T).argmax(dim=1)
            own = F.one_hot(image_clusters, len(centroids)).to(scores.dtype)
            scores = (1 - image_weight) * scores + image_weight * own[:, :, None, None]
        strength = attention.mean(dim=1)
        if saliency:
            size = (strength.shape[1], strength.shape[2])
            salient = border_saliency(self.backbone.colours(images), size=size, centre=centre)
            strength = (1 - saliency) * strength + saliency * salient
        return scores.argmax(dim=1) + 1, strength


def load_attended(pretrain: Path, attention: Path, *, shared: bool, target_stride: float) -> AttendedBackbone:
    """Reads the network from the products of stages 1 and 2, in eval mode on the CPU.

    Args:
        pretrain: Folder of stage 1.
        attention: Folder of stage 2; its own backbone, which only drifting batch norms leave, wins.
        shared: Whether all channels share one map.
        target_stride: As in training.

    Raises:
        LussError: A file is missing, damaged, or does not fit the others.
    """
    backbone = load_backbone(attention if (attention / "backbone.json").is_file() else pretrain)
    module, path = PixelAttention(backbone.num_channels, shared=shared), attention / "attention.safetensors"
    try:
        module.load_state_dict(load_tensors(path))
    except RuntimeError as error:
        raise LussError(
            f"{path} does not fit the backbone {backbone.name!r} and pixel_attention.shared={shared}: {error}"
        ) from error
    return AttendedBackbone(backbone, module, target_stride=target_stride).eval()
