"""Colour augmentation of whole batches on the training device (SimCLR's and SwAV's recipe).

A row of numbers is drawn per view on the CPU (`draw_colours`), a pure function of the sample; `apply_colours` runs the rows as a few matrix
products over the batch. Two deviations from torchvision's ColorJitter, both without a measured effect: the four
operations have a fixed order (brightness, contrast, saturation, hue) and hue rotates chroma in YIQ, which makes saturation and hue one
3 x 3 matrix a view instead of a conversion to HSV and back.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from luss.settings import ColourSettings

# Columns of a row.
BRIGHTNESS, CONTRAST, SATURATION, HUE, GREY, BLUR, SOLARISE = range(7)
_HALF_BRIGHT = 128 / 255
_RGB_TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
_LUMA = _RGB_TO_YIQ[0]


def draw_colours(generator: np.random.Generator, settings: ColourSettings) -> NDArray[np.float32]:
    """Draws the row of one view.

    Returns:
        (7,): factors of brightness, contrast and saturation (1 = unchanged), hue rotation (turns, in [-hue, hue]), grey (0 or 1), blur sigma
        in pixels (0 = none), and solarise (0 or 1). The same number of draws is made whatever the probabilities, but for solarising, which
        is drawn only where it can happen.
    """
    draws = generator.random(8)

    def factor(strength: float, draw: float) -> float:
        return max(0.0, 1 - strength) + draw * (1 + strength - max(0.0, 1 - strength))

    row = np.array([1, 1, 1, 0, 0, 0, 0], dtype=np.float32)
    if draws[0] < settings.jitter_probability:
        row[BRIGHTNESS] = factor(settings.brightness, draws[1])
        row[CONTRAST] = factor(settings.contrast, draws[2])
        row[SATURATION] = factor(settings.saturation, draws[3])
        row[HUE] = settings.hue * (2 * draws[4] - 1)
    row[GREY] = draws[5] < settings.grey_probability
    if draws[6] < settings.blur_probability:
        low, high = settings.blur_sigma
        row[BLUR] = low + draws[7] * (high - low)
    if settings.solarise_probability:
        row[SOLARISE] = generator.random() < settings.solarise_probability
    return row


def _colour_matrix(rows: Tensor) -> Tensor:
    """Saturation, hue and grey as one (N, 3, 3) matrix a view."""
    yiq = torch.tensor(_RGB_TO_YIQ, device=rows.device)
    angle = rows[:, HUE] * (2 * math.pi)
    chroma = torch.where(rows[:, GREY] > 0, torch.zeros_like(angle), rows[:, SATURATION])
    rotation = torch.zeros(len(rows), 3, 3, device=rows.device)
    rotation[:, 0, 0] = 1
    rotation[:, 1, 1] = rotation[:, 2, 2] = chroma * angle.cos()
    rotation[:, 2, 1] = chroma * angle.sin()
    rotation[:, 1, 2] = -rotation[:, 2, 1]
    matrix: Tensor = torch.linalg.inv(yiq) @ rotation @ yiq
    return matrix


def _blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with a sigma for each image, as two products with (size, size) matrices; borders are renormalised."""
    size = images.shape[-1]
    position = torch.arange(size, device=images.device, dtype=images.dtype)
    distance = (position[:, None] - position[None, :]) ** 2
    kernel = torch.exp(-distance / (2 * sigma.clamp(min=1e-3)[:, None, None] ** 2))
    kernel = (kernel / kernel.sum(dim=2, keepdim=True))[:, None]
    return kernel @ images @ kernel.transpose(2, 3)


@torch.no_grad()
def apply_colours(images: Tensor, rows: Tensor) -> Tensor:
    """Augments a batch of square views.

    Args:
        images: (N, 3, S, S) uint8, on the device that works.
        rows: (N, 7) from `draw_colours`, on the CPU: what nobody asks for is left out without asking the device.

    Returns:
        (N, 3, S, S) float32 in [0, 1].
    """
    result = images.float() / 255
    recoloured = bool((rows[:, :HUE] != 1).any()) or bool((rows[:, HUE : GREY + 1] != 0).any())
    blurred, solarised = rows[:, BLUR] > 0, rows[:, SOLARISE] > 0
    placed = rows.to(result.device, non_blocking=True)
    if recoloured:
        result = (result * placed[:, BRIGHTNESS, None, None, None]).clamp_(0, 1)
        luma = torch.tensor(_LUMA, device=result.device)
        mean_grey = torch.einsum("nchw,c->n", result, luma) / result[0, 0].numel()
        contrast = placed[:, CONTRAST, None, None, None]
        result = result * contrast + (1 - contrast) * mean_grey[:, None, None, None]
        result = (_colour_matrix(placed) @ result.flatten(2)).reshape(result.shape).clamp_(0, 1)
    if bool(blurred.any()):
        chosen = blurred.nonzero()[:, 0].to(result.device)
        result[chosen] = _blur(result[chosen], placed[chosen, BLUR])
    if bool(solarised.any()):
        inverted = torch.where(result >= _HALF_BRIGHT, 1 - result, result)
        result = torch.where(placed[:, SOLARISE, None, None, None] > 0, inverted, result)
    return result
