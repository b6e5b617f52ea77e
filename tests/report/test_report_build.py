"""The report's folder: what is in it, what it costs, and what an interrupted or half-finished run leaves."""

import json
import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from report_run import THRESHOLD, make_run, stage_row, without

from luss.data.manifest import build_manifest
from luss.data.skipped import SkippedFiles
from luss.errors import LussError
from luss.files import write_json
from luss.labels.layers import Edits
from luss.labels.palette import palette
from luss.labels.store import LabelStore
from luss.report import plots
from luss.report.build import MARKER, build_report
from luss.report.gallery import open_gallery, write_pictures
from luss.report.pictures import PictureReader
from luss.report.source import MetricRow, ReportSource

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished_source(tmp_path_factory: pytest.TempPathFactory) -> ReportSource:
    return make_run(tmp_path_factory.mktemp("made"))


@pytest.fixture(autouse=True)
def plots_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots take seconds and have a test of their own."""
    monkeypatch.setattr("luss.report.build.write_plots", lambda data, folder: [])


def data_of(report: Path) -> dict[str, Any]:
    text = (report / "data.js").read_text(encoding="utf-8")
    return json.loads(text.removeprefix("const lussData = ").rstrip().removesuffix(";"))


def pictures_of(report: Path, cluster: int) -> list[dict[str, Any]]:
    text = (report / "clusters" / f"{cluster}.js").read_text(encoding="utf-8")
    return json.loads(text.removeprefix(f"lussReceive({cluster}, ").rstrip().removesuffix(");"))


def test_a_finished_run_gives_a_whole_page(finished_source: ReportSource, tmp_path: Path) -> None:
    summary = build_report(finished_source, tmp_path / "report")
    data = data_of(tmp_path / "report")
    assert summary.problems == data["problems"] == []
    assert (summary.num_clusters, summary.num_drawn) == (3, 3)
    assert summary.page.is_file()
    assert {"report.css", "report.js", "gallery.js", "data.js"} <= {
        path.name for path in (tmp_path / "report").iterdir()
    }
    assert data["run"]["images"] == 42
    assert {"key": "pretrain.epochs", "value": 7} in data["settings"]
    assert [row["state"] for row in data["stages"]] == ["done"] * 9
    assert data["metrics"][0]["miou"] == pytest.approx(100 * (1 + 2 / 3 + 1 / 2 + 1) / 4, abs=0.01)
    assert data["threshold"]["threshold"] == THRESHOLD
    assert [curves["stage"] for curves in data["curves"]] == ["pretrain", "finetune"]
    assert data["health"]["collapsed"] is False
    assert data["categories"]["confusion"]["shares"][2] == [[1, 0.5], [2, 0.5]]
    assert sum(data["histogram"]["counts"]) == 42 * 48


def test_clusters_count_from_one_and_carry_the_palette_of_label_maps(
    finished_source: ReportSource, tmp_path: Path
) -> None:
    build_report(finished_source, tmp_path / "report")
    clusters = data_of(tmp_path / "report")["clusters"]
    assert [row["id"] for row in clusters["rows"]] == [1, 2, 3]
    assert [row["size"] for row in clusters["rows"]] == [14] * 3
    assert clusters["colours"] == ["#" + bytes(colour).hex() for colour in palette(4)]
    assert clusters["rows"][0]["folders"][0][0] == "0-ant"
    pictures = pictures_of(tmp_path / "report", 2)
    assert len(pictures) == 12
    assert {picture["map"]["ids"][0] for picture in pictures} == {2}
    assert {int(Path(picture["name"]).stem) % 3 for picture in pictures} == {1}


def test_the_second_time_pictures_are_taken_over(finished_source: ReportSource, tmp_path: Path, monkeypatch) -> None:
    build_report(finished_source, tmp_path / "report")
    before = pictures_of(tmp_path / "report", 1)
    monkeypatch.setattr(PictureReader, "picture", lambda *_: pytest.fail("a picture was read again"))
    summary = build_report(finished_source, tmp_path / "report")
    assert summary.num_drawn == 0
    assert pictures_of(tmp_path / "report", 1) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report"]


@pytest.mark.parametrize("stage", ["cluster", "pseudo_labels"])
def test_pictures_of_other_results_are_drawn_anew(finished_source: ReportSource, tmp_path: Path, stage: str) -> None:
    build_report(finished_source, tmp_path / "report")
    again = replace(stage_row(stage), identity="another")
    changed = replace(finished_source, stages={**finished_source.stages, stage: again})
    assert build_report(changed, tmp_path / "report").num_drawn == 3


def test_a_kill_in_between_leaves_the_old_report_and_its_pictures_are_used(
    finished_source: ReportSource, tmp_path: Path, monkeypatch
) -> None:
    build_report(finished_source, tmp_path / "report", images_per_cluster=4)
    original, calls = PictureReader.picture, []

    def killed(self: PictureReader, pick: Any) -> dict[str, Any]:
        calls.append(pick)
        if len(calls) > 20:
            raise KeyboardInterrupt
        return original(self, pick)

    monkeypatch.setattr(PictureReader, "picture", killed)
    with pytest.raises(KeyboardInterrupt):
        build_report(finished_source, tmp_path / "report")
    assert len(pictures_of(tmp_path / "report", 1)) == 4
    monkeypatch.setattr(PictureReader, "picture", original)
    assert build_report(finished_source, tmp_path / "report").num_drawn == 2
    assert len(pictures_of(tmp_path / "report", 1)) == 12


def test_a_kill_between_the_renames_is_mended_by_the_next_try(
    finished_source: ReportSource, tmp_path: Path, monkeypatch
) -> None:
    build_report(finished_source, tmp_path / "report")
    original = os.replace

    def killed(source: Path, target: Path) -> None:
        if Path(target) == tmp_path / "report":
            raise KeyboardInterrupt
        original(source, target)

    monkeypatch.setattr("luss.report.folder.os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        build_report(finished_source, tmp_path / "report")
    monkeypatch.undo()
    assert build_report(finished_source, tmp_path / "report").num_drawn == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report"]


def test_a_folder_that_is_no_report_is_never_replaced(finished_source: ReportSource, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.txt").write_text("precious")
    with pytest.raises(LussError, match="is not a report"):
        build_report(finished_source, tmp_path / "photos")
    assert (tmp_path / "photos" / "mine.txt").read_text() == "precious"
    (tmp_path / "empty").mkdir()
    build_report(finished_source, tmp_path / "empty")
    assert (tmp_path / "empty" / MARKER).is_file()


def test_numbers_out_of_range_are_refused(finished_source: ReportSource, tmp_path: Path) -> None:
    with pytest.raises(LussError, match="4 to 60"):
        build_report(finished_source, tmp_path / "report", images_per_cluster=3)
    with pytest.raises(LussError, match="at least 1"):
        build_report(finished_source, tmp_path / "report", max_clusters=0)


def test_only_the_largest_clusters_get_pictures_when_asked(tmp_path: Path) -> None:
    source = make_run(tmp_path / "made", masks=False)
    assigned = np.array([0] * 5 + [1] * 30 + [2] * 7)
    np.save(source.of("cluster") / "assignments.npy", assigned)
    build_report(source, tmp_path / "report")
    summary = build_report(source, tmp_path / "report", max_clusters=1)
    assert summary.num_clusters == 1
    assert [path.name for path in (tmp_path / "report" / "clusters").iterdir()] == ["2.js"]
    rows = data_of(tmp_path / "report")["clusters"]["rows"]
    assert [row["pictures"] for row in rows] == [False, True, False]


@pytest.mark.parametrize(
    ("stages", "absent"),
    [
        (("evaluate",), ["categories"]),
        (("evaluate", "predict", "finetune", "pseudo_labels"), ["categories", "threshold", "histogram"]),
        (("evaluate", "predict", "finetune", "pseudo_labels", "cluster"), ["categories", "threshold", "histogram", "clusters"]),
    ],
)  # fmt: skip
def test_a_half_run_gives_the_page_of_what_there_is(
    finished_source: ReportSource, tmp_path: Path, stages: tuple[str, ...], absent: list[str]
) -> None:
    summary = build_report(without(finished_source, *stages), tmp_path / "report")
    data = data_of(tmp_path / "report")
    assert summary.problems == []
    assert [name for name in ("categories", "threshold", "histogram", "clusters") if data[name] is None] == absent
    assert data["metrics"] == []
    if data["clusters"] and "pseudo_labels" in stages:
        assert data["clusters"]["maps"] is False
        assert "map" not in pictures_of(tmp_path / "report", 1)[0]


def test_label_maps_of_an_older_clustering_are_not_shown(finished_source: ReportSource, tmp_path: Path) -> None:
    other = replace(stage_row("cluster"), identity="run again")
    source = replace(finished_source, stages={**finished_source.stages, "cluster": other})
    build_report(source, tmp_path / "report")
    assert data_of(tmp_path / "report")["clusters"]["maps"] is False


def test_without_masks_nothing_is_measured(tmp_path: Path) -> None:
    source = make_run(tmp_path / "made", masks=False)
    write_json(source.of("evaluate") / "metrics.json", {"splits": {}})
    build_report(source, tmp_path / "report")
    data = data_of(tmp_path / "report")
    assert (data["metrics"], data["categories"], data["problems"]) == ([], None, [])


def test_a_damaged_part_is_named_and_the_rest_is_there(tmp_path: Path) -> None:
    source = make_run(tmp_path / "made")
    (source.of("extract_features") / "features" / "shard-00000.npy").unlink()
    summary = build_report(source, tmp_path / "report")
    assert len(summary.problems) == 1
    assert "shard-00000.npy is missing" in summary.problems[0]
    data = data_of(tmp_path / "report")
    assert data["clusters"] is None
    assert data["categories"] is not None


def test_masks_that_are_gone_leave_the_ious(finished_source: ReportSource, tmp_path: Path) -> None:
    summary = build_report(replace(finished_source, masks={}), tmp_path / "report")
    categories = data_of(tmp_path / "report")["categories"]
    assert categories["confusion"] is None
    assert len(categories["rows"]) == 4
    assert "confusion" in summary.problems[0]


def test_floors_and_baselines_stand_beside_the_metrics(tmp_path: Path) -> None:
    source = make_run(tmp_path / "made")
    floor = {"splits": {"validation": {"miou": 3.0, "num_images": 6}}}
    write_json(source.folder.with_name("run-floor") / "evaluate" / "metrics.json", floor)
    baseline = MetricRow("baseline", "random clusters", "validation", {"miou": float("nan"), "f_measure": 20.123})
    build_report(replace(source, metrics=(*source.metrics, baseline)), tmp_path / "report")
    rows = data_of(tmp_path / "report")["metrics"]
    assert [(row["kind"], row["label"]) for row in rows] == [
        ("run", "hand"), ("baseline", "random clusters"), ("floor", "untrained backbone"),
    ]  # fmt: skip
    assert (rows[1]["miou"], rows[1]["f_measure"]) == (None, 20.12)
    assert (rows[2]["miou"], rows[2]["image_accuracy"]) == (3.0, None)


def test_edited_labels_show_their_threshold_and_names_but_the_stored_clusters(tmp_path: Path) -> None:
    source = make_run(tmp_path / "made", masks=False)
    store = LabelStore.open(source.of("pseudo_labels") / "labels")
    store.layers.add(Edits(threshold=0.25, merge=((1, 2),), names={3: "cat"}))
    build_report(source, tmp_path / "report")
    data = data_of(tmp_path / "report")
    assert data["threshold"]["threshold"] == 0.25
    assert (data["threshold"]["source"], data["threshold"]["layer"]) == ("given", 1)
    assert data["threshold"]["names"] == {"3": "cat"}
    assert pictures_of(tmp_path / "report", 2)[0]["map"]["ids"][0] == 2


def test_skipped_files_are_listed_up_to_a_limit(tmp_path: Path, monkeypatch) -> None:
    source = make_run(tmp_path / "made", masks=False)
    lines = ["path,reason", *(f"/photos/{i}.jpg,truncated" for i in range(5))]
    (source.of("manifest") / "skipped.csv").write_text("\n".join(lines) + "\n")
    (source.of("pretrain") / "skipped.csv").write_text("path,reason\n/photos/9.jpg,empty file\n")
    monkeypatch.setattr("luss.report.overview.MAX_SKIPPED", 3)
    build_report(source, tmp_path / "report")
    skipped = data_of(tmp_path / "report")["skipped"]
    assert skipped["total"] == 6
    assert skipped["files"][0] == {"stage": "manifest", "path": "/photos/0.jpg", "reason": "truncated"}
    assert len(skipped["files"]) == 3


def test_a_name_that_is_no_text_is_escaped(tmp_path: Path) -> None:
    source = make_run(tmp_path / "made", masks=False, images_per_cluster=4)
    gallery = open_gallery(source)
    first = gallery.manifest.path(0)
    first.rename(first.with_name(os.fsdecode(b"\xff\n<b>.jpg")))
    build_manifest(
        gallery.manifest.image_root, gallery.manifest.folder, "train", skipped=SkippedFiles(tmp_path / "skipped.csv")
    )
    build_report(source, tmp_path / "report")
    names = [picture["name"] for cluster in (1, 2, 3) for picture in pictures_of(tmp_path / "report", cluster)]
    assert "0-ant/\\xff\\n<b>.jpg" in names


def test_a_run_of_919_clusters_costs_a_file_a_cluster_and_few_kilobytes_a_picture(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("luss.files.os.fsync", lambda descriptor: None)  # of a thousand small files, the slow part
    source = make_run(tmp_path / "made", num_clusters=919, images_per_cluster=6, masks=False)
    read, original = [], PictureReader.picture
    monkeypatch.setattr(PictureReader, "picture", lambda self, pick: (read.append(pick.index), original(self, pick))[1])
    summary = build_report(source, tmp_path / "report", images_per_cluster=4)
    assert len(read) == 919 * 4
    files = [path for path in (tmp_path / "report").rglob("*") if path.is_file()]
    assert len(files) <= 919 + 20
    assert summary.num_bytes < 919 * 4 * 4_000 + 1_000_000
    assert (tmp_path / "report" / "data.js").stat().st_size < 400_000


def test_the_memory_for_pictures_does_not_grow_with_the_clusters(tmp_path: Path) -> None:
    source = make_run(tmp_path / "made", num_clusters=60, images_per_cluster=4, masks=False)
    gallery = open_gallery(source)
    peaks = []
    for num in (10, 60):
        tracemalloc.start()
        write_pictures(gallery, list(range(num)), tmp_path / str(num), images_per_cluster=4, max_pixels=10**6,
                       before=None, on_progress=lambda what, done, total: None)  # fmt: skip
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]


def test_plots_are_written_as_png(finished_source: ReportSource, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    build_report(finished_source, tmp_path / "report")
    found = plots.write_plots(data_of(tmp_path / "report"), tmp_path / "figures")
    assert [figure["file"] for figure in found] == [
        f"figures/{name}.png" for name in ("curves-pretrain", "curves-finetune", "clusters", "iou", "confusion")
    ]
    for figure in found:
        with Image.open(tmp_path / figure["file"]) as image:
            assert image.format == "PNG"
            assert image.convert("L").getextrema()[0] < 100


def test_without_matplotlib_there_are_no_plots(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    curves = [{"stage": "pretrain", "unit": "step", "steps": [0], "series": {"loss": [1.0]}}]
    assert plots.write_plots({"curves": curves, "clusters": None, "categories": None}, tmp_path) == []


def test_contact_sheets_of_the_stages_are_copied(finished_source: ReportSource, tmp_path: Path) -> None:
    Image.new("RGB", (20, 20)).save(finished_source.of("pseudo_labels") / "clusters.png")
    Image.new("RGB", (20, 20)).save(finished_source.of("predict") / "clusters-validation.png")
    build_report(finished_source, tmp_path / "report")
    figures = data_of(tmp_path / "report")["figures"]
    assert [figure["file"] for figure in figures] == ["figures/pseudo-labels.png", "figures/predictions-validation.png"]
    assert all((tmp_path / "report" / figure["file"]).is_file() for figure in figures)


def test_no_temporary_file_of_a_killed_try_gets_into_a_finished_report(
    finished_source: ReportSource, tmp_path: Path
) -> None:
    out = tmp_path / "report"
    build_report(finished_source, out)
    work = out.with_name(".report.partial")
    out.rename(work)
    script = "import sys; from pathlib import Path; from luss.files import temporary_beside; temporary_beside(Path(sys.argv[1])).touch()"
    for path in (work / "data.js", work / "clusters" / "1.js"):
        subprocess.run([sys.executable, "-c", script, str(path)], check=True)
    assert len(list(work.rglob(".*.partial"))) == 2
    assert build_report(finished_source, out).num_drawn == 0
    assert not list(out.rglob(".*.partial"))
