"""A backbone with a 1x1 head over background and clusters, and label maps from its logits without holding full-size logits."""

from collections.abc import Iterator

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
        logits: Tensor = self.head(self.backbone(images).last)
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
        # Shares of the foreground, adding up to 1; by their logarithms, for far below 1 % each is still another.
        share = F.logsigmoid(total - background).flatten(2).softmax(dim=2).view_as(total)
        whole = (clusters * share).sum(dim=(2, 3), keepdim=True)
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
    result = torch.empty(size, dtype=torch.int64, device=logits.device)
    for start, wide in _strips(logits, size):
        result[start : start + wide.shape[1]] = wide.argmax(dim=0)
    return result


def label_map_with_confidence(logits: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """`label_map`, and how sure the network is of each pixel: the softmax probability of the class that was chosen.

    Args:
        logits: (C + 1, h, w) of one image.
        size: Height and width of the results.

    Returns:
        (*size) int64 ids in 0..C, and (*size) float32 probabilities in (0, 1], at least 1 / (C + 1).
    """
    labels = torch.empty(size, dtype=torch.int64, device=logits.device)
    confidence = torch.empty(size, dtype=torch.float32, device=logits.device)
    for start, wide in _strips(logits, size):
        rows = slice(start, start + wide.shape[1])
        best, labels[rows] = wide.max(dim=0)
        # The largest logit is 0 after the subtraction; in place, because a strip is the largest thing in memory.
        confidence[rows] = 1 / wide.sub_(best).exp_().sum(dim=0)
    return labels, confidence


def _strips(logits: Tensor, size: tuple[int, int]) -> Iterator[tuple[int, Tensor]]:
    """The resized logits of one image, a few rows at a time: first row, and (C + 1, rows, width) float32."""
    classes, rows, columns = logits.shape
    height, width = size
    logits = logits.float()
    source = ((torch.arange(height, device=logits.device) + 0.5) * (rows / height) - 0.5).clamp(min=0)
    low = source.floor().long().clamp(max=rows - 1)
    high, share = (low + 1).clamp(max=rows - 1), (source - low)[None, :, None]
    strip = max(1, _STRIP_ELEMENTS // (classes * max(width, columns)))
    for start in range(0, height, strip):
        stop = min(start + strip, height)
        mixed = torch.lerp(logits[:, low[start:stop]], logits[:, high[start:stop]], share[:, start:stop])
        yield start, F.interpolate(mixed[None], size=(stop - start, width), mode="bilinear", align_corners=False)[0]


def compared_size(size: tuple[int, int], max_pixels: int) -> tuple[int, int]:
    """The size at which logits are compared: `size` itself, or one of at most `max_pixels` pixels and about its aspect (0 = no limit)."""
    height, width = size
    if not max_pixels or height * width <= max_pixels:
        return size
    factor = (max_pixels / (height * width)) ** 0.5
    return max(1, int(height * factor)), max(1, int(width * factor))


def enlarged(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest neighbour, (h, w) -> `size` (H, W): pixel y of H takes row floor(y h / H). Any dtype, and no copy in another one."""
    if values.shape == size:
        return values
    rows, columns = (
        torch.arange(after, device=values.device) * before // after
        for before, after in zip(values.shape, size, strict=True)
    )
    return values[:, columns][rows]
