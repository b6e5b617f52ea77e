"""The table of a comparison: means, spreads and what is missing, from figures made by hand and from a finished run."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from luss.config import load_config
from luss.errors import LussError
from luss.features.store import FeatureStore
from luss.files import read_json, write_json
from luss.settings import RunSettings
from stages.cluster import known_categories
from stages.comparing.figures import CellFigures, cell_figures
from stages.comparing.grid import Axis, Cell, Grid
from stages.comparing.record import Record, opened_record, read_record
from stages.comparing.table import Results, printed, results_of, write_table
from stages.parts.images import train_manifest
from stages.pipeline import PROTOCOLS

STAGES = PROTOCOLS["unsupervised"].stages


def hand_made(folder: Path, epochs: int = 20) -> tuple[Grid, list[Cell]]:
    """Two learners, two seeds; the cells are no runs."""
    cells = []
    for learner in ("swav", "simclr"):
        for seed in (0, 1):
            run = RunSettings(name="x", output=str(folder / f"{learner}-seed{seed}"), seed=seed)
            run.pretrain.epochs = epochs
            cells.append(Cell(f"{learner}-seed{seed}", {"method": learner, "seed": str(seed)}, run))
    axes = (
        Axis("method", ("a", "b"), ("swav", "simclr"), ("swav", "simclr")),
        Axis("seed", ("c", "d"), ("0", "1"), ("0", "1")),
    )
    return Grid("hand", folder, axes, tuple(cells)), cells


def figures(
    cell: Cell, state: str = "done", reason: str = "", *, used_labels: bool = False, **values: float
) -> CellFigures:
    return CellFigures(cell, state, reason, values, used_labels)


def on_screen(results: Results) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(printed(results))
    return capture.get()


@pytest.fixture
def results(tmp_path: Path) -> Results:
    grid, cells = hand_made(tmp_path)
    found = [
        figures(cells[0], nmi=40.0, one_nn=30.0, images_seen=5400, seconds=10.0),
        figures(cells[1], nmi=44.0, one_nn=30.0, images_seen=5400, seconds=20.0),
        figures(cells[2], nmi=10.0, one_nn=20.0, images_seen=5400, seconds=30.0, used_labels=True),
        figures(cells[3], "failed", "the loss is nan", seconds=5.0),
    ]
    record = Record("hand", "luss compare", cells={"old-seed0": {}, cells[0].name: {}})
    return results_of(grid, found, record)


def test_rows_are_means_and_sample_deviations_over_seeds(results: Results) -> None:
    swav, simclr = results.rows
    assert (swav.labels, simclr.labels) == ({"method": "swav"}, {"method": "simclr"})
    assert swav.values["nmi"].mean == 42
    assert swav.values["nmi"].deviation == pytest.approx(8**0.5)
    assert swav.values["one_nn"].deviation == 0
    assert (simclr.values["nmi"].mean, simclr.values["nmi"].deviation, simclr.values["nmi"].number) == (10, None, 1)
    assert (swav.num_done, simclr.num_done) == (2, 1)


def test_a_column_without_a_value_is_left_out_and_a_missing_cell_is_shown_with_its_reason(results: Results) -> None:
    assert [column.key for column in results.columns] == ["nmi", "one_nn", "seconds"]
    text = on_screen(results)
    assert "42.0±2.8" in text
    assert "1 of 2" in text
    assert "simclr-seed1: failed: the loss is nan" in results.notes
    assert "not in this table, but kept: old-seed0" in results.notes


def test_a_row_that_used_labels_is_marked(results: Results) -> None:
    assert "simclr*" in on_screen(results)
    assert "swav*" not in on_screen(results)
    assert any("ground truth" in note for note in results.notes)


def test_the_files_hold_what_the_screen_shows_and_every_cell(results: Results) -> None:
    write_table(results)
    lines = list(csv.DictReader((results.grid.folder / "table.csv").read_text(encoding="utf-8").splitlines()))
    assert [(line["method"], float(line["nmi"]), line["used_labels"]) for line in lines] == [
        ("swav", 42, "0"),
        ("simclr", 10, "1"),
    ]
    assert (float(lines[0]["nmi_sd"]), lines[1]["nmi_sd"]) == (pytest.approx(8**0.5), "")
    content = json.loads((results.grid.folder / "table.json").read_text(encoding="utf-8"))
    assert content["rows"][0]["values"]["seconds"] == {"mean": 15, "deviation": pytest.approx(50**0.5), "number": 2}
    assert content["rows"][1]["cells"][1] | {"values": {}} == {
        "name": "simclr-seed1", "seed": 1, "epochs": 20, "state": "failed", "reason": "the loss is nan", "values": {}
    }  # fmt: skip


@pytest.mark.parametrize(
    ("seen", "epochs", "minutes", "said", "shown"),
    [
        ((5400, 5400, 5376, 5400), 20, None, "the same number of images for all: 20 epochs, 5,400 images seen", False),
        ((5400, 5400, 2700, 2700), 20, None, "not the same budget: 20 epochs", True),
        ((5400, 5400, 2700, 2700), 20, 2.5, "the same time for all: 2.5 min of pretraining on here (cpu)", True),
        ((0, 0, 0, 0), 0, None, "nothing is pretrained", False),
    ],
)
def test_the_budget_is_said(
    tmp_path: Path, seen: tuple[int, ...], epochs: int, minutes: float | None, said: str, shown: bool
) -> None:
    grid, cells = hand_made(tmp_path, epochs)
    record = Record("hand", "", budget_minutes=minutes, speeds={"a": {"machine": "here (cpu)"}})
    found = [
        figures(cell, images_seen=images, pretrain_seconds=150.0) for cell, images in zip(cells, seen, strict=True)
    ]
    results = results_of(grid, found, record)
    assert results.budget == said
    assert any(column.key == "images_seen" for column in results.columns) == shown


def test_who_did_not_keep_to_a_budget_of_time_is_named(tmp_path: Path) -> None:
    grid, cells = hand_made(tmp_path)
    found = [
        figures(cell, images_seen=10, pretrain_seconds=seconds)
        for cell, seconds in zip(cells, (60, 70, 90, 10), strict=True)
    ]
    notes = results_of(grid, found, Record("hand", "", budget_minutes=1.0)).notes
    assert "epochs in that time: swav 20, simclr 20" in notes
    late = [note for note in notes if "the budget is 60 s" in note]
    assert [note.partition(":")[0] for note in late] == ["simclr-seed0", "simclr-seed1"]


@pytest.fixture
def cell(finished: Path, config: Path) -> Cell:
    """A finished run as a cell."""
    return Cell("whole", {"seed": "0"}, load_config(config, [f"output={finished}"]))


def test_the_figures_of_a_finished_run_are_those_that_its_stages_have_written(cell: Cell, finished: Path) -> None:
    record = Record("x", "")
    found = cell_figures(cell, STAGES, record, lambda: None)
    assert (found.state, found.reason, found.used_labels) == ("done", "", False)
    clusters = read_json(finished / "cluster" / "cluster.json")
    assert found.values["nmi"] == pytest.approx(100 * clusters["nmi"])
    assert found.values["cluster_accuracy"] == pytest.approx(100 * clusters["accuracy"])
    assert found.values["unsupervised_miou"] == read_json(finished / "evaluate" / "metrics.json")["miou"]
    assert found.values["images_seen"] == 6 * 20
    done = {stage.name: read_json(finished / stage.name / "DONE.json") for stage in STAGES}
    assert found.values["seconds"] == pytest.approx(sum(each["seconds"] for each in done.values()))
    assert found.values["pretrain_seconds"] == done["pretrain"]["seconds"]
    assert found.values["peak_memory_mb"] == max(each["peak_memory_mb"] for each in done.values())
    assert "distance_matching_miou" not in found.values


def test_nearest_neighbours_are_counted_over_all_pairs_once(
    cell: Cell, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Record("x", "")
    found = cell_figures(cell, STAGES, record, lambda: None).values["one_nn"]
    features = FeatureStore.open(finished / "extract_features" / "features")
    rows = features.read(0, len(features)).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    similar = rows @ rows.T
    np.fill_diagonal(similar, -1)
    labels = known_categories(cell.run, train_manifest(finished))
    assert labels is not None
    assert found == pytest.approx(100 * (labels[similar.argmax(axis=1)] == labels).mean())
    monkeypatch.setattr("stages.comparing.figures.leave_one_out_accuracy", lambda *words, **more: pytest.fail("again"))
    assert cell_figures(cell, STAGES, record, lambda: None).values["one_nn"] == found


def test_a_cell_that_is_not_done_says_why_and_keeps_what_is(cell: Cell, finished: Path, tmp_path: Path) -> None:
    for stage in ("manifest", "pretrain"):
        shutil.copytree(finished / stage, tmp_path / "run" / stage)
    cell.run.output = str(tmp_path / "run")
    found = cell_figures(cell, STAGES, Record("x", ""), lambda: None)
    assert (found.state, found.reason) == ("missing", "pixel_attention is missing")
    assert set(found.values) == {"pretrain_seconds", "images_seen", "seconds", "peak_memory_mb"}
    found = cell_figures(cell, STAGES[:2], Record("x", ""), lambda: None)
    assert found.state == "done"
    found = cell_figures(cell, STAGES, Record("x", "", errors={"whole": "the disk is full"}), lambda: None)
    assert (found.state, found.reason) == ("failed", "the disk is full")


def test_a_threshold_from_ground_truth_marks_the_cell(cell: Cell, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    path = tmp_path / "run" / "evaluate" / "metrics.json"
    write_json(path, read_json(path) | {"used_labels_for_threshold": True})
    write_json(path.with_name("DONE.json"), read_json(path.with_name("DONE.json")) | {"products": {}})
    cell.run.output = str(tmp_path / "run")
    assert cell_figures(cell, STAGES, Record("x", ""), lambda: None).used_labels


def test_a_record_keeps_the_cells_of_earlier_axes_and_refuses_another_budget(tmp_path: Path) -> None:
    grid, _ = hand_made(tmp_path)
    record = opened_record(grid, ["luss", "compare", "x"], 2.0)
    record.speeds["a"] = {"epochs": 3}
    record.write(tmp_path)
    fewer = Grid(grid.name, grid.folder, grid.axes, grid.cells[:1])
    again = opened_record(fewer, ["luss", "compare", "y"], 2.0)
    assert list(again.cells) == [cell.name for cell in grid.cells]
    assert (again.speeds, again.command) == ({"a": {"epochs": 3}}, "luss compare y")
    with pytest.raises(LussError, match=r"is a comparison of 2 minutes each .*, not of given epochs: .* name=NAME"):
        opened_record(fewer, [], None)


@pytest.mark.parametrize(
    "content", ['{"format": 2}', "[]", "{", '{"format": 1, "name": "x", "command": "", "what": 1}']
)
def test_a_damaged_record_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "compare.json").write_text(content, encoding="utf-8")
    with pytest.raises(LussError, match=r"compare\.json"):
        read_record(tmp_path)


def test_a_comparison_does_not_move_into_a_run(tmp_path: Path) -> None:
    grid, _ = hand_made(tmp_path)
    (tmp_path / "manifest").mkdir()
    write_json(tmp_path / "manifest" / "DONE.json", {})
    with pytest.raises(LussError, match="is the folder of a run: give the comparison a name of its own"):
        opened_record(grid, [], None)
