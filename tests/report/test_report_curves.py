"""Curves from logs, and what they say of collapse."""

from pathlib import Path

import pytest
from report_run import write_log

from luss.report.curves import health, read_curves


def test_a_short_log_is_drawn_line_by_line(tmp_path: Path) -> None:
    write_log(tmp_path, 5)
    curves = read_curves(tmp_path / "metrics.jsonl", "pretrain")
    assert curves is not None
    assert curves.steps == [0, 10, 20, 30, 40]
    assert curves.series["loss"] == [2, 1.75, 1.5, 1.25, 1]
    assert "epoch" not in curves.series
    assert curves.unit == "step"


def test_a_long_log_is_thinned_to_means_and_keeps_its_end(tmp_path: Path) -> None:
    write_log(tmp_path, 1001)
    curves = read_curves(tmp_path / "metrics.jsonl", "pretrain", max_points=100)
    assert curves is not None
    assert len(curves.steps) == len(curves.series["loss"]) <= 100
    assert curves.steps[-1] == 10_000
    assert curves.series["loss"][0] == pytest.approx(2 - 5 / 1000)


def test_lines_cut_short_and_numbers_that_are_none_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "loss": 2.0}\n{"step": 1, "loss": NaN, "rank": 3}\n{"step": 2, "lo', encoding="utf-8")
    curves = read_curves(path, "pretrain")
    assert curves is not None
    assert curves.series == {"loss": [2.0, None], "rank": [None, 3]}


def test_the_iterations_of_a_clustering_are_numbered_over_all_restarts(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"restart": {r}, "iteration": {i}, "objective": 1}}\n' for r in (0, 1) for i in (1, 2)))
    curves = read_curves(path, "cluster")
    assert curves is not None
    assert (curves.unit, curves.steps, list(curves.series)) == ("iteration", [0, 1, 2, 3], ["objective"])


def test_without_a_log_there_are_no_curves(tmp_path: Path) -> None:
    assert read_curves(tmp_path / "metrics.jsonl", "pretrain") is None
    (tmp_path / "metrics.jsonl").write_text("")
    assert read_curves(tmp_path / "metrics.jsonl", "pretrain") is None


@pytest.mark.parametrize(
    ("values", "collapsed"), [({}, False), ({"feature_rank": 1.2}, True), ({"used_prototypes": 0.01}, True)]
)
def test_collapse_is_told_by_rank_and_prototypes(tmp_path: Path, values: dict[str, float], collapsed: bool) -> None:
    write_log(tmp_path, 40, **values)
    curves = read_curves(tmp_path / "metrics.jsonl", "pretrain")
    assert curves is not None
    found = health(curves)
    assert found is not None
    assert found.collapsed is collapsed


def test_a_log_without_such_figures_says_nothing_of_collapse(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "loss": 1}\n')
    curves = read_curves(tmp_path / "metrics.jsonl", "finetune")
    assert curves is not None
    assert health(curves) is None
