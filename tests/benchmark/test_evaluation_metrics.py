import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_evaluation import IGNORE, best_total, cooccurrence, cut, naive_metrics, plain

from luss.benchmark.counts import Counts
from luss.benchmark.evaluator import evaluate_maps
from luss.benchmark.image import ImageCounter
from luss.benchmark.matching import identity
from luss.benchmark.metrics import evaluate
from luss.errors import LussError

THRESHOLDS = (0.0, 0.1, 0.3, 0.35, 0.7)


def make_items(seed, num_images, largest, ids, extra=()):
    """Blocky random (prediction, mask) pairs with ignored islands, stray pixels and some images without foreground."""
    generator = np.random.default_rng(seed)
    items = []
    for _ in range(num_images):
        height, width = generator.integers(1, largest + 1, 2)
        block = int(generator.integers(1, max(20, largest // 3)))
        shape = (height // block + 1, width // block + 1)
        maps = []
        for values in ([0, *ids, *extra], [0, *ids]):
            chosen = generator.choice(values, int(generator.integers(1, 4)))
            blocks = generator.choice(chosen, shape).repeat(block, 0).repeat(block, 1)
            maps.append(blocks[:height, :width].astype(np.uint16))
        prediction, mask = maps
        stray = generator.random(mask.shape) < generator.choice([0, 0.02])
        prediction[stray] = ids[0]
        mask[generator.random(mask.shape) < generator.choice([0, 0.05])] = IGNORE
        if generator.random() < 0.2:
            mask[: height // 2] = IGNORE
        items.append((prediction, mask))
    return items


def with_attention(items, seed):
    generator = np.random.default_rng(seed)
    return [
        (prediction, mask, np.round(generator.random(mask.shape), int(generator.integers(1, 4))).astype(np.float32))
        for prediction, mask in items
    ]


def assert_equal_metrics(metrics, expected):
    found = metrics.to_json()
    for name in ("miou", "boundary_miou", "image_accuracy", "f_measure"):
        assert found[name] == pytest.approx(expected[name], abs=1e-7), name
    assert found["ious"] == pytest.approx(expected["ious"].tolist(), abs=1e-7)
    assert found["boundary_ious"] == pytest.approx(expected["boundary_ious"].tolist(), abs=1e-7)
    for kind, groups in expected["groups"].items():
        for group, value in groups.items():
            if value is None:
                assert found["groups"][kind][group] is None
            else:
                assert found["groups"][kind][group] == pytest.approx(value, abs=1e-7), (kind, group)


@given(st.integers(0, 10_000), st.integers(1, 4), st.sampled_from([4, 25, 60, 300]))
@settings(max_examples=40, deadline=None)
def test_unmatched_metrics_equal_the_definitions_pixel_by_pixel(seed, num_images, largest):
    items = make_items(seed, num_images, largest, [1, 2, 3])
    assert_equal_metrics(evaluate_maps(items, num_classes=4, matching="identity"), naive_metrics(items, 4, identity(4)))


@given(st.integers(0, 10_000), st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_matched_metrics_equal_the_definitions_and_the_matching_is_optimal(seed, num_images):
    items = make_items(seed, num_images, 20, [1, 2, 4])
    metrics = evaluate_maps(items, num_classes=4)
    table = cooccurrence(items, 4)
    assert sum(table[i - 1, j - 1] for i, j in metrics.matching.items() if i) == best_total(table)
    assert_equal_metrics(metrics, naive_metrics(items, 4, metrics.matching))


@given(st.integers(0, 10_000), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_every_threshold_equals_an_evaluation_of_the_cut_predictions(seed, num_images):
    items = with_attention(make_items(seed, num_images, 25, [1, 2, 3], extra=[5, 700]), seed)
    metrics = evaluate_maps(items, num_classes=3, thresholds=THRESHOLDS, allow_foreign_ids=True)
    for point in metrics.curve:
        pairs = [(cut(prediction, attention, point.threshold), mask) for prediction, mask, attention in items]
        alone = evaluate_maps(pairs, num_classes=3, allow_foreign_ids=True)
        found = (point.miou, point.image_accuracy, point.f_measure)
        assert found == (alone.miou, alone.image_accuracy, alone.f_measure)
        if point.threshold == metrics.threshold:
            assert_equal_metrics(metrics, naive_metrics(pairs, 3, metrics.matching))
    assert metrics.miou == pytest.approx(max(point.miou for point in metrics.curve))
    assert metrics.threshold == next(p.threshold for p in metrics.curve if p.miou == pytest.approx(metrics.miou))


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_predicted_ids_above_c_are_foreground_but_no_categorys_false_positive(seed):
    items = make_items(seed, 4, 25, [1, 2, 3], extra=[4, 5, 1000])
    metrics = evaluate_maps(items, num_classes=3, matching={1: 3, 2: 1, 3: 2}, allow_foreign_ids=True)
    assert_equal_metrics(metrics, naive_metrics(items, 3, {1: 3, 2: 1, 3: 2}))


def test_ids_above_255_are_told_apart_from_their_low_byte():
    items = make_items(3, 6, 40, [1, 257, 255, 256])
    assert_equal_metrics(
        evaluate_maps(items, num_classes=300, matching="identity"), naive_metrics(items, 300, identity(300))
    )


def test_large_images_equal_the_definitions():
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:300, :300]
    mask = np.where(np.hypot(rows - 140, columns - 90) < 100, 2, 0).astype(np.uint16)
    mask[60:90, 60:90] = IGNORE
    mask[250:, 200:] = 1
    prediction = np.roll(mask, (9, -14), (0, 1))
    prediction[prediction == IGNORE] = 3
    prediction[generator.random(mask.shape) < 0.0005] = 1
    items = [(prediction, mask)]
    assert_equal_metrics(evaluate_maps(items, num_classes=3, matching="identity"), naive_metrics(items, 3, identity(3)))


@given(st.integers(0, 10_000), st.permutations([1, 2, 3, 4]))
@settings(max_examples=40, deadline=None)
def test_renumbering_the_clusters_changes_no_miou_after_matching(seed, order):
    items = make_items(seed, 6, 25, [1, 2, 3, 4])
    table = np.array([0, *order], np.uint16)
    renumbered = [(table[prediction], mask) for prediction, mask in items]
    assert evaluate_maps(renumbered, num_classes=4).miou == pytest.approx(evaluate_maps(items, num_classes=4).miou)


def test_renumbering_the_clusters_changes_no_metric_when_the_matching_has_no_ties():
    generator = np.random.default_rng(1)
    items = []
    for index in range(30):
        own = index % 4 + 1
        mask = np.zeros((40, 50), np.uint16)
        mask[10:30, 5 : 10 + index] = own
        prediction = np.roll(mask, 3, 1)
        prediction[generator.random(mask.shape) < 0.01] = own
        items.append((prediction, mask))
    before = evaluate_maps(items, num_classes=4)
    order = np.array([0, 3, 1, 4, 2], np.uint16)
    after = evaluate_maps([(order[prediction], mask) for prediction, mask in items], num_classes=4)
    assert after.matching == {0: 0, 3: 1, 1: 2, 4: 3, 2: 4}
    ours, theirs = before.to_json(), after.to_json()
    del ours["matching"], theirs["matching"]
    assert ours == theirs


def test_perfect_predictions_give_a_hundred_everywhere():
    mask = np.zeros((60, 80), np.uint16)
    mask[10:40, 10:60], mask[50:, :5], mask[:6, :6] = 1, 2, IGNORE
    prediction = np.where(mask == IGNORE, 0, mask)
    metrics = evaluate_maps([(prediction, mask), (prediction.T, mask.T)], num_classes=2)
    numbers = [metrics.miou, metrics.image_accuracy, metrics.f_measure, *metrics.ious]
    numbers += [value for value in metrics.groups["miou"].values() if value is not None]
    assert numbers == pytest.approx([100.0] * len(numbers))


@given(st.integers(0, 10_000), st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_perfect_predictions_under_other_numbers_give_a_hundred_in_every_metric(seed, num_classes):
    generator = np.random.default_rng(seed)
    order = np.array([0, *generator.permutation(num_classes) + 1], np.uint16)
    masks = []
    for category in range(1, num_classes + 1):
        mask = np.zeros(generator.integers(2, 50, 2), np.uint16)
        # Background is left in the first row, foreground touches the other borders.
        mask[1:][generator.random(mask[1:].shape) < 0.8] = category
        mask[-1, -1] = category
        masks.append(mask)
    metrics = evaluate_maps([(order[mask], mask) for mask in masks], num_classes=num_classes)
    numbers = [metrics.miou, metrics.boundary_miou, metrics.image_accuracy, metrics.f_measure, *metrics.ious]
    numbers += [value for group in metrics.groups.values() for value in group.values() if value is not None]
    assert numbers == pytest.approx([100.0] * len(numbers))
    assert {order[category]: category for category in range(num_classes + 1)} == metrics.matching


def counted(items, num_classes):
    counter = ImageCounter(num_classes)
    return Counts.merge([counter.count(*item) for item in items])


def test_a_perfect_prediction_by_more_clusters_than_categories_gives_a_hundred():
    masks = [np.where(mask == IGNORE, 0, mask) for _, mask in make_items(3, 6, 60, range(1, 6))]
    # Five of ten clusters are in use, under other numbers.
    renumbered = np.array([0, 7, 2, 10, 1, 5], np.uint16)
    counts = counted([(renumbered[mask], mask) for mask in masks], 10)
    metrics = evaluate(counts, num_categories=5)
    assert metrics.miou == pytest.approx(100)
    assert metrics.boundary_miou == pytest.approx(100)
    assert metrics.image_accuracy == pytest.approx(100)
    assert len(metrics.ious) == 6
    assert {metrics.matching[cluster] for cluster in (7, 2, 10, 1, 5)} == {1, 2, 3, 4, 5}
    # Without it, the mean is over ten categories of which the masks hold five.
    assert evaluate(counts).miou == pytest.approx(100 * 6 / 11)


def test_a_cluster_beyond_the_categories_is_wrong_pixels_of_what_it_covers():
    mask = np.array([[1, 1, 1, 1]], np.uint16)
    split, whole = (counted([(np.array([row], np.uint16), mask)], 3) for row in ([1, 1, 1, 2], [1, 1, 1, 0]))
    for counts in (split, whole):
        metrics = evaluate(counts, num_categories=1)
        assert metrics.ious == pytest.approx([0, 75])
        assert metrics.miou == pytest.approx(37.5)
    assert evaluate(split, num_categories=1).ious[1] == evaluate(whole, num_categories=1).ious[1]


def test_a_prediction_without_any_foreground_is_wrong_and_scores_background_only():
    mask = np.array([[0, 0, 1, 1]], np.uint16)
    metrics = evaluate_maps([(np.zeros_like(mask), mask)], num_classes=1)
    assert (metrics.image_accuracy, metrics.f_measure) == (0, 0)
    assert metrics.ious == pytest.approx([50, 0])


def test_an_image_that_is_ignored_everywhere_counts_for_accuracy_and_f_measure_only():
    mask = np.full((3, 3), IGNORE, np.uint16)
    metrics = evaluate_maps([(np.ones_like(mask), mask)], num_classes=1)
    assert metrics.num_images == 1
    assert (metrics.miou, metrics.image_accuracy, metrics.f_measure) == (0, 0, 0)
    assert set(metrics.groups["miou"].values()) == {None}


def test_among_clusters_of_equal_size_the_lowest_category_after_matching_speaks_for_the_image():
    prediction = np.array([[1, 1, 2, 2]], np.uint16)
    mask = np.array([[2, 2, 2, 2]], np.uint16)
    straight = evaluate_maps([(prediction, mask)], num_classes=2, matching={1: 1, 2: 2})
    crossed = evaluate_maps([(prediction, np.ones_like(mask))], num_classes=2, matching={1: 2, 2: 1})
    assert (straight.image_accuracy, crossed.image_accuracy) == (0, 100)


@pytest.mark.parametrize(("pixels", "group"), [(5, "S"), (6, "MS"), (25, "MS"), (26, "ML"), (50, "ML"), (51, "L")])
def test_a_size_group_ends_at_its_percentage_inclusive(pixels, group):
    mask = np.zeros((10, 10), np.uint16)
    mask.ravel()[:pixels] = 1
    groups = evaluate_maps([(mask, mask)], num_classes=1).groups["miou"]
    assert [name for name, value in groups.items() if value is not None] == [group]


def test_pixels_under_an_ignored_mask_do_not_enter_the_matching():
    prediction = np.array([[1, 2]], np.uint16)
    mask = np.array([[1, IGNORE]], np.uint16)
    counts = ImageCounter(2).count(prediction, mask)
    assert len(counts.cooccurrence) == 1


def test_the_order_and_the_grouping_of_images_change_nothing():
    items = with_attention(make_items(5, 12, 30, [1, 2, 3]), 5)
    images = [ImageCounter(3, THRESHOLDS).count(*item) for item in items]
    whole = Counts.merge(images)
    parts = [Counts.merge(images[start::5]) for start in range(5)]
    assert plain(Counts.merge(parts[::-1])) == plain(whole)
    assert evaluate(Counts.merge([parts[0], Counts.merge(parts[1:])])) == evaluate(whole)
    assert evaluate(whole) == evaluate_maps(items, num_classes=3, thresholds=THRESHOLDS)


def test_counts_of_different_category_numbers_do_not_merge():
    with pytest.raises(LussError, match="cannot be merged"):
        Counts.merge([Counts.empty(3), Counts.empty(4)])


def test_the_result_is_json_with_threshold_and_curve_only_when_searched():
    items = with_attention(make_items(1, 2, 20, [1]), 1)
    plain = json.loads(json.dumps(evaluate_maps([item[:2] for item in items], num_classes=1).to_json()))
    searched = json.loads(json.dumps(evaluate_maps(items, num_classes=1, thresholds=THRESHOLDS).to_json()))
    assert set(searched) - set(plain) == {"threshold", "curve"}
    assert plain["matching"] == {"0": 0, "1": 1}
    assert [point["threshold"] for point in searched["curve"]] == list(THRESHOLDS)


@pytest.mark.parametrize(
    ("prediction", "mask", "message"),
    [
        (np.zeros((2, 3), int), np.zeros((3, 2), int), "size 3 x 2 but the mask 2 x 3"),
        (np.full((2, 2), 4), np.zeros((2, 2), int), "prediction holds ids outside 0..3: 4"),
        (np.zeros((2, 2), int), np.full((2, 2), 4), "mask holds ids outside 0..3: 4"),
        (np.full((2, 2), -1), np.zeros((2, 2), int), "prediction holds ids outside 0..3: -1"),
        (np.zeros((2, 2)), np.zeros((2, 2), int), "whole numbers"),
    ],
)
def test_an_image_that_cannot_be_evaluated_is_named_by_its_position(prediction, mask, message):
    good = (np.zeros((2, 2), int), np.zeros((2, 2), int))
    with pytest.raises(LussError, match=f"image 1: .*{message}"):
        evaluate_maps([good, (prediction, mask)], num_classes=3)


def test_an_evaluation_of_nothing_is_refused():
    with pytest.raises(LussError, match="no image"):
        evaluate_maps([], num_classes=3)


@pytest.mark.parametrize("num_classes", [0, 1000])
def test_a_category_number_that_meets_the_ignore_id_is_refused(num_classes):
    with pytest.raises(LussError, match=r"1\.\.999"):
        evaluate_maps([], num_classes=num_classes)
