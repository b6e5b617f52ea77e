"""Choosing the threshold from the attention histogram alone."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from luss.errors import LussError
from luss.labels.store import LabelStore
from luss.labels.threshold import auto_threshold, histogram
from luss.labels.writer import LabelRecord, LabelWriter


def two_bells(small: float) -> npt.NDArray[np.int64]:
    levels = np.arange(256)
    bells = [np.exp(-(((levels - mean) / 12) ** 2) / 2) / 12 for mean in (80, 170)]
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
    store = LabelStore.open(writer.finish(0.5, "given"))
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


def test_the_middle_of_an_empty_gap_is_taken() -> None:
    found = auto_threshold(spikes(_40=100, _60=100, _200=100, _220=100))
    assert found.value == pytest.approx(129.5 / 255)


def test_two_clear_groups_are_well_separated_and_one_bell_is_not() -> None:
    assert auto_threshold(two_bells(0.5)).separation > 0.85
    assert auto_threshold(two_bells(0.0)).separation == pytest.approx(2 / np.pi, abs=0.01)


def test_one_value_only_keeps_everything() -> None:
    found = auto_threshold(spikes(_140=1000))
    assert (found.value, found.separation) == (0.0, 0.0)


@pytest.mark.parametrize("counts", [spikes(_10=900, _11=100), spikes(_0=1, _1=1), spikes(_126=50, _127=900, _128=60)])
def test_values_that_differ_by_rounding_are_not_called_separated_and_everything_is_kept(
    counts: npt.NDArray[np.int64],
) -> None:
    found = auto_threshold(counts)
    assert (found.value, found.separation, found.contrast) == (0.0, 0.0, 0.0)


def test_a_few_positions_far_from_a_flat_rest_are_contrast() -> None:
    found = auto_threshold(spikes(_100=500, _101=490, _200=10))
    assert 101 < found.value * 255 < 200
    assert found.contrast == pytest.approx(99.5, abs=0.1)


@pytest.mark.parametrize("pair", [(0, 255), (10, 12), (0, 2), (253, 255)])
def test_two_values_that_differ_by_more_than_rounding_are_told_apart(pair: tuple[int, int]) -> None:
    found = auto_threshold(spikes(**{f"_{pair[0]}": 900, f"_{pair[1]}": 100}))
    assert pair[0] < found.value * 255 < pair[1]
    assert found.separation == pytest.approx(1)


@pytest.mark.parametrize(
    ("counts", "message"), [(np.zeros(256, np.int64), "at least one position"), (np.ones(10, np.int64), "256 levels")]
)
def test_unusable_input_is_refused(counts: npt.NDArray[np.int64], message: str) -> None:
    with pytest.raises(LussError, match=message):
        auto_threshold(counts)
