"""Colour augmentation of batches, against closed forms."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from luss.data.colours import (
    BLUR,
    BRIGHTNESS,
    CONTRAST,
    GREY,
    HUE,
    SATURATION,
    SOLARISE,
    apply_colours,
    draw_colours,
)
from luss.settings import ColourSettings, no_colours

LUMA = torch.tensor([0.299, 0.587, 0.114])


def noise(num_views: int = 1, size: int = 24) -> Tensor:
    return torch.randint(
        0, 256, (num_views, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def mild(num_views: int = 1, size: int = 24) -> Tensor:
    """Noise that no operation of these tests pushes out of range."""
    return (noise(num_views, size).float() * 0.2 + 100).to(torch.uint8)


def parameters(**changes: float) -> Tensor:
    row = torch.tensor([1.0, 1, 1, 0, 0, 0, 0])
    for name, value in changes.items():
        row[globals()[name.upper()]] = value
    return row[None]


def grey(values: Tensor) -> Tensor:
    return torch.einsum("nchw,c->nhw", values, LUMA)[:, None]


def test_rows_that_change_nothing_leave_the_colours() -> None:
    images = noise(2)
    assert torch.equal(apply_colours(images, parameters().repeat(2, 1)), images.float() / 255)


def test_solarising_inverts_what_is_at_least_half_bright_as_pillow_does() -> None:
    images = noise(2)
    expected = torch.where(images >= 128, 255 - images, images).float() / 255
    rows = torch.cat([parameters(solarise=1.0), parameters()])
    result = apply_colours(images, rows)
    torch.testing.assert_close(result[0], expected[0])
    assert torch.equal(result[1], images[1].float() / 255)


def test_solarising_happens_as_often_as_asked_and_where_it_cannot_draws_nothing() -> None:
    settings = no_colours()
    settings.solarise_probability = 0.2
    assert draws(settings)[:, SOLARISE].mean() == pytest.approx(0.2, abs=0.06)
    settings.solarise_probability = 0.0
    generator, other = np.random.default_rng(5), np.random.default_rng(5)
    draw_colours(generator, settings)
    other.random(8)
    assert generator.random() == other.random()


@pytest.mark.parametrize("factor", [0.3, 0.9, 1.8])
def test_brightness_multiplies_and_clips(factor: float) -> None:
    images = noise()
    expected = (images.float() / 255 * factor).clamp(0, 1)
    torch.testing.assert_close(apply_colours(images, parameters(brightness=factor)), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.7])
def test_contrast_blends_with_the_image_s_mean_grey(factor: float) -> None:
    values = mild().float() / 255
    expected = factor * values + (1 - factor) * grey(values).mean()
    torch.testing.assert_close(apply_colours(mild(), parameters(contrast=factor)), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.8])
def test_saturation_blends_every_pixel_with_its_own_grey(factor: float) -> None:
    values = mild().float() / 255
    expected = factor * values + (1 - factor) * grey(values)
    torch.testing.assert_close(apply_colours(mild(), parameters(saturation=factor)), expected, atol=2e-4, rtol=0)


def test_a_grey_view_has_three_equal_channels_of_its_luma() -> None:
    values = noise().float() / 255
    result = apply_colours(noise(), parameters(grey=1.0, hue=0.1, saturation=1.5))
    torch.testing.assert_close(result, grey(values).expand(-1, 3, -1, -1), atol=2e-4, rtol=0)


def test_hue_keeps_luma_turns_colours_and_is_undone_by_the_opposite_turn() -> None:
    values = mild().float() / 255
    turned = apply_colours(mild(), parameters(hue=0.2))
    torch.testing.assert_close(grey(turned), grey(values), atol=2e-4, rtol=0)
    assert float((turned - values).abs().mean()) > 0.01
    back = apply_colours((turned * 255).round().to(torch.uint8), parameters(hue=-0.2))
    torch.testing.assert_close(back, values, atol=0.01, rtol=0)


def test_a_whole_turn_of_hue_changes_nothing() -> None:
    torch.testing.assert_close(apply_colours(mild(), parameters(hue=1.0)), mild().float() / 255, atol=2e-4, rtol=0)


def test_a_third_of_a_turn_makes_the_strongest_channel_another_one() -> None:
    red = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    red[:, 0] = 200
    strongest = {int(apply_colours(red, parameters(hue=turn))[0, :, 0, 0].argmax()) for turn in (0.0, 1 / 3, -1 / 3)}
    assert strongest == {0, 1, 2}


def test_blur_keeps_a_constant_view_up_to_its_border() -> None:
    constant = torch.full((1, 3, 20, 20), 77, dtype=torch.uint8)
    torch.testing.assert_close(apply_colours(constant, parameters(blur=2.0)), constant.float() / 255)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_is_a_gaussian_away_from_the_border(sigma: float) -> None:
    images = noise(size=40)
    expected = gaussian_filter(images[0].double().numpy() / 255, sigma=(0, sigma, sigma), truncate=8)
    inside = apply_colours(images, parameters(blur=sigma))[0, :, 12:-12, 12:-12].numpy()
    np.testing.assert_allclose(inside, expected[:, 12:-12, 12:-12], atol=1e-4)


def test_every_view_has_its_own_parameters() -> None:
    rows = torch.cat(
        [
            parameters(),
            parameters(brightness=0.5),
            parameters(grey=1.0),
            parameters(blur=1.5),
            parameters(contrast=0.3, hue=0.1),
        ]
    )
    images = noise(5)
    together = apply_colours(images, rows)
    for view in range(5):
        alone = apply_colours(images[view : view + 1], rows[view : view + 1])
        torch.testing.assert_close(together[view : view + 1], alone, atol=2e-4, rtol=0)
    assert not torch.allclose(together[0], together[1])


def test_the_batch_itself_is_left_alone() -> None:
    images = noise(2)
    before = images.clone()
    apply_colours(images, parameters(brightness=0.5, blur=1.0).repeat(2, 1))
    assert torch.equal(images, before)


def draws(settings: ColourSettings, count: int = 400) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    generator = np.random.default_rng(0)
    return np.stack([draw_colours(generator, settings) for _ in range(count)])


def test_drawn_parameters_stay_in_their_ranges_and_fill_them() -> None:
    settings = ColourSettings(
        brightness=0.4,
        contrast=0.8,
        saturation=1.5,
        hue=0.2,
        jitter_probability=1.0,
        blur_probability=1.0,
        blur_sigma=(0.1, 2.0),
    )
    rows = draws(settings)
    assert rows.shape == (400, 7)
    for column, low, high in (
        (BRIGHTNESS, 0.6, 1.4),
        (CONTRAST, 0.2, 1.8),
        (SATURATION, 0.0, 2.5),
        (HUE, -0.2, 0.2),
        (BLUR, 0.1, 2.0),
    ):
        margin = 0.05 * (high - low)
        assert low <= rows[:, column].min() < low + margin
        assert high - margin < rows[:, column].max() <= high


def test_drawn_operations_happen_as_often_as_asked() -> None:
    rows = draws(ColourSettings(jitter_probability=0.8, grey_probability=0.2, blur_probability=0.5))
    assert (rows[:, BRIGHTNESS] != 1).mean() == pytest.approx(0.8, abs=0.07)
    assert rows[:, GREY].mean() == pytest.approx(0.2, abs=0.07)
    assert (rows[:, BLUR] > 0).mean() == pytest.approx(0.5, abs=0.08)
    assert set(np.unique(rows[:, GREY])) == {0.0, 1.0}


def test_operations_are_drawn_independently_of_each_other() -> None:
    rows = draws(ColourSettings(jitter_probability=0.5, grey_probability=0.5, blur_probability=0.5), 3000)
    happened = np.stack([rows[:, BRIGHTNESS] != 1, rows[:, GREY] > 0, rows[:, BLUR] > 0], axis=1)
    patterns, counts = np.unique(happened, axis=0, return_counts=True)
    assert len(patterns) == 8
    # A standard error of 0.006.
    np.testing.assert_allclose(counts / 3000, 1 / 8, atol=0.025)


def test_strengths_are_drawn_independently_of_each_other() -> None:
    rows = draws(ColourSettings(jitter_probability=1.0, grey_probability=0.5, blur_probability=1.0), 3000)
    # A standard error of 0.018.
    np.testing.assert_allclose(np.corrcoef(rows[:, :SOLARISE].T), np.eye(SOLARISE), atol=0.08)


def test_no_change_draws_parameters_that_change_nothing() -> None:
    assert (draws(no_colours(), 20) == parameters().numpy()).all()


def test_the_number_of_draws_does_not_depend_on_the_probabilities() -> None:
    following = []
    for settings in (
        no_colours(),
        ColourSettings(jitter_probability=1.0, grey_probability=1.0, blur_probability=1.0),
    ):
        generator = np.random.default_rng(5)
        draw_colours(generator, settings)
        following.append(generator.random())
    assert following[0] == following[1]
