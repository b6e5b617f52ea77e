"""Agreement with the published evaluators on 20 images of 5 categories with ignored rims."""

import json
from pathlib import Path

import numpy as np
import pytest

from luss.benchmark.evaluator import evaluate_maps
from luss.benchmark.levels import DEFAULT_THRESHOLDS

GOLDEN = Path(__file__).parents[1] / "golden" / "evaluation5"


@pytest.fixture(scope="module")
def maps():
    with np.load(GOLDEN / "maps.npz", allow_pickle=False) as file:
        return dict(file)


def items(maps, kind):
    names = sorted(name.removeprefix("mask:") for name in maps if name.startswith("mask:"))
    assert len(names) == 20
    return [(maps[f"{kind}:{name}"], maps[f"mask:{name}"], maps[f"attention:{name}"]) for name in names]


def assert_agrees(metrics, name):
    golden = json.loads((GOLDEN / f"{name}.json").read_text())
    found = {
        "Acc": metrics.image_accuracy,
        "mIoU": metrics.miou,
        "mBIoU": metrics.boundary_miou,
        "FMeasure": metrics.f_measure,
        **metrics.groups["miou"],
        **{f"B{group}": value for group, value in metrics.groups["boundary_miou"].items()},
    }
    assert found == pytest.approx({key: golden[key] for key in found}, abs=1e-3)
    assert metrics.ious == pytest.approx(golden["IoUs"], abs=1e-3)
    if golden["match"] is not None:
        assert metrics.matching == {0: 0} | {int(key): value for key, value in golden["match"].items()}


@pytest.mark.parametrize("name", ["pass", "toolkit"])
def test_matched_metrics_agree_with_both_published_evaluators(maps, name):
    assert_agrees(evaluate_maps((item[:2] for item in items(maps, "prediction")), num_classes=5), name)


def test_unmatched_metrics_agree_with_the_published_toolkit(maps):
    metrics = evaluate_maps((item[:2] for item in items(maps, "prediction")), num_classes=5, matching="identity")
    assert_agrees(metrics, "toolkit_none")


def test_the_threshold_search_agrees_with_the_published_one(maps):
    # Of an attention value the file keeps which of a few levels it reaches, the optimum and its neighbours among them.
    levels = maps["attention_levels"]
    with_values = ((p, mask, levels[attention]) for p, mask, attention in items(maps, "unfiltered"))
    metrics = evaluate_maps(with_values, num_classes=5, thresholds=DEFAULT_THRESHOLDS)
    assert metrics.threshold == 0.4
    assert_agrees(metrics, "curve")
