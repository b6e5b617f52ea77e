"""Colour augmentation of whole batches on the training device (SimCLR's and SwAV's recipe).

Parameters are drawn per view on the CPU (`draw_photometric`) so that they are a pure function of the sample; `apply_photometric` runs
them as a few matrix products over the batch. Two deviations from torchvision's ColorJitter, both without a measured effect: the four
operations have a fixed order (brightness, contrast, saturation, hue) and hue rotates chroma in YIQ, which makes saturation and hue one
3 x 3 matrix a view instead of a conversion to HSV and back.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from luss.settings import PhotometricSettings

# Columns of a parameter row.
BRIGHTNESS, CONTRAST, SATURATION, HUE, GREY, BLUR = range(6)
NUM_PARAMETERS = 6
_LUMA = (0.299, 0.587, 0.114)
_RGB_TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))

NO_CHANGE = PhotometricSettings(jitter_probability=0.0, grey_probability=0.0, blur_probability=0.0)


def draw_photometric(generator: np.random.Generator, settings: PhotometricSettings) -> NDArray[np.float32]:
    """Draws the parameters of one view.

    Returns:
        (6,): factors of brightness, contrast and saturation (1 = unchanged), hue rotation (turns, in [-hue, hue]), grey (0 or 1), and
        blur sigma in pixels (0 = none). The same number of draws is made whatever the probabilities.
    """
    draws = generator.random(8)

    def factor(strength: float, draw: float) -> float:
        return max(0.0, 1 - strength) + draw * (1 + strength - max(0.0, 1 - strength))

    row = np.array([1, 1, 1, 0, 0, 0], dtype=np.float32)
    if draws[0] < settings.jitter_probability:
        row[BRIGHTNESS] = factor(settings.brightness, draws[1])
        row[CONTRAST] = factor(settings.contrast, draws[2])
        row[SATURATION] = factor(settings.saturation, draws[3])
        row[HUE] = settings.hue * (2 * draws[4] - 1)
    row[GREY] = draws[5] < settings.grey_probability
    if draws[6] < settings.blur_probability:
        low, high = settings.blur_sigma
        row[BLUR] = low + draws[7] * (high - low)
    return row


def _colour_matrix(parameters: Tensor) -> Tensor:
    """Saturation, hue and grey as one (N, 3, 3) matrix a view."""
    yiq = torch.tensor(_RGB_TO_YIQ, device=parameters.device)
    angle = parameters[:, HUE] * (2 * math.pi)
    chroma = torch.where(parameters[:, GREY] > 0, torch.zeros_like(angle), parameters[:, SATURATION])
    rotation = torch.zeros(len(parameters), 3, 3, device=parameters.device)
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
def apply_photometric(images: Tensor, parameters: Tensor, *, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Augments and normalises a batch of square views.

    Args:
        images: (N, 3, S, S) uint8.
        parameters: (N, 6) from `draw_photometric`.
        mean: RGB mean to subtract, in [0, 1].
        std: RGB standard deviation to divide by.

    Returns:
        (N, 3, S, S) float32.
    """
    result = images.float() / 255
    parameters = parameters.to(result.device)
    if bool((parameters[:, :HUE] != 1).any()) or bool((parameters[:, HUE : GREY + 1] != 0).any()):
        result = (result * parameters[:, BRIGHTNESS, None, None, None]).clamp_(0, 1)
        luma = torch.tensor(_LUMA, device=result.device)
        mean_grey = torch.einsum("nchw,c->n", result, luma) / result[0, 0].numel()
        contrast = parameters[:, CONTRAST, None, None, None]
        result = result * contrast + (1 - contrast) * mean_grey[:, None, None, None]
        result = (_colour_matrix(parameters) @ result.flatten(2)).reshape(result.shape).clamp_(0, 1)
    blurred = parameters[:, BLUR] > 0
    if bool(blurred.any()):
        result[blurred] = _blur(result[blurred], parameters[blurred, BLUR])
    offset = torch.tensor(mean, device=result.device)[:, None, None]
    return (result - offset) / torch.tensor(std, device=result.device)[:, None, None]
