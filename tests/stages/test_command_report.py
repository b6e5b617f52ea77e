"""`luss report` on the tiny run, whole, half, and with things gone wrong."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from running import Fault, Launcher

from luss.report.categories import count_confusion
from luss.settings import RunSettings
from stages.commands.report import report_source
from stages.running.results import print_results, settings_of_run


@pytest.fixture(scope="module")
def report(luss: Launcher, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the finished run."""
    out = tmp_path_factory.mktemp("reports") / "whole"
    outcome = luss("report", str(finished), "--out", str(out))
    assert outcome.code == 0, outcome.output
    assert str(out / "index.html") in outcome.output.replace("\n", "")
    return out


def data_of(report: Path) -> dict[str, Any]:
    text = (report / "data.js").read_text(encoding="utf-8")
    return json.loads(text.removeprefix("const lussData = ").rstrip().removesuffix(";"))


def test_a_finished_run_is_reported_whole(report: Path, finished: Path) -> None:
    data = data_of(report)
    metrics = json.loads((finished / "evaluate" / "metrics.json").read_text())
    assert data["problems"] == []
    assert {stage["state"] for stage in data["stages"]} == {"done"}
    assert data["metrics"][0]["miou"] == pytest.approx(metrics["miou"], abs=0.01)
    assert [curves["stage"] for curves in data["curves"]] == ["pretrain", "pixel_attention", "cluster", "finetune"]
    assert set(data["health"]["values"]) == {"feature_rank", "used_prototypes", "code_entropy", "prediction_entropy"}
    assert data["clusters"]["maps"] is True
    assert sum(row["size"] for row in data["clusters"]["rows"]) == 60
    assert len(list((report / "clusters").iterdir())) == sum(row["size"] > 0 for row in data["clusters"]["rows"])
    assert (report / "figures" / "pseudo-labels.png").is_file()


def test_the_confusion_holds_the_ious_of_the_evaluation(report: Path, finished: Path, shapes_folder: Path) -> None:
    metrics = json.loads((finished / "evaluate" / "metrics.json").read_text())
    masks = shapes_folder / "validation-segmentation"
    pixels = count_confusion(finished / "predict" / "masks" / "validation", masks, 10).pixels
    for cluster, category in metrics["matching"].items():
        hits = pixels[int(cluster), category]
        union = pixels[int(cluster)].sum() + pixels[:, category].sum() - hits
        assert 100 * hits / max(union, 1) == pytest.approx(metrics["ious"][category], abs=1e-6)
    categories = data_of(report)["categories"]
    assert categories["confusion"]["num_counted"] == 20
    assert [row["iou"] for row in categories["rows"]] == pytest.approx(metrics["ious"], abs=0.01)


def test_a_run_stopped_halfway_is_reported_as_far_as_it_is(luss: Launcher, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    for stage in ("pseudo_labels", "finetune", "predict", "evaluate"):
        shutil.rmtree(run / stage)
    outcome = luss("report", str(run), "--images-per-cluster", "4", "--clusters", "3")
    assert outcome.code == 0, outcome.output
    data = data_of(run / "report")
    assert data["stages"][-1]["state"] == "missing"
    assert (data["metrics"], data["categories"], data["threshold"]) == ([], None, None)
    assert data["clusters"]["maps"] is False
    assert len(list((run / "report" / "clusters").iterdir())) == 3
    assert luss("status", str(run)).code == 0


def test_a_stage_whose_settings_changed_is_called_stale_and_its_numbers_are_not_shown(
    luss: Launcher, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    settings = run / "run.yaml"
    settings.write_text(settings.read_text().replace("num_restarts: 2", "num_restarts: 3"))
    assert luss("report", str(run)).code == 0
    data = data_of(run / "report")
    states = {stage["name"]: stage["state"] for stage in data["stages"]}
    assert (states["extract_features"], states["cluster"], states["evaluate"]) == ("done", "stale", "stale")
    assert data["metrics"] == []
    assert data["categories"] is None


def test_data_that_has_moved_leaves_a_report_without_pictures(luss: Launcher, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    gone = str(tmp_path / "gone")
    for path in [run / "run.yaml", *run.glob("manifest/manifest/*.json")]:
        folder = json.loads((finished / "manifest" / "manifest" / "train.json").read_text())["image_root"]
        path.write_text(path.read_text().replace(str(Path(folder).parent), gone))
    outcome = luss("report", str(run))
    assert outcome.code == 0, outcome.output
    assert "left out" in outcome.output
    assert "no such file" in next((run / "report" / "clusters").iterdir()).read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is not the folder of a run"),
        (["{empty}"], "holds no run"),
        (["{run}", "--out", "{run}"], "is not a report"),
        (["{run}", "--out", "{empty}/r", "--images-per-cluster", "1"], "4 to 60"),
    ],
)
def test_bad_input_is_one_line_and_a_code(
    luss: Launcher, finished: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    outcome = luss("report", *(word.format(run=finished, empty=tmp_path) for word in arguments))
    assert outcome.code == 2
    assert message in outcome.output
    assert "Traceback" not in outcome.output


def test_a_killed_report_is_continued(luss: Launcher, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    assert luss("report", str(finished), "--out", str(out), fault=Fault("os.rename", "/4.js")).code == -9
    assert not out.exists()
    outcome = luss("report", str(finished), "--out", str(out))
    assert outcome.code == 0, outcome.output
    clusters = len(list((out / "clusters").iterdir()))
    drawn = int(outcome.output.split(" drawn now")[0].split("(")[-1])
    assert 0 < drawn < clusters
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_a_full_disk_is_said_and_the_old_report_stays(luss: Launcher, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    assert luss("report", str(finished), "--out", str(out), "--clusters", "2").code == 0
    before = (out / "data.js").read_bytes()
    outcome = luss("report", str(finished), "--out", str(out), fault=Fault("open", "data.js", signal=None))
    assert outcome.code == 2
    assert "full" in outcome.output
    assert (out / "data.js").read_bytes() == before


def printed(*runs: RunSettings) -> str:
    console = Console(record=True, width=200, file=io.StringIO())
    print_results(runs, console)
    return " ".join(console.export_text().split())


def with_facts(monkeypatch: pytest.MonkeyPatch, **facts: Any) -> None:
    """From now on the metrics that are read say something else."""
    monkeypatch.setattr("stages.running.results.read_metrics", lambda path: json.loads(path.read_text()) | facts)


def test_numbers_with_a_threshold_from_ground_truth_are_still_the_run_s_own(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_facts(monkeypatch, used_labels_for_threshold=True)
    (row,) = report_source(finished).metrics
    assert (row.kind, row.label, row.split) == ("run", "tiny", "validation")
    assert "unsupervised but for a threshold from ground truth" in printed(settings_of_run(finished))


def test_the_table_says_how_many_clusters_met_how_many_categories(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "matched on the first split; 10 clusters, 10 categories" in printed(settings_of_run(finished))
    with_facts(monkeypatch, clusters=12)
    assert "matched on the first split; 12 clusters, 10 categories" in printed(settings_of_run(finished))
