import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luss.benchmark.baselines import (
    BACKGROUND_ONLY,
    CENTRED_BOX,
    ORACLE_BOX,
    TITLES,
    WHOLE_IMAGE,
    baseline_prediction,
    centred_box,
    count_baselines,
    largest_category,
)
from luss.benchmark.evaluator import evaluate_maps
from luss.benchmark.metrics import evaluate
from luss.data.imagenet_s import IGNORE
from luss.errors import LussError


@given(st.integers(1, 60), st.integers(1, 60))
def test_the_centred_box_has_half_the_area_and_is_in_the_middle(height, width):
    labels = centred_box(7, height, width)
    inside = labels == 7
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    assert inside.sum() == rows.size * columns.size > 0
    assert set(np.unique(labels)) <= {0, 7}
    for place, extent in ((rows, height), (columns, width)):
        assert abs(place.size - extent * 0.5**0.5) <= 0.5 or place.size == 1
        assert 0 <= (extent - 1 - place[-1]) - place[0] <= 1


def test_the_true_category_is_the_largest_and_never_background_or_ignored():
    mask = np.array([[0, 0, 0, 2, 2, 1, IGNORE, IGNORE, IGNORE]], np.uint16)
    assert largest_category(mask) == 2
    assert largest_category(np.array([[0, IGNORE]], np.uint16)) == 0


def test_each_baseline_predicts_what_its_title_says():
    mask = np.array([[0, 3, 3], [0, 3, 0]], np.uint16)
    assert not baseline_prediction(BACKGROUND_ONLY, mask, 2).any()
    assert (baseline_prediction(WHOLE_IMAGE, mask, 2) == 2).all()
    assert set(np.unique(baseline_prediction(CENTRED_BOX, mask, 2))) == {0, 2}
    assert set(np.unique(baseline_prediction(ORACLE_BOX, mask, 2))) == {0, 3}


def test_baselines_counted_in_one_pass_equal_each_evaluated_alone():
    generator = np.random.default_rng(0)
    items = [
        (str(i), generator.choice([0, 1, 2, IGNORE], (20 + i, 30)).astype(np.uint16), int(generator.integers(0, 3)))
        for i in range(6)
    ]
    counts = count_baselines(iter(items), TITLES, num_classes=2)
    assert list(counts) == list(TITLES)
    for name, found in counts.items():
        alone = [(baseline_prediction(name, mask, cluster), mask) for _, mask, cluster in items]
        assert evaluate(found) == evaluate_maps(alone, num_classes=2)


def test_a_mask_with_ids_out_of_range_is_named():
    with pytest.raises(LussError, match=r"dog/x\.png: the mask holds ids outside 0\.\.2: 5"):
        count_baselines([("dog/x.png", np.array([[5]], np.uint16), 1)], [BACKGROUND_ONLY], num_classes=2)
