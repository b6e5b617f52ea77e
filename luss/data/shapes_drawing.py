"""Draws one picture of the embedded data set: a textured shape over a random background, and its exact mask.

A category is an outline plus a pattern. Everything else (colours, background, pose, scale, place, light, clutter, noise) is
drawn from the same distributions for every category, so nothing but shape and local structure tells categories apart.
"""

import dataclasses
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage
from sklearn.datasets import load_digits, load_sample_images

Floats = npt.NDArray[np.float32]
Reals = npt.NDArray[np.floating[Any]]
Points = npt.NDArray[np.float64]
Outline = list[Points]
Pattern = Callable[["Frame", np.random.Generator], Reals]

SUPERSAMPLING = 4
PATTERN_SUPERSAMPLING = 2
DIGIT_RESOLUTION = 32


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A picture and where its object is.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) bool, true where the object covers at least half of the pixel.
    """

    image: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Frame:
    """Points of the picture in the object's own coordinates (the outline spans about -1..1).

    Attributes:
        u, v: (h, w) coordinates.
        pixel: Size of one sample in these coordinates: the width of a soft edge.
        period: Length of one repetition of a pattern, about 0.3..0.6.
    """

    u: Floats
    v: Floats
    pixel: float
    period: float

    def inside(self, distance: Reals) -> Reals:
        """(h, w) coverage in [0, 1] of the region where a signed distance in object units is positive."""
        return np.asarray(np.clip(distance / self.pixel + 0.5, 0.0, 1.0))

    def wave(self, position: Reals, duty: float = 0.5) -> Reals:
        """(h, w) bands across `position`, one a period, each filling the share `duty` of it."""
        phase = np.abs(np.mod(position / self.period, 1.0) - 0.5)
        return self.inside((duty / 2 - phase) * self.period)


# Outlines: closed polygons in the unit frame; those after the first are holes.


def _circle(radius: float = 1.0, start: float = 0.0, end: float = 2 * np.pi, centre: float = 0.0) -> Points:
    angle = np.linspace(start, end, 72)
    return np.stack([centre + radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _polar(radii: list[float], repeats: int) -> Points:
    """Corners at equal angles whose distances from the centre cycle through `radii`, `repeats` times."""
    radius = np.tile(radii, repeats)
    angle = np.arange(len(radius)) * 2 * np.pi / len(radius)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _rotation(angle: float) -> Points:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _crescent() -> Points:
    offset, radius = 0.62, 0.8
    crossing = (offset**2 + 1 - radius**2) / (2 * offset)
    outer = np.arccos(crossing)
    inner = np.arctan2(np.sqrt(1 - crossing**2), crossing - offset)
    outside = _circle(1.0, outer, 2 * np.pi - outer)
    return np.concatenate([outside, _circle(radius, -inner, -2 * np.pi + inner, offset)])


def _cross(arm: float = 0.4) -> Points:
    quarter = np.array([[arm, 1.0], [arm, arm], [1.0, arm]])
    turns = [quarter @ _rotation(quarters * np.pi / 2) for quarters in range(4)]
    return np.concatenate(turns)


def _heart() -> Points:
    t = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([np.sin(t) ** 3, -(y + 2.5) / 16], axis=1)


def _plaque(half_width: float = 0.78, corner: float = 0.25) -> Points:
    arc = _circle(corner, 0, np.pi / 2)[::6]
    x, y = half_width - corner, 1.0 - corner
    corners = [(0, (x, y)), (1, (-x, y)), (2, (-x, -y)), (3, (x, -y))]
    return np.concatenate([arc @ _rotation(quarters * np.pi / 2).T + centre for quarters, centre in corners])


# Patterns: the share of the second colour, in [0, 1].


def _stripes(frame: Frame, rng: np.random.Generator) -> Reals:
    return frame.wave(frame.u + rng.uniform())


def _zigzag(frame: Frame, rng: np.random.Generator) -> Reals:
    fold = np.abs(np.mod(frame.v / (1.6 * frame.period) + rng.uniform(), 1.0) - 0.5) * 1.6 * frame.period
    return frame.wave(frame.u + 1.1 * fold + rng.uniform(), 0.45)


def _checks(frame: Frame, rng: np.random.Generator) -> Reals:
    shift = rng.uniform(size=2).tolist()
    product = np.sin(np.pi * (frame.u / frame.period + shift[0])) * np.sin(np.pi * (frame.v / frame.period + shift[1]))
    return frame.inside(product * (frame.period / np.pi))


def _rings(frame: Frame, rng: np.random.Generator) -> Reals:
    return frame.wave(np.hypot(frame.u, frame.v) + rng.uniform())


def _sectors(frame: Frame, rng: np.random.Generator) -> Reals:
    angle = np.arctan2(frame.v, frame.u) + rng.uniform(0, 2 * np.pi)
    return frame.inside(np.sin(5 * angle) * np.hypot(frame.u, frame.v) / 5)


def _cells(frame: Frame, rng: np.random.Generator, width: float = 1.0) -> tuple[Reals, Reals]:
    """Offsets (in periods, -0.5..0.5) from the nearest centre of a brick lattice with cells `width` periods wide."""
    shift = rng.uniform(size=2).tolist()
    row = frame.v / frame.period + shift[1]
    column = frame.u / (frame.period * width) + shift[0] + 0.5 * (np.floor(row) % 2)
    return np.mod(column, 1.0) - 0.5, np.mod(row, 1.0) - 0.5


def _dots(frame: Frame, rng: np.random.Generator) -> Reals:
    across, down = _cells(frame, rng)
    return frame.inside((0.34 - np.hypot(across, down)) * frame.period)


def _bricks(frame: Frame, rng: np.random.Generator) -> Reals:
    across, down = _cells(frame, rng, width=1.8)
    gap = np.minimum((0.5 - np.abs(across)) * 1.8, 0.5 - np.abs(down))
    return frame.inside((gap - 0.11) * frame.period)


def _scales(frame: Frame, rng: np.random.Generator) -> Reals:
    across, down = _cells(frame, rng)
    return np.asarray(np.clip(1.3 - np.hypot(across, down + 0.5) * 1.6, 0.0, 1.0))


def _marble(frame: Frame, rng: np.random.Generator) -> Reals:
    angles = rng.uniform(0, 2 * np.pi, size=(7, 2))
    lengths = frame.period * rng.uniform(1.4, 2.4, size=7)
    total = np.zeros_like(frame.u)
    for (direction, phase), length in zip(angles, lengths, strict=True):
        along = frame.u * np.float32(np.cos(direction)) + frame.v * np.float32(np.sin(direction))
        total += np.cos(along * np.float32(2 * np.pi / length) + np.float32(phase))
    return np.asarray(np.clip(total * 0.45 + 0.5, 0.0, 1.0))


def _digit(frame: Frame, rng: np.random.Generator) -> Reals:
    threes = _threes()
    strokes = threes[rng.integers(len(threes))]
    row, column = ((axis / 1.7 + 0.5) * (DIGIT_RESOLUTION - 1) for axis in (frame.v, frame.u * 1.1))
    ink = ndimage.map_coordinates(strokes, [row, column], order=1, mode="constant")
    return np.asarray(np.clip((ink - 0.35) * 5 + 0.5, 0.0, 1.0))


_SQUARE = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])


@dataclasses.dataclass(frozen=True)
class Category:
    """What makes a category.

    Attributes:
        outline: Closed polygons of (N, 2) points within about -1..1: the object is the first one minus the others.
        pattern: Draws the texture.
        grain: Length of one repetition of the pattern, in units of the outline.
        upright: Whether the object turns by at most 30 degrees either way instead of any angle.
    """

    outline: Outline
    pattern: Pattern
    grain: float
    upright: bool = False


CATEGORIES: dict[str, Category] = {
    "crescent": Category([_crescent()], _marble, 0.42),
    "cross": Category([_cross()], _bricks, 0.42),
    "digit": Category([_plaque()], _digit, 0.4, upright=True),
    "disc": Category([_circle()], _stripes, 0.3),
    "gear": Category([_polar([1.0, 1.0, 0.76, 0.76], 9), _circle(0.26)], _rings, 0.42),
    "heart": Category([_heart()], _scales, 0.5),
    "ring": Category([_circle(), _circle(0.5)], _sectors, 0.4),
    "square": Category([_SQUARE], _checks, 0.28),
    "star": Category([_polar([1.0, 0.5], 5)], _dots, 0.46),
    "triangle": Category([_polar([1.0], 3)], _zigzag, 0.4),
}
"""The categories by name, in sorted order: the id of a category is its position here plus 1."""


@cache
def _threes() -> Floats:
    """(N, R, R) scikit-learn's handwritten threes (8 x 8, ink 0..1) enlarged smoothly."""
    digits: Any = load_digits()
    small = digits.images[digits.target == 3].astype(np.float32) / 16
    zoom = DIGIT_RESOLUTION / 8
    enlarged = ndimage.zoom(small, (1, zoom, zoom), order=3, mode="grid-constant", grid_mode=True)
    return np.asarray(enlarged, dtype=np.float32)


@cache
def _photographs() -> list[Image.Image]:
    """The photographs that scikit-learn ships (a temple and a flower, 640 x 427)."""
    samples: Any = load_sample_images()
    return [Image.fromarray(image) for image in samples.images]


def _mix(low: float, high: float, difficulty: float) -> float:
    """Between an easy and a hard setting; cubic, so that the middle stays learnable in minutes on a processor."""
    return low + (high - low) * difficulty**3


def _colour(rng: np.random.Generator) -> Floats:
    """(3,) RGB in 0..255: any hue, from dull to vivid, from dark to bright."""
    hue, saturation, value = rng.uniform(0, 6), rng.uniform(0.1, 0.75), rng.uniform(0.2, 1.0)
    wheel = np.clip(np.abs(np.mod(hue + np.array([0, 4, 2]), 6) - 3) - 1, 0, 1)
    return np.asarray(255 * value * (1 - saturation + saturation * wheel), dtype=np.float32)


def _luma(colour: Floats) -> float:
    return float(colour @ np.array([0.3, 0.59, 0.11], dtype=np.float32))


def _colour_of_luma(rng: np.random.Generator, luma: float) -> Floats:
    """(3,) RGB in 0..255 of a given lightness: any hue, as vivid as that lightness allows."""
    colour = _colour(rng)
    tint = colour / _luma(colour) * luma - luma
    return np.asarray(luma + tint * min(1.0, (255 - luma) / max(float(tint.max()), 1.0)), dtype=np.float32)


def _palette(rng: np.random.Generator, difficulty: float) -> tuple[Floats, Floats, Floats]:
    """Colours of the background and of the object's two parts: hues by chance, lightness always apart.

    Easy pictures are light on dark. Hard ones come in every order: a network sorts pictures by the sign and the size of the
    contrast before it sees shapes.
    """
    lumas = np.array([55.0, 130.0, 205.0]) + rng.uniform(-1, 1, size=3) * _mix(8, 28, difficulty)
    order = rng.permutation(3)
    if rng.uniform() < _mix(0.0, 1.0, difficulty):
        lumas = lumas[order]
    ground, first, second = (_colour_of_luma(rng, float(luma)) for luma in lumas)
    return ground, first, second


def _noise_field(rng: np.random.Generator, width: int, height: int, cells: int) -> Floats:
    """(height, width, 3) smooth random colours, `cells` across."""
    grid = np.stack([_colour(rng) for _ in range(cells * cells)]).reshape(cells, cells, 3).astype(np.uint8)
    return np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)


def _photo_crop(rng: np.random.Generator, width: int, height: int) -> Floats:
    """(height, width, 3) a random piece of a photograph, its colours mixed anew."""
    photograph = _photographs()[rng.integers(len(_photographs()))]
    largest = min(photograph.width / width, photograph.height / height)
    scale = rng.uniform(min(0.6, largest), largest)
    # Rounding can leave a hair less than nothing.
    left = rng.uniform(0, max(0.0, photograph.width - scale * width))
    top = rng.uniform(0, max(0.0, photograph.height - scale * height))
    box = (left, top, min(left + scale * width, photograph.width), min(top + scale * height, photograph.height))
    pixels = np.asarray(photograph.resize((width, height), Image.Resampling.BILINEAR, box=box), dtype=np.float32)
    gains = np.diag(rng.uniform(0.5, 1.2, size=3))[rng.permutation(3)]
    pixels = pixels[:, :: int(rng.choice([-1, 1]))] @ gains.astype(np.float32)
    return 255 - pixels if rng.uniform() < 0.3 else pixels


def _background(rng: np.random.Generator, colour: Floats, width: int, height: int, difficulty: float) -> Floats:
    """(height, width, 3) a photograph's crop, a gradient, noise or blurred blobs, around a mean colour."""
    kind = rng.choice(4, p=[0.4, 0.2, 0.2, 0.2])
    if kind == 0:
        picture = _photo_crop(rng, width, height)
    elif kind == 2:
        weights = rng.dirichlet([1.5, 1.0, 1.0])
        fields = [_noise_field(rng, width, height, cells) for cells in (3, 9, 24)]
        picture = sum((w * f for w, f in zip(weights.tolist(), fields, strict=True)), np.zeros((), dtype=np.float32))
    else:
        picture = _noise_field(rng, width, height, 2 if kind == 1 else 5)
    return np.asarray(colour + (picture - picture.mean(axis=(0, 1))) * _mix(0.1, 0.9, difficulty), dtype=np.float32)


def _clutter(rng: np.random.Generator, background: Floats, difficulty: float) -> Floats:
    """Adds a few thin strokes and small ragged blobs behind the object: structure that is no category."""
    height, width = background.shape[:2]
    factor = 2
    layer = Image.fromarray(np.clip(background, 0, 255).astype(np.uint8)).resize((width * factor, height * factor))
    draw = ImageDraw.Draw(layer)
    for _ in range(rng.integers(0, 1 + round(_mix(0, 16, difficulty)))):
        centre = rng.uniform([0, 0], [width * factor, height * factor])
        colour = tuple(int(c) for c in _colour(rng))
        if rng.uniform() < 0.6:
            steps = rng.normal(0, 0.08 * width * factor, size=(4, 2)) + rng.normal(0, 0.08 * width * factor, size=2)
            path = centre + np.cumsum(steps, axis=0)
            draw.line([tuple(p) for p in path.tolist()], fill=colour, width=int(rng.integers(1, 5)))
        else:
            radius = rng.uniform(0.015, 0.045, size=(7, 1)) * width * factor
            draw.polygon([tuple(p) for p in (centre + radius * _polar([1.0], 7)).tolist()], fill=colour)
    return np.asarray(layer.reduce(factor), dtype=np.float32)


class _Pose(NamedTuple):
    """Where the object lies: picture = object @ matrix.T + centre, in pixels (x, y)."""

    matrix: Points
    centre: Points


def _polygon_area(points: Points) -> float:
    x, y = points.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def _pose(rng: np.random.Generator, category: Category, width: int, height: int, difficulty: float) -> _Pose:
    """Random turn, stretch, area and place, the whole object inside the picture."""
    limit = np.radians(30.0) if category.upright else np.pi
    angle = rng.uniform(-1, 1) * limit * _mix(0.05, 1.0, difficulty)
    stretch = np.exp(rng.uniform(-1, 1) * _mix(0.0, 0.2, difficulty))
    share = rng.uniform(_mix(0.32, 0.12, difficulty), _mix(0.42, 0.46, difficulty))
    place = rng.uniform(0, 1, size=2)
    matrix = _rotation(angle) @ np.diag([stretch, 1 / stretch])
    area = _polygon_area(category.outline[0]) - sum(_polygon_area(hole) for hole in category.outline[1:])
    corners = category.outline[0] @ matrix.T
    low, high = corners.min(axis=0), corners.max(axis=0)
    margin = 1.0
    canvas = np.array([width, height], dtype=np.float64) - 2 * margin
    scale = min(np.sqrt(share * width * height / area), float((canvas / (high - low)).min()))
    slack = canvas - scale * (high - low)
    jitter = 0.5 + (place - 0.5) * _mix(0.3, 1.0, difficulty)
    return _Pose(matrix * scale, margin + slack * jitter - scale * low)


def _coverage(outline: Outline, pose: _Pose, width: int, height: int) -> Floats:
    """(height, width) share of each pixel that the object covers, from a drawing `SUPERSAMPLING` times as large."""
    layer = Image.new("L", (width * SUPERSAMPLING, height * SUPERSAMPLING))
    draw = ImageDraw.Draw(layer)
    for number, points in enumerate(outline):
        corners = (points @ pose.matrix.T + pose.centre) * SUPERSAMPLING - 0.5
        draw.polygon([tuple(corner) for corner in corners.tolist()], fill=0 if number else 255)
    return np.asarray(layer.reduce(SUPERSAMPLING), dtype=np.float32) / np.float32(255)


def _texture(
    rng: np.random.Generator, category: Category, pose: _Pose, width: int, height: int, difficulty: float
) -> Floats:
    """(height, width) the category's pattern in the object's pose."""
    spread = _mix(0.03, 0.25, difficulty)
    period = category.grain * float(np.exp(rng.uniform(-spread, spread)))
    count = PATTERN_SUPERSAMPLING
    x = (np.arange(width * count, dtype=np.float32) + 0.5) / count - np.float32(pose.centre[0])
    y = (np.arange(height * count, dtype=np.float32) + 0.5)[:, None] / count - np.float32(pose.centre[1])
    inverse = np.linalg.inv(pose.matrix).astype(np.float32)
    pixel = float(np.sqrt(abs(np.linalg.det(inverse)))) / count
    frame = Frame(inverse[0, 0] * x + inverse[0, 1] * y, inverse[1, 0] * x + inverse[1, 1] * y, pixel, period)
    fine = category.pattern(frame, rng)
    return np.asarray(fine.reshape(height, count, width, count).mean(axis=(1, 3)), dtype=np.float32)


def _develop(rng: np.random.Generator, picture: Floats, difficulty: float) -> npt.NDArray[np.uint8]:
    """Light from one side, a lens that is not quite sharp, and sensor noise."""
    height, width = picture.shape[:2]
    direction, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, _mix(0.05, 0.5, difficulty))
    x, y = np.linspace(-1, 1, width), np.linspace(-1, 1, height)[:, None]
    light = 1 + strength * (np.cos(direction) * x + np.sin(direction) * y) / np.sqrt(2)
    lit = np.clip(picture * light[..., None], 0, 255).astype(np.uint8)
    soft = Image.fromarray(lit).filter(ImageFilter.GaussianBlur(rng.uniform(0.0, _mix(0.2, 0.8, difficulty))))
    noise = rng.standard_normal(picture.shape, dtype=np.float32) * rng.uniform(0, _mix(2, 14, difficulty))
    return np.clip(np.asarray(soft, dtype=np.float32) + noise, 0, 255).astype(np.uint8)


def draw_shape(category: str, *, rng: np.random.Generator, size: int = 96, difficulty: float = 0.5) -> Drawing:
    """Draws one object of a category over a random background.

    Args:
        category: A key of `CATEGORIES`.
        rng: The only source of chance; the same state gives the same picture. Picture size, background and colours are
            drawn before anything that depends on the category.
        size: The longest side is between `size` and 1.3 `size` pixels; sides differ by up to a third.
        difficulty: 0 (calm background, near the centre, upright, strong texture) to 1 (busy, any pose, object from 12 % of
            the picture, faint texture). Effects grow with its cube.

    Returns:
        The picture and its mask: exactly one object, wholly inside.
    """
    kind = CATEGORIES[category]
    longest, aspect = size * rng.uniform(1.0, 1.3), np.exp(rng.uniform(-1, 1) * np.log(4 / 3))
    width, height = round(longest * min(1.0, aspect)), round(longest / max(1.0, aspect))
    ground, first, second = _palette(rng, difficulty)
    background = _background(rng, ground, width, height, difficulty)
    strength = rng.uniform(_mix(0.9, 0.5, difficulty), 1.0)
    background = _clutter(rng, background, difficulty)
    pose = _pose(rng, kind, width, height, difficulty)
    coverage = _coverage(kind.outline, pose, width, height)
    pattern = _texture(rng, kind, pose, width, height, difficulty)[..., None] * np.float32(strength)
    surface = first + (second - first) * pattern
    picture = background + (surface - background) * coverage[..., None]
    return Drawing(_develop(rng, picture, difficulty), coverage >= 0.5)
