"""Choosing the threshold from the attention histogram alone."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from luss.errors import LussError
from luss.labels.store import LabelRecord, LabelStore, LabelWriter
from luss.labels.threshold import Method, auto_threshold, histogram

METHODS: list[Method] = ["otsu", "minimum_error", "triangle"]


def two_bells(
    small: float, *, means: tuple[float, float] = (80, 170), deviations: tuple[float, float] = (12, 12)
) -> npt.NDArray[np.int64]:
    levels = np.arange(256)
    bells = [np.exp(-(((levels - m) / d) ** 2) / 2) / d for m, d in zip(means, deviations, strict=True)]
    return np.rint(1e6 * ((1 - small) * bells[0] + small * bells[1])).astype(np.int64)


def spikes(**levels: int) -> npt.NDArray[np.int64]:
    counts = np.zeros(256, np.int64)
    for level, count in levels.items():
        counts[int(level[1:])] = count
    return counts


def test_the_histogram_counts_every_position_of_every_map(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    maps = [generator.integers(0, 256, shape).astype(np.uint8) for shape in ((32, 42), (7, 9), (50, 20))]
    writer = LabelWriter(tmp_path, [(0, 2), (2, 3)], num_clusters=1, fingerprint="f")
    records = [LabelRecord(str(i), (8, 8), np.ones(a.shape, np.uint16), a) for i, a in enumerate(maps)]
    writer.write_shard(0, records[:2])
    writer.write_shard(1, records[2:])
    store = LabelStore.open(writer.finish(0.5, "given", False))
    expected = np.bincount(np.concatenate([a.reshape(-1) for a in maps]), minlength=256)
    np.testing.assert_array_equal(histogram(store), expected)
    blocks = list(store.attention_blocks(num_elements=100))
    assert max(map(len, blocks)) == 100
    assert sum(map(len, blocks)) == expected.sum()


@pytest.mark.parametrize("seed", range(5))
def test_otsu_maximises_the_between_class_variance(seed: int) -> None:
    counts = np.random.default_rng(seed).integers(0, 50, 256) * np.random.default_rng(seed).integers(0, 2, 256)
    levels = np.repeat(np.arange(256), counts)
    best = (-1.0, 0)
    for split in range(255):
        below, above = levels[levels <= split], levels[levels > split]
        if below.size and above.size:
            variance = below.size * above.size * (below.mean() - above.mean()) ** 2 / levels.size**2
            best = max(best, (variance + 1e-9 * (variance == best[0]), split))
    found = auto_threshold(counts)
    below, above = levels[levels < found.value * 255], levels[levels > found.value * 255]
    variance = below.size * above.size * (below.mean() - above.mean()) ** 2 / levels.size**2
    assert variance == pytest.approx(best[0])
    assert found.separation == pytest.approx(variance / levels.var())
    assert found.foreground_share == pytest.approx(above.size / levels.size)


def test_the_middle_of_an_empty_gap_is_taken() -> None:
    found = auto_threshold(spikes(_40=100, _60=100, _200=100, _220=100))
    assert found.value == pytest.approx(129.5 / 255)
    assert found.foreground_share == 0.5


def test_two_clear_groups_are_well_separated_and_one_bell_is_not() -> None:
    assert auto_threshold(two_bells(0.5)).separation > 0.85
    assert auto_threshold(two_bells(0.0)).separation == pytest.approx(2 / np.pi, abs=0.01)


def test_minimum_error_finds_a_small_tight_group_where_otsu_cuts_the_large_one() -> None:
    counts = two_bells(0.03, means=(90, 190), deviations=(25, 5))
    found = auto_threshold(counts, "minimum_error")
    assert 165 < found.value * 255 < 185
    assert abs(found.foreground_share - 0.03) < 0.01
    assert auto_threshold(counts, "otsu").foreground_share > 0.2


def test_the_triangle_cuts_at_the_foot_of_the_peak() -> None:
    levels = np.arange(256)
    counts = np.where(levels >= 50, 10_000 * np.exp(-(levels - 50) / 12.0) + 20, 0).astype(np.int64)
    assert 75 < auto_threshold(counts, "triangle").value * 255 < 110
    mirrored = auto_threshold(counts[::-1], "triangle")
    assert 255 - 110 < mirrored.value * 255 < 255 - 75


@pytest.mark.parametrize("method", METHODS)
def test_one_value_only_keeps_everything(method: Method) -> None:
    found = auto_threshold(spikes(_140=1000), method)
    assert (found.value, found.separation, found.foreground_share) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pair", [(0, 255), (10, 11), (0, 1), (254, 255)])
def test_two_values_are_always_told_apart(method: Method, pair: tuple[int, int]) -> None:
    found = auto_threshold(spikes(**{f"_{pair[0]}": 900, f"_{pair[1]}": 100}), method)
    assert pair[0] < found.value * 255 < pair[1]
    assert found.foreground_share == pytest.approx(0.1)
    assert found.separation == pytest.approx(1)


@pytest.mark.parametrize(
    ("counts", "method", "message"),
    [
        (np.zeros(256, np.int64), "otsu", "at least one position"),
        (np.ones(10, np.int64), "otsu", "256 levels"),
        (np.ones(256, np.int64), "otsi", "unknown: use one of otsu, minimum_error, triangle"),
    ],
)
def test_unusable_input_is_refused(counts: npt.NDArray[np.int64], method: Method, message: str) -> None:
    with pytest.raises(LussError, match=message):
        auto_threshold(counts, method)
