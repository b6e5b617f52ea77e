"""`luss demo`: the pipeline, an untrained network beside it, and the page."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from running import ORDER, Launcher, Outcome, copy_until

COLUMNS = ("miou", "boundary_miou", "image_accuracy", "f_measure")


@pytest.fixture(scope="module")
def shown(
    luss: Launcher, config: Path, finished: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Outcome, Path, Path]:
    """What the demo printed, the run's folder and the floor's. The run had been stopped before its masks."""
    run = copy_until(finished, tmp_path_factory.mktemp("demo"), "predict")
    outcome = luss("demo", "--config", str(config), f"output={run}")
    assert outcome.code == 0, outcome.output
    return outcome, run, run.with_name("run-floor")


def record(run: Path, stage: str) -> dict[str, Any]:
    return dict(json.loads((run / stage / "DONE.json").read_text(encoding="utf-8")))


def test_the_demo_finishes_every_stage_of_the_run_and_of_the_floor(shown: tuple[Outcome, Path, Path]) -> None:
    _, run, floor = shown
    for folder in (run, floor):
        assert {name for name in ORDER if (folder / name / "DONE.json").is_file()} == set(ORDER)


def test_the_floor_differs_from_the_run_in_its_untrained_backbone_alone(shown: tuple[Outcome, Path, Path]) -> None:
    _, run, floor = shown
    for stage in ORDER:
        own, other = record(run, stage)["settings"], record(floor, stage)["settings"]
        assert other == (own | {"pretrain.epochs": 0} if stage == "pretrain" else own)
    assert record(run, "pretrain")["figures"]["steps"] == 6
    assert record(floor, "pretrain")["figures"]["steps"] == 0


def test_the_table_has_a_row_for_the_run_and_one_for_the_floor_with_their_metrics(
    shown: tuple[Outcome, Path, Path],
) -> None:
    outcome, run, floor = shown
    cells = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in outcome.output.splitlines()]
    rows = {row[0]: row[1:] for row in cells if row and row[0].startswith("tiny")}
    expected = {}
    for name, folder in (("tiny", run), ("tiny-floor", floor)):
        metrics = json.loads((folder / "evaluate" / "metrics.json").read_text(encoding="utf-8"))
        expected[name] = ["validation", *(f"{metrics[column]:.1f}" for column in COLUMNS), "20"]
    assert rows == expected


def test_the_demo_says_where_the_results_are(shown: tuple[Outcome, Path, Path]) -> None:
    outcome, run, floor = shown
    for name, folder in (("tiny", run), ("tiny-floor", floor)):
        told = dict(re.findall(rf"^{name} ([a-z ]+): (.+)$", outcome.output, re.MULTILINE))
        assert {"masks", "clusters", "pseudo labels", "model"} <= set(told)
        assert all(Path(path).exists() and Path(path).is_relative_to(folder) for path in told.values())


def test_the_demo_ends_with_the_page_of_the_run(shown: tuple[Outcome, Path, Path]) -> None:
    outcome, run, floor = shown
    page = run / "report" / "index.html"
    assert str(page) in outcome.output
    assert "<html" in page.read_text(encoding="utf-8")
    assert json.loads((page.parent / "report.json").read_text(encoding="utf-8"))["run"] == "tiny"
    assert not (floor / "report").exists()
    assert re.search(r"^demo finished in \d+ s$", outcome.output, re.MULTILINE)
