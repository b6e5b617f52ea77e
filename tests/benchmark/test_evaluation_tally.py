import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from luss.benchmark.tally import Tally, histogram, pack


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(-5, 5)), max_size=40), st.integers(0, 40))
def test_merged_parts_equal_the_whole(rows, split):
    def tally(part):
        keys = np.array([key for key, _ in part], np.int64)
        return Tally.of(keys, np.array([value for _, value in part], np.int64).reshape(-1, 1))

    whole = tally(rows)
    merged = Tally.merge([tally(rows[:split]), tally(rows[split:])])
    np.testing.assert_array_equal(merged.keys, whole.keys)
    np.testing.assert_array_equal(merged.values, whole.values)
    expected = {key: sum(value for other, value in rows if other == key) for key, _ in rows}
    assert dict(zip(whole.keys.tolist(), whole.values[:, 0].tolist(), strict=True)) == expected


def test_packed_keys_unpack_to_their_indices():
    shape = (3, 920, 7)
    indices = (np.array([0, 2]), np.array([919, 5]), np.array([6, 0]))
    keys = pack(shape, *indices)
    for found, index in zip(Tally(keys, np.ones((2, 1), np.int64)).unpack(shape), indices, strict=True):
        np.testing.assert_array_equal(found, index)


def test_a_histogram_over_very_many_possible_keys_counts_the_same():
    keys = np.random.default_rng(0).integers(0, 50, (30, 40))
    for dense, sparse in zip(histogram(keys, 50), histogram(keys, 1 << 40), strict=True):
        np.testing.assert_array_equal(dense, sparse)
