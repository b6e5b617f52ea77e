"""The border prior: objects in the middle stand out, and nothing makes it fail."""

import pytest
import torch
from torch import Tensor

from luss.models.saliency import border_saliency

GREY, RED = torch.tensor([0.5, 0.5, 0.5]), torch.tensor([0.9, 0.1, 0.1])


def picture(background: Tensor, thing: Tensor, *, noise: float = 0.02, size: int = 64) -> Tensor:
    """(1, 3, size, size) with a square thing in its middle, half as wide."""
    image = background[:, None, None].expand(3, size, size).clone()
    image[:, size // 4 : -size // 4, size // 4 : -size // 4] = thing[:, None, None]
    generator = torch.Generator().manual_seed(0)
    return (image + noise * torch.randn(image.shape, generator=generator)).clamp(0, 1)[None]


def inside_outside(saliency: Tensor) -> tuple[float, float]:
    size = saliency.shape[-1]
    inside = torch.zeros(size, size, dtype=torch.bool)
    inside[size // 4 : -size // 4, size // 4 : -size // 4] = True
    return float(saliency[0][inside].mean()), float(saliency[0][~inside].mean())


@pytest.mark.parametrize("centre", [0.0, 0.5])
@pytest.mark.parametrize(("background", "thing"), [(GREY, RED), (RED, GREY), (torch.zeros(3), torch.ones(3))])
def test_an_object_on_a_plain_background_scores_higher_than_its_surroundings(
    background: Tensor, thing: Tensor, centre: float
) -> None:
    inside, outside = inside_outside(border_saliency(picture(background, thing), size=(32, 32), centre=centre))
    assert inside > outside + 0.4


def test_an_object_that_touches_one_side_still_scores_higher() -> None:
    image = picture(GREY, RED)
    image[..., 32:, 16:48] = RED[:, None, None]
    saliency = border_saliency(image, size=(32, 32), centre=0.0)
    assert float(saliency[0, 16:30, 9:23].mean()) > float(saliency[0, :, :6].mean()) + 0.4


def test_the_colours_of_a_side_that_the_object_fills_do_not_make_the_background_salient() -> None:
    thing = torch.zeros(64, 64, dtype=torch.bool)
    # From the whole lower side a column rises to the middle.
    thing[44:] = thing[24:, 20:44] = True
    image = torch.where(thing, picture(RED, RED), picture(GREY, GREY))
    saliency = border_saliency(image, size=(32, 32), centre=0.0)[0]
    column, background = saliency[14:20, 12:20], torch.cat([saliency[:10].flatten(), saliency[14:20, :6].flatten()])
    assert float(column.mean()) > 0.9
    assert float(background.mean()) < 0.12


def test_the_centre_counts_only_when_asked_for() -> None:
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    inside, outside = inside_outside(border_saliency(image, size=(32, 32), centre=0.5))
    assert inside > outside + 0.2
    inside, outside = inside_outside(border_saliency(image, size=(32, 32), centre=0.0))
    assert abs(inside - outside) < 0.1


@pytest.mark.parametrize("size", [(32, 32), (7, 9), (1, 1), (2, 40)])
def test_values_lie_between_zero_and_one_at_any_size(size: tuple[int, int]) -> None:
    saliency = border_saliency(torch.cat([picture(GREY, RED), torch.rand(1, 3, 64, 64)]), size=size)
    assert saliency.shape == (2, *size)
    assert saliency.dtype == torch.float32
    assert float(saliency.min()) >= 0
    assert float(saliency.max()) <= 1


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(64, 64), (1, 1), (1, 50), (300, 2)])
def test_constant_and_tiny_images_give_finite_values(shape: tuple[int, int], value: float) -> None:
    image = torch.full((1, 3, *shape), value) * torch.tensor([1.0, 0.3, 0.6])[:, None, None]
    saliency = border_saliency(image, size=(16, 16))
    assert torch.isfinite(saliency).all()
    assert float(saliency.min()) >= 0
    assert float(saliency.max()) <= 1


def test_an_image_s_saliency_does_not_depend_on_its_neighbours_in_the_batch() -> None:
    one = picture(GREY, RED)
    alone = border_saliency(one, size=(16, 16))
    together = border_saliency(torch.cat([torch.zeros_like(one), one]), size=(16, 16))
    torch.testing.assert_close(together[1:], alone)
