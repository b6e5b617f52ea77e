"""Patch masks for masked image modelling: which patches of a view the network does not see. True = hidden.

Every mask is a pure function of a generator, the grid and the settings, so neither workers nor a resume change it.
"""

import math

import numpy as np
from numpy.typing import NDArray

from luss.settings import MaskSettings

# Blocks tried one after another without a fit before the mask is left as it is (BEiT, iBOT).
_TRIES = 10
# The same where the count must be exact; the few patches that are then missing are hidden one by one.
_TRIES_EXACT = 300


def draw_masks(
    generator: np.random.Generator, grid: tuple[int, int], settings: MaskSettings, *, count: int
) -> NDArray[np.bool_]:
    """The masks of the views of one group: each drawn by itself, or in complementary pairs.

    Of a pair either both views are masked or none is: a view that is shown whole would leave its partner nothing.

    Returns:
        (count, rows, columns), True = hidden.
    """
    masks = np.zeros((count, *grid), dtype=np.bool_)
    for view in range(count):
        if settings.complementary and view % 2:
            masks[view] = ~masks[view - 1] if masks[view - 1].any() else False
        else:
            masks[view] = draw_mask(generator, grid, settings)
    return masks


def draw_mask(generator: np.random.Generator, grid: tuple[int, int], settings: MaskSettings) -> NDArray[np.bool_]:
    """Draws the mask of one view.

    Args:
        generator: Where randomness comes from. One number is taken from it whatever the settings, so that masks do not move what is drawn next.
        grid: Rows and columns of patches, >= 1.

    Returns:
        (rows, columns), True = hidden.
    """
    own = np.random.default_rng(int(generator.integers(2**63)))
    mask = np.zeros(grid, dtype=np.bool_)
    masked, ratio = own.random() < settings.probability, own.uniform(*settings.ratio)
    if not masked:
        return mask
    if settings.kind == "uniform":
        return hide_by_noise(own.random(mask.size), ratio).reshape(grid)
    return hide_blocks(own, grid, ratio, settings)


def hide_by_noise(noise: NDArray[np.float64], ratio: float) -> NDArray[np.bool_]:
    """Shows the patches of the smallest noise and hides the others (MAE's masking): every set of that size is as likely.

    Args:
        noise: (..., N) independent numbers of one distribution, one a patch.
        ratio: Share to hide, 0 to 1.

    Returns:
        (..., N), True = hidden; N (1 - ratio), rounded down, are shown in each row.
    """
    rank = noise.argsort(axis=-1, kind="stable").argsort(axis=-1, kind="stable")
    hidden: NDArray[np.bool_] = rank >= _num_shown(noise.shape[-1], ratio)
    return hidden


def hide_blocks(
    generator: np.random.Generator, grid: tuple[int, int], ratio: float, settings: MaskSettings
) -> NDArray[np.bool_]:
    """Hides rectangles, one after another, until enough is hidden (BEiT's masking, as iBOT and CAE have it).

    A rectangle counts where it hides something new and not too much; so the middle of the grid is hidden more often than its border.

    Args:
        generator, grid: See `draw_mask`.
        ratio: Share to hide, 0 to 1.
        settings: Kind "block" or "exact_block", smallest area and aspect of a rectangle.

    Returns:
        (rows, columns), True = hidden. With "exact_block" N (1 - ratio), rounded down, are shown. With "block" at most the share is hidden, on
        average 0.5 to 3 % of it less on 14 x 14; in a grid of one row or column nothing, for a rectangle is smaller than the grid in both directions.
    """
    mask = np.zeros(grid, dtype=np.bool_)
    exact = settings.kind == "exact_block"
    target = float(mask.size - _num_shown(mask.size, ratio)) if exact else ratio * mask.size
    missing, failed = target, 0
    while missing > 0 and failed < (_TRIES_EXACT if exact else _TRIES):
        block = _draw_block(generator, grid, missing, settings)
        if 0 < np.count_nonzero(~mask[block]) <= missing:
            mask[block] = True
            missing, failed = target - int(mask.sum()), 0
        else:
            failed += 1
    if exact and missing:
        mask.flat[generator.choice(np.flatnonzero(~mask), int(missing), replace=False)] = True
    return mask


def _num_shown(size: int, ratio: float) -> int:
    # 1 - 0.9 is a little less than 0.1, and a tenth of 10 patches is one.
    return int(size * (1 - ratio) + 1e-9)


def _draw_block(
    generator: np.random.Generator, grid: tuple[int, int], missing: float, settings: MaskSettings
) -> tuple[slice, slice]:
    """A rectangle in the grid, smaller than it in both directions, of at most `missing` > 0 patches; empty where the one that was drawn is not."""
    # The ends may be the wrong way round: the last gaps are tried with blocks larger than they are, which may overlap what is hidden.
    area = settings.least_block + generator.random() * (missing - settings.least_block)
    aspect = math.exp(generator.uniform(math.log(settings.aspect[0]), math.log(settings.aspect[1])))
    height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    if height >= grid[0] or width >= grid[1]:
        return slice(0), slice(0)
    top, left = generator.integers(grid[0] - height + 1), generator.integers(grid[1] - width + 1)
    return slice(top, top + height), slice(left, left + width)
