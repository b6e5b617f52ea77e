"""Views of an image: crops, colours and hidden patches, one block a group."""

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from luss.settings.fields import above, area, at_least, interval, share, within


@dataclass
class ColourSettings:
    """Colour augmentation, per view (SwAV's recipe): strengths and probabilities."""

    brightness: float = at_least(0, 0.8)
    contrast: float = at_least(0, 0.8)
    saturation: float = at_least(0, 0.8)
    hue: float = within(0, 0.5, 0.2, ", in turns of the colour circle")
    jitter_probability: float = share(0.8)
    grey_probability: float = share(0.2)
    blur_probability: float = share(0.5)
    # Standard deviations in pixels of the view.
    blur_sigma: tuple[float, float] = interval(0, math.inf, (0.1, 2.0))
    # Inverts what is at least half bright (BYOL, DINO: of one of two global views).
    solarise_probability: float = share(0.0)


def no_colours() -> ColourSettings:
    """Colours as they are."""
    return ColourSettings(jitter_probability=0.0, grey_probability=0.0, blur_probability=0.0)


@dataclass
class MaskSettings:
    """How the patches that are hidden from a learner are chosen: share, shape, and how often."""

    # uniform: every patch alike, an exact count (MAE, TEC, TSCAE). block: rectangles up to at most the share (iBOT). exact_block: rectangles
    # up to exactly the share (CAE, after BEiT).
    kind: Literal["uniform", "block", "exact_block"] = "uniform"
    # The share of hidden patches is drawn evenly between these.
    ratio: tuple[float, float] = interval(0, 1, (0.75, 0.75))
    # Share of views that are masked at all.
    probability: float = share(1.0)
    # Patches of the smallest block that is drawn; smaller gaps are filled all the same. Published: (short side // 3)^2 of 14: 16.
    least_block: int = above(0, 16)
    # Height by width of a block is drawn between these, evenly in its logarithm.
    aspect: tuple[float, float] = interval(1e-3, 1e3, (0.3, 1 / 0.3))
    # true: every second view of a group hides exactly what the one before it shows.
    complementary: bool = False


@dataclass
class ViewSettings:
    """One group of crops of an image: how many, their side in pixels, and the share of the image's area that they cover."""

    count: int = at_least(0, 2)
    size: int = above(0, 224)
    scale: tuple[float, float] = area((0.08, 1.0))
    # Probability that a view is mirrored left to right.
    flip: float = share(0.5)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    colours: ColourSettings = field(default_factory=ColourSettings)
    mask: MaskSettings | None = None


def unread_masks(block: Any) -> list[str]:
    """What is wrong with the groups of views of a block that hides no patches, as sentences that begin with a key of it."""
    groups = {entry.name: getattr(block, entry.name) for entry in fields(block)}
    masked = [name for name, group in groups.items() if isinstance(group, ViewSettings) and group.mask is not None]
    return [f"{name}.mask is set, but nothing is hidden here: leave it out" for name in masked]
