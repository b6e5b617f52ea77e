"""Pixel attention: which places of an image say what it shows (PASS section 5.3.3)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PixelAttention(nn.Module):
    """c(z) = sigmoid(M_A(|z|) + theta), equation 5.6: one attention map a channel, from L2-normalised features.

    M_A is two 1x1 convolutions, each followed by a batch norm. With `shared` all channels share one map.
    """

    def __init__(self, channels: int, *, shared: bool = False) -> None:
        """`channels`: L, the channels of the backbone's last feature map."""
        super().__init__()
        out_channels = 1 if shared else channels
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, channels, 1),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, out_channels, 1),
            nn.BatchNorm2d(out_channels),
        )
        self.theta = nn.Parameter(torch.zeros(1, out_channels, 1, 1))

    def logits(self, normalised: Tensor) -> Tensor:
        """Attention before the sigmoid: (B, L, H, W) unit vectors -> (B, L or 1, H, W)."""
        result: Tensor = self.mlp(normalised) + self.theta
        return result

    def forward(self, normalised: Tensor) -> Tensor:
        """Attention in (0, 1): (B, L, H, W) unit vectors -> (B, L or 1, H, W)."""
        return torch.sigmoid(self.logits(normalised))


def upsample_to(features: Tensor, *, stride: float, target: float) -> Tensor:
    """Bilinear enlargement of a feature map (align_corners=False) to a finer stride.

    Args:
        features: (B, L, H, W).
        stride: Image pixels a position of it.
        target: Image pixels a position of the result; a map that is as fine already stays as it is.

    Returns:
        (B, L, about H stride / target, about W stride / target): exactly that for a whole ratio, else rounded.
    """
    factor = stride / target
    if factor <= 1:
        return features
    if abs(factor - round(factor)) < 1e-6:
        return F.interpolate(features, scale_factor=round(factor), mode="bilinear", align_corners=False)
    size = [round(side * factor) for side in features.shape[2:]]
    return F.interpolate(features, size=size, mode="bilinear", align_corners=False)


def attention_pool(features: Tensor, attention: Tensor) -> Tensor:
    """Mean over positions of features weighted by attention: (B, L, H, W), (B, L or 1, H, W) -> (B, L)."""
    return (features * attention).mean(dim=(2, 3))
