"""A backbone with a 1x1 head over background and clusters, and label maps from its logits without holding full-size logits."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luss.models.backbone import Backbone

# Logits that are held at once while a label map is made, in numbers.
_STRIP_ELEMENTS = 8_000_000


class SegmentationNetwork(nn.Module):
    """Backbone and a linear classifier of every position over C + 1 classes, 0 = background (PASS section 5.3.4)."""

    def __init__(self, backbone: Backbone, num_clusters: int) -> None:
        """`num_clusters`: C."""
        super().__init__()
        self.backbone = backbone
        self.head = nn.Conv2d(backbone.num_channels, num_clusters + 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> logits (B, C + 1, H / stride, W / stride)."""
        logits: Tensor = self.head(self.backbone(images)[-1])
        return logits


def object_logits(logits: Tensor, *, total_foreground: bool, image_weight: float) -> Tensor:
    """Rewrites logits for pictures of one kind of object, so that their argmax decides as asked.

    A segmenter that is sure of an object but unsure of its cluster spreads the foreground's probability; no single cluster then beats the
    background. With `total_foreground` the clusters' probabilities are added up first. With `image_weight` the choice among clusters also
    hears the mean logit over the image's foreground.

    Args:
        logits: (B, C + 1, h, w).
        total_foreground: Whether all clusters together are compared with the background.
        image_weight: Share in [0, 1] of the whole image.

    Returns:
        The same shape.
    """
    if not total_foreground and not image_weight:
        return logits
    logits = logits.float()
    background, clusters = logits[:, :1], logits[:, 1:]
    total = torch.logsumexp(clusters, dim=1, keepdim=True)
    if image_weight:
        share = torch.sigmoid(total - background)
        whole = (clusters * share).sum(dim=(2, 3), keepdim=True) / share.sum(dim=(2, 3), keepdim=True)
        clusters = (1 - image_weight) * clusters + image_weight * whole
    best = total if total_foreground else logits[:, 1:].amax(dim=1, keepdim=True)
    return torch.cat([background, best - (clusters.amax(dim=1, keepdim=True) - clusters)], dim=1)


def label_map(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """The class with the largest bilinearly resized logit at every pixel.

    Works in strips of rows, so memory stays bounded for 920 classes on a 10-megapixel photograph. Rows are mixed first, then columns:
    exactly `F.interpolate(mode="bilinear", align_corners=False)`, strip by strip.

    Args:
        logits: (C + 1, h, w) of one image.
        size: Height and width of the result.

    Returns:
        (*size) int64 ids in 0..C.
    """
    classes, rows, columns = logits.shape
    height, width = size
    logits = logits.float()
    source = ((torch.arange(height, device=logits.device) + 0.5) * (rows / height) - 0.5).clamp(min=0)
    low = source.floor().long().clamp(max=rows - 1)
    high, share = (low + 1).clamp(max=rows - 1), (source - low)[None, :, None]
    result = torch.empty(size, dtype=torch.int64, device=logits.device)
    strip = max(1, _STRIP_ELEMENTS // (classes * max(width, columns)))
    for start in range(0, height, strip):
        stop = min(start + strip, height)
        mixed = torch.lerp(logits[:, low[start:stop]], logits[:, high[start:stop]], share[:, start:stop])
        wide = F.interpolate(mixed[None], size=(stop - start, width), mode="bilinear", align_corners=False)[0]
        result[start:stop] = wide.argmax(dim=0)
    return result


def bounded_label_map(logits: Tensor, size: tuple[int, int], *, max_pixels: int) -> Tensor:
    """`label_map`, made at a reduced size and enlarged by nearest neighbour where the image has more than `max_pixels` (0 = never).

    Args:
        logits: (C + 1, h, w).
        size: Height and width of the result.
        max_pixels: Compared pixels at the most.
    """
    height, width = size
    if not max_pixels or height * width <= max_pixels:
        return label_map(logits, size)
    factor = (max_pixels / (height * width)) ** 0.5
    small = label_map(logits, (max(1, int(height * factor)), max(1, int(width * factor))))
    return F.interpolate(small[None, None].float(), size=size, mode="nearest")[0, 0].long()
