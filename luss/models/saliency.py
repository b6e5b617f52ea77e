"""A label-free guess of where the object is: pixels that differ from the image's border.

The border of a photograph of an object mostly shows its surroundings (the "boundary prior" of unsupervised saliency: Wei et al. 2012; the
border statistics follow MB+, Zhang et al. 2015). It serves as a teacher for the pixel attention where training is too short for attention to find
objects by itself; averaged over many images by a network, its mistakes on single ones fade.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_RGB_TO_XYZ = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
_WHITE = (0.9505, 1.0, 1.089)
_REGULARISER = 0.01


def _lab(images: Tensor) -> Tensor:
    """sRGB (B, 3, H, W) in [0, 1] -> CIE L*a*b* divided by 100."""
    linear = torch.where(images > 0.04045, ((images.clamp(min=0) + 0.055) / 1.055) ** 2.4, images / 12.92)
    matrix = torch.tensor(_RGB_TO_XYZ, device=images.device) / torch.tensor(_WHITE, device=images.device)[:, None]
    xyz = torch.einsum("ij,bjhw->bihw", matrix, linear)
    cube = torch.where(xyz > 0.008856, xyz.clamp(min=1e-6) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = cube.unbind(dim=1)
    return torch.stack([1.16 * y - 0.16, 5 * (x - y), 2 * (y - z)], dim=1)


def _describe(images: Tensor) -> Tensor:
    """Smoothed colour and local texture: (B, 3, H, W) -> (B, 4, H, W)."""
    lab = _lab(images)
    light = lab[:, :1]
    gradient = F.pad((light[..., 1:] - light[..., :-1]).abs(), (0, 1, 0, 0))
    gradient = gradient + F.pad((light[..., 1:, :] - light[..., :-1, :]).abs(), (0, 0, 0, 1))
    return torch.cat([_box(lab, 1), 4 * _box(gradient, 3)], dim=1)


def _box(values: Tensor, radius: int) -> Tensor:
    return F.avg_pool2d(F.pad(values, (radius,) * 4, mode="reflect"), 2 * radius + 1, 1)


def _border_distance(values: Tensor, width: int) -> Tensor:
    """Mahalanobis distance of every pixel to each side's border strip, summed without the largest: (B, C, H, W) -> (B, H, W)."""
    sides = (values[..., :width, :], values[..., -width:, :], values[..., :width], values[..., -width:])
    total, largest = torch.zeros_like(values[:, 0]), torch.zeros_like(values[:, 0])
    unit = torch.eye(values.shape[1], device=values.device)
    for side in sides:
        strip = side.flatten(2)
        mean = strip.mean(dim=2, keepdim=True)
        covariance = (strip - mean) @ (strip - mean).transpose(1, 2) / strip.shape[2] + _REGULARISER * unit
        factor = torch.linalg.cholesky(covariance)
        whitened = torch.linalg.solve_triangular(factor, values.flatten(2) - mean, upper=False)
        distance = whitened.square().sum(dim=1).sqrt().view_as(total)
        distance = distance / distance.amax(dim=(1, 2), keepdim=True).clamp(min=1e-6)
        total, largest = total + distance, torch.maximum(largest, distance)
    # An object that touches one side would otherwise teach that side's colours as surroundings.
    return total - largest


def _stretch(values: Tensor) -> Tensor:
    """Maps each image's 2nd to 98th percentile to [0, 1]."""
    flat = values.flatten(1)
    low, high = flat.quantile(0.02, dim=1)[:, None, None], flat.quantile(0.98, dim=1)[:, None, None]
    return ((values - low) / (high - low + 1e-6)).clamp(0, 1)


@torch.no_grad()
def border_saliency(images: Tensor, *, size: tuple[int, int], centre: float = 0.5) -> Tensor:
    """How much every place differs from the image's border.

    Args:
        images: (B, 3, H, W) RGB in [0, 1], whole images rather than crops.
        size: Height and width of the result.
        centre: Standard deviation, in half image sides, of a Gaussian about the centre that multiplies the result; 0 = none.

    Returns:
        (B, *size) float32 in [0, 1].
    """
    least = (max(size[0], 16), max(size[1], 16))
    small = F.interpolate(images.float(), size=least, mode="bilinear", antialias=True, align_corners=False)
    result = _stretch(_border_distance(_describe(small), max(1, round(0.1 * min(small.shape[-2:])))))
    if centre:
        y = torch.linspace(-1, 1, result.shape[1], device=images.device)[:, None]
        x = torch.linspace(-1, 1, result.shape[2], device=images.device)[None, :]
        result = _stretch(result * torch.exp(-(x**2 + y**2) / (2 * centre**2)))
    return F.interpolate(result[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
