"""PixPro: pixels of two views that lie close to each other in the image agree, after each was smoothed by those that look like it."""

import torch
import torch.nn.functional as F
from torch import Tensor


def image_coordinates(rectangles: Tensor, flips: Tensor, sizes: Tensor) -> Tensor:
    """Where the first and the last pixel of a crop lie, as shares of its image's width and height.

    The last pixel counts as inside: the whole image is (0, 0, 1, 1). A mirrored crop begins on its right.

    Args:
        rectangles: (B, 4) left, top, width, height in pixels of the images.
        flips: (B,) bool.
        sizes: (B, 2) width and height of the images.

    Returns:
        (B, 4) x0, y0, x1, y1.
    """
    last = (sizes.to(rectangles) - 1).clamp(min=1)
    low = rectangles[:, :2] / last
    high = (rectangles[:, :2] + rectangles[:, 2:] - 1) / last
    first_x = torch.where(flips, high[:, 0], low[:, 0])
    last_x = torch.where(flips, low[:, 0], high[:, 0])
    return torch.stack([first_x, low[:, 1], last_x, high[:, 1]], dim=1)


@torch.no_grad()
def near_positions(first: Tensor, second: Tensor, size: tuple[int, int], *, threshold: float = 0.7) -> Tensor:
    """Which positions of two maps show nearly the same place (Xie et al. 2021, equation 1).

    Near: the distance of their centres is less than `threshold` times the longer of the two diagonals of a position.

    Args:
        first: (B, 4) `image_coordinates` of the first views.
        second: (B, 4) of the second views.
        size: Rows and columns of the maps.
        threshold: 0 or more.

    Returns:
        (B, H * W, H * W) bool, position of the first by position of the second, row by row.
    """
    rows, columns = size

    def centres(ends: Tensor) -> tuple[Tensor, Tensor]:
        # Negative widths are those of mirrored views.
        width, height = (ends[:, 2] - ends[:, 0]) / columns, (ends[:, 3] - ends[:, 1]) / rows
        x = (torch.arange(columns, device=ends.device) + 0.5) * width[:, None] + ends[:, :1]
        y = (torch.arange(rows, device=ends.device) + 0.5) * height[:, None] + ends[:, 1:2]
        grid = torch.stack([x[:, None, :].expand(-1, rows, -1), y[:, :, None].expand(-1, -1, columns)], dim=-1)
        return grid.flatten(1, 2), torch.sqrt(width.square() + height.square())

    (here, diagonal), (there, other) = centres(first), centres(second)
    distances = (here[:, :, None] - there[:, None]).norm(dim=-1)
    near: Tensor = distances / torch.maximum(diagonal, other)[:, None, None] < threshold
    return near


def propagate(features: Tensor, values: Tensor, *, sharpness: float = 2.0) -> Tensor:
    """The pixel propagation module (Xie et al. 2021, equations 4 and 5): every position becomes a sum over those that look like it.

    Args:
        features: (B, D, H, W) projections, not normalised; their cosines, cut off at 0 and raised to `sharpness`, are the weights.
        values: (B, D, H, W) what is summed, normalised here.
        sharpness: Exponent, > 0.

    Returns:
        (B, D, H, W), not normalised; gradients pass through weights and values.
    """
    with torch.autocast(features.device.type, enabled=False):
        unit, summed = (F.normalize(maps.float().flatten(2), dim=1) for maps in (features, values))
        weights = torch.einsum("bdi,bdj->bij", unit, unit).clamp(min=0)
        if sharpness < 1:
            # The slope of such a power is infinite at 0.
            weights = weights + 1e-6
        weights = weights**sharpness
        return torch.einsum("bij,bdj->bdi", weights, summed).view_as(features)


def near_agreement(prediction: Tensor, target: Tensor, near: Tensor) -> Tensor:
    """Minus twice the mean cosine of near positions, the mean within an image first (Xie et al. 2021, equation 6, as in the official code).

    Args:
        prediction: (B, D, H, W), not normalised.
        target: (B, D, H, W) of the other view, not normalised; no gradient passes through it.
        near: (B, H * W, H * W) bool from `near_positions`. Images without near positions count as 0.

    Returns:
        Scalar in [-2, 2].
    """
    with torch.autocast(prediction.device.type, enabled=False):
        ours, theirs = (F.normalize(maps.float().flatten(2), dim=1) for maps in (prediction, target.detach()))
        cosines = torch.einsum("bdi,bdj->bij", ours, theirs)
        counts = near.sum(dim=(1, 2))
        return -2 * ((cosines * near).sum(dim=(1, 2)) / (counts + 1e-6)).mean()
