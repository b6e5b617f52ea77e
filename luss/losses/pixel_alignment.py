"""Pixel-to-pixel alignment (P2P): the same place of an image, seen in two views, should have the same embedding."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from luss import processes


def overlap_grids(
    first: Tensor,
    second: Tensor,
    first_flip: Tensor,
    second_flip: Tensor,
    *,
    size: int,
    points: Literal["centres", "edges"] = "centres",
) -> tuple[Tensor, Tensor, Tensor]:
    """Where to sample the two feature maps so that they show the same `size` x `size` places (PASS section 5.3.1).

    Places are spread evenly over the common rectangle: the centres of size x size equal cells, which never lie on a view's border, or, as the
    published code has them, from edge to edge, where half of the bilinear weight falls outside the map.

    Args:
        first: (B, 4) rectangles left, top, width, height of the first views, in pixels of the original images.
        second: (B, 4) the same of the second views.
        first_flip: (B,) bool, whether the first views were mirrored left to right.
        second_flip: (B,) bool.
        size: Points a side, >= 1.
        points: centres or edges.

    Returns:
        Two (B, size, size, 2) grids for `grid_sample(align_corners=False)`, last axis (x, y) in [-1, 1], and (B,) bool, whether the pair
        overlaps at all. Grids of pairs that do not must not be used; of `edges` they are -2 everywhere, far outside, as published.
    """
    low = torch.maximum(first[:, :2], second[:, :2])
    high = torch.minimum(first[:, :2] + first[:, 2:], second[:, :2] + second[:, 2:])
    overlaps = (high > low).all(dim=1)
    if points == "edges":
        steps = torch.linspace(0.0, 1.0, size, device=first.device, dtype=first.dtype)
    else:
        steps = (torch.arange(size, device=first.device, dtype=first.dtype) + 0.5) / size
    places = low[:, None, :] + (high - low)[:, None, :] * steps[None, :, None]  # (B, size, 2): x and y coordinates

    def grid(rectangle: Tensor, flip: Tensor) -> Tensor:
        unit = (places - rectangle[:, None, :2]) / rectangle[:, None, 2:]
        x = torch.where(flip[:, None], 1 - unit[..., 0], unit[..., 0]) * 2 - 1
        y = unit[..., 1] * 2 - 1
        stacked = torch.stack([x[:, None, :].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)], dim=-1)
        if points == "edges":
            return torch.where(overlaps[:, None, None, None], stacked, stacked.new_full((), -2.0))
        return stacked

    return grid(first, first_flip), grid(second, second_flip), overlaps


def sample_points(features: Tensor, grid: Tensor, *, padding: Literal["border", "zeros"] = "border") -> Tensor:
    """Features at the points of a grid, bilinear.

    Args:
        features: (B, D, H, W) map of a view.
        grid: (B, S, S, 2) from `overlap_grids`.
        padding: border: the map's border continues outside; zeros: as the published code has it, which halves vectors there.

    Returns:
        (B, D, S, S).
    """
    return F.grid_sample(features, grid.to(features.dtype), mode="bilinear", padding_mode=padding, align_corners=False)


def pixel_contrast(
    first_prediction: Tensor,
    second_prediction: Tensor,
    first: Tensor,
    second: Tensor,
    *,
    valid: Tensor | None = None,
    temperature: float = 0.2,
) -> Tensor:
    """InfoNCE in place of the cosine: a point finds itself in the other view among the points of all images (PASS table 5.6a).

    Its text does not say among which: here among those of this process's images.

    Args:
        first_prediction: (B, D, S, S) predictor's output at the first views' points.
        second_prediction: (B, D, S, S) the same of the second views.
        first: (B, D, S, S) embeddings at the first views' points; no gradient passes through them.
        second: (B, D, S, S).
        valid: (B,) bool, pairs that count, also as candidates; None = all.
        temperature: Divides the cosines, > 0.

    Returns:
        Scalar, the mean of both directions; 0 when no pair counts.
    """
    rows = [
        F.normalize((maps if valid is None else maps[valid]).float().flatten(2).transpose(1, 2).flatten(0, 1), dim=1)
        for maps in (first_prediction, second_prediction, first.detach(), second.detach())
    ]
    if not len(rows[0]):
        return first_prediction.sum() * 0
    right = torch.arange(len(rows[0]), device=rows[0].device)
    losses = [F.cross_entropy(rows[ours] @ rows[theirs].T / temperature, right) for ours, theirs in ((0, 3), (1, 2))]
    return (losses[0] + losses[1]) / 2


def pixel_alignment(
    first_prediction: Tensor, second_prediction: Tensor, first: Tensor, second: Tensor, *, valid: Tensor | None = None
) -> Tensor:
    """Negative mean cosine similarity between each view's prediction and the other view's embedding (PASS equation 5.3, as in code).

    Args:
        first_prediction: (B, D, S, S) predictor's output at the first views' points.
        second_prediction: (B, D, S, S) the same of the second views.
        first: (B, D, S, S) embeddings at the first views' points; no gradient passes through them.
        second: (B, D, S, S).
        valid: (B,) bool, pairs that count; None = all. With several processes the mean is over the valid pairs of all processes.

    Returns:
        Scalar in [-1, 1]; 0 when no pair counts.
    """
    similarity = F.cosine_similarity(first_prediction.float(), second.detach().float(), dim=1)
    similarity = similarity + F.cosine_similarity(second_prediction.float(), first.detach().float(), dim=1)
    per_pair = similarity.flatten(1).mean(dim=1) / 2
    if valid is None:
        return -per_pair.mean()
    weights = valid.to(per_pair.dtype)
    # Data-parallel training averages the processes' gradients: dividing by the mean count makes that the mean over all pairs.
    count = processes.mean(weights.sum())
    return -(per_pair * weights).sum() / count.clamp(min=1.0 / processes.world_size())
