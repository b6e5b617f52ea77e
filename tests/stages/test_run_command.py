"""The command line: which stages run, what `luss status` tells, and what is refused."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running import ORDER, Launcher, Outcome, results


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may change."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    return folder


def table(outcome: Outcome) -> dict[str, list[str]]:
    """The cells of the printed table by stage, without the stage's name."""
    assert outcome.code == 0, outcome.output
    rows: dict[str, list[str]] = {}
    for line in outcome.output.splitlines():
        cells = [cell.strip() for cell in re.split("[│┃]", line)[1:-1]]
        if len(cells) > 3 and cells[0] in ORDER:
            rows[cells[0]] = cells[1:]
    assert list(rows) == ORDER
    return rows


def states(outcome: Outcome) -> list[str]:
    return [cells[0] for cells in table(outcome).values()]


def everything_in(folder: Path) -> dict[str, int]:
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*")}


def identity(run: Path, stage: str) -> str:
    return str(json.loads((run / stage / "DONE.json").read_text(encoding="utf-8"))["id"])


def rerun(run: Path, before: dict[str, str]) -> list[str]:
    """The stages whose result is another than before."""
    return [stage for stage in ORDER if identity(run, stage) != before[stage]]


def test_status_goes_from_missing_over_partial_and_done_to_stale(
    luss: Launcher, config: Path, finished: Path, run: Path
) -> None:
    assert states(luss("run", str(config), f"output={run.parent / 'new'}", "--dry-run")) == ["missing"] * 9
    assert states(luss("status", str(run))) == ["done"] * 9
    # As after a stop: no record of the end, but of the start and of the position.
    record = json.loads((run / "pretrain" / "DONE.json").read_text(encoding="utf-8"))
    (run / "pretrain" / "STARTED.json").write_text(json.dumps(record), encoding="utf-8")
    (run / "pretrain" / "progress.json").write_text(
        json.dumps({"unit": "step", "done": 4, "total": 6, "seconds": 3.0, "updated": 1.0}), encoding="utf-8"
    )
    (run / "pretrain" / "DONE.json").unlink()
    rows = table(luss("status", str(run)))
    assert rows["pretrain"][:2] == ["partial", "step 4 of 6"]
    assert rows["manifest"][0] == "done"
    assert rows["pixel_attention"][:2] == ["stale", "pretrain is not done"]


def test_status_says_how_long_ago_each_stage_changed(luss: Launcher, run: Path) -> None:
    now = time.time()
    # Hours, so that no machine is too slow for them.
    for stage, hours in (("manifest", 5), ("cluster", 30)):
        os.utime(run / stage / "DONE.json", (now - 3600 * hours,) * 2)
    # As after a stop: it changed when its position was last written.
    (run / "predict" / "DONE.json").rename(run / "predict" / "STARTED.json")
    position = {"unit": "image", "done": 4, "total": 20, "seconds": 3.0, "updated": now - 3600 * 2}
    (run / "predict" / "progress.json").write_text(json.dumps(position), encoding="utf-8")
    os.utime(run / "predict" / "STARTED.json", (now - 3600 * 9,) * 2)
    shutil.rmtree(run / "evaluate")
    ages = {stage: cells[3] for stage, cells in table(luss("status", str(run))).items()}
    assert re.fullmatch(r"5 h \d\d min ago", ages["manifest"])
    assert re.fullmatch(r"30 h \d\d min ago", ages["cluster"])
    assert re.fullmatch(r"2 h \d\d min ago", ages["predict"])
    assert re.fullmatch(r"\d+ (s|min) ago", ages["pretrain"])
    assert ages["evaluate"] == ""


def test_a_changed_setting_makes_its_stage_stale_with_the_field_and_the_later_ones_with_the_stage(
    luss: Launcher, config: Path, finished: Path
) -> None:
    before = everything_in(finished)
    rows = table(luss("run", str(config), f"output={finished}", "cluster.num_clusters=9", "--dry-run"))
    assert [cells[0] for cells in rows.values()] == ["done"] * 4 + ["stale"] * 5
    assert rows["cluster"][1] == "cluster.num_clusters: 10 -> 9"
    assert rows["pseudo_labels"][1].startswith("cluster is stale (cluster.num_clusters: 10 -> 9")
    assert everything_in(finished) == before


def test_a_setting_that_returns_to_its_default_is_told_as_default(
    luss: Launcher, config: Path, finished: Path, tmp_path: Path
) -> None:
    text = config.read_text(encoding="utf-8").replace("num_restarts: 2", "num_restarts: 30")
    other = tmp_path / "other.yaml"
    other.write_text(text, encoding="utf-8")
    rows = table(luss("run", str(other), f"output={finished}", "--dry-run"))
    assert rows["cluster"][1] == "cluster.num_restarts: 2 -> default"


def test_a_setting_that_cannot_change_a_result_leaves_everything_done(
    luss: Launcher, config: Path, finished: Path
) -> None:
    words = ["pretrain.workers=1", "predict.batch_size=3", "pretrain.checkpoint_minutes=1", "name=other"]
    assert states(luss("run", str(config), f"output={finished}", *words, "--dry-run")) == ["done"] * 9


def test_a_changed_setting_runs_its_stage_and_those_after_it_and_keeps_the_old_results(
    luss: Launcher, config: Path, run: Path, finished: Path
) -> None:
    before = {stage: identity(run, stage) for stage in ORDER}
    outcome = luss("run", str(config), f"output={run}", "cluster.num_clusters=9")
    assert outcome.code == 0, outcome.output
    assert rerun(run, before) == ORDER[ORDER.index("cluster") :]
    assert "cluster: runs anew (cluster.num_clusters: 10 -> 9)" in outcome.output
    kept = {path.name.rpartition("-")[0].rsplit("-", 2)[0]: path for path in (run / "superseded").iterdir()}
    assert sorted(kept) == sorted(ORDER[ORDER.index("cluster") :])
    assert (kept["cluster"] / "centroids.npy").read_bytes() == (finished / "cluster" / "centroids.npy").read_bytes()
    assert identity(run / "superseded", kept["cluster"].name) == before["cluster"]
    # The last settings are what status compares with.
    assert states(luss("status", str(run))) == ["done"] * 9
    # Nine clusters cannot cover ten categories: one category keeps an IoU of 0.
    metrics = json.loads((run / "evaluate" / "metrics.json").read_text(encoding="utf-8"))
    assert len(metrics["ious"]) == 11
    assert 0 in metrics["ious"]


@pytest.mark.parametrize(
    "product",
    ["pretrain/backbone.safetensors", "manifest/manifest/train.tsv", "extract_features/features/shard-00001.npy",
     "pseudo_labels/labels/shard-00002.h5"],
)  # fmt: skip
def test_a_missing_product_makes_its_stage_stale(luss: Launcher, run: Path, product: str) -> None:
    stage, _, name = product.partition("/")
    (run / product).unlink()
    rows = table(luss("status", str(run)))
    assert rows[stage][:2] == ["stale", f"its product {name} is missing"]
    assert all(cells[0] == "done" for cells in list(rows.values())[: ORDER.index(stage)])
    assert all(cells[0] == "stale" for cells in list(rows.values())[ORDER.index(stage) :])


def test_a_product_of_another_size_makes_its_stage_stale_and_it_is_made_again(
    luss: Launcher, config: Path, run: Path, finished: Path
) -> None:
    with open(run / "finetune" / "model.safetensors", "ab") as file:
        file.truncate(1000)
    assert "its product model.safetensors has changed size" in luss("status", str(run)).output
    assert luss("run", str(config), f"output={run}").code == 0
    assert results(run) == results(finished)


def test_until_stops_after_a_stage_and_the_same_command_without_it_goes_on(
    luss: Launcher, config: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    outcome = luss("run", "--until", "pretrain", str(config), f"output={run}")
    assert outcome.code == 0, outcome.output
    assert sorted(path.name for path in run.iterdir() if path.is_dir()) == ["manifest", "pretrain"]
    outcome = luss("run", str(config), f"output={run}", "--until", "pixel_attention")
    assert "pretrain: done (" in outcome.output
    assert (run / "pixel_attention" / "DONE.json").is_file()


def test_only_needs_what_is_before_it_and_says_which_stage_is_missing(
    luss: Launcher, config: Path, tmp_path: Path
) -> None:
    outcome = luss("run", str(config), f"output={tmp_path / 'run'}", "--only", "pretrain")
    assert outcome.code == 2
    assert "pretrain needs manifest, which is missing" in outcome.output
    assert "run manifest first" in outcome.output


def test_only_names_the_reason_when_what_it_needs_is_stale(luss: Launcher, config: Path, finished: Path) -> None:
    outcome = luss("run", str(config), f"output={finished}", "pretrain.epochs=3", "--only", "pixel_attention")
    assert outcome.code == 2
    assert "pixel_attention needs pretrain, which is stale (pretrain.epochs: 2 -> 3)" in outcome.output


def test_only_runs_one_stage(luss: Launcher, config: Path, run: Path) -> None:
    shutil.rmtree(run / "evaluate")
    before = {stage: identity(run, stage) for stage in ORDER[:-1]} | {"evaluate": ""}
    assert luss("run", str(config), f"output={run}", "--only", "evaluate").code == 0
    assert rerun(run, before) == ["evaluate"]


def test_force_runs_a_finished_stage_anew_and_those_after_it_follow(
    luss: Launcher, config: Path, run: Path, finished: Path
) -> None:
    before = {stage: identity(run, stage) for stage in ORDER}
    outcome = luss("run", str(config), f"output={run}", "--force", "predict")
    assert outcome.code == 0, outcome.output
    assert rerun(run, before) == ["predict", "evaluate"]
    assert "predict: runs anew (forced)" in outcome.output
    assert results(run) == results(finished)


def test_force_of_a_stage_that_would_not_run_is_refused(luss: Launcher, config: Path, finished: Path) -> None:
    outcome = luss("run", str(config), f"output={finished}", "--only", "cluster", "--force", "pretrain")
    assert outcome.code == 2
    assert "--force pretrain would do nothing" in outcome.output


def test_a_dry_run_tells_what_would_run_and_changes_nothing(
    luss: Launcher, config: Path, finished: Path, tmp_path: Path
) -> None:
    before = everything_in(finished)
    rows = table(
        luss("run", str(config), f"output={finished}", "pretrain.epochs=3", "--until", "extract_features", "--dry-run")
    )
    assert [cells[-1] for cells in rows.values()] == ["", "run", "run", "run", "", "", "", "", ""]
    assert everything_in(finished) == before
    rows = table(luss("run", str(config), f"output={tmp_path / 'new'}", "--dry-run"))
    assert [cells[-1] for cells in rows.values()] == ["run"] * 9
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("option", ["--until", "--only", "--force"])
@pytest.mark.parametrize("dry", [True, False])
def test_an_unknown_stage_is_refused_with_the_names_of_the_stages(
    luss: Launcher, config: Path, finished: Path, option: str, dry: bool
) -> None:
    outcome = luss("run", str(config), f"output={finished}", option, "clusters", *(["--dry-run"] if dry else []))
    assert outcome.code == 2
    assert "there is no stage 'clusters'" in outcome.output
    assert all(stage in outcome.output for stage in ORDER)


def test_the_resolved_configuration_can_be_printed_and_used(luss: Launcher, config: Path, tmp_path: Path) -> None:
    printed = luss("run", str(config), f"output={tmp_path / 'run'}", "pretrain.epochs=7", "--print-config")
    assert printed.code == 0
    assert luss("config", str(config), f"output={tmp_path / 'run'}", "pretrain.epochs=7").output == printed.output
    assert not (tmp_path / "run").exists()
    copy = tmp_path / "copy.yaml"
    copy.write_text(printed.output, encoding="utf-8")
    assert luss("config", str(copy)).output == printed.output
    assert "epochs: 7" in printed.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("CONFIG", "pretrain.epochs=7", "--until", "cluster"),
        ("CONFIG", "--until", "cluster", "pretrain.epochs=7"),
        ("--until", "cluster", "CONFIG", "pretrain.epochs=7"),
        ("--until=cluster", "pretrain.epochs=7", "CONFIG"),
        ("pretrain.epochs=7", "CONFIG", "--until", "cluster"),
    ],
)
def test_options_words_and_the_file_may_stand_in_any_order(
    luss: Launcher, config: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    given = [str(config) if word == "CONFIG" else word for word in arguments]
    rows = table(luss("run", *given, f"output={tmp_path / 'run'}", "--dry-run"))
    assert [cells[-1] for cells in rows.values()] == ["run"] * 5 + [""] * 4


def test_a_mistake_in_a_word_is_one_line_and_starts_nothing(luss: Launcher, config: Path, tmp_path: Path) -> None:
    outcome = luss("run", str(config), f"output={tmp_path / 'run'}", "pretrain.epoch=3")
    assert outcome.code == 2
    assert outcome.output.startswith("error: unknown setting 'pretrain.epoch' in word")
    assert len(outcome.output.splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["data.root=/nowhere/at/all"], "data.root"),
        (["device=cuda:7"], "device is 'cuda:7'"),
        (
            ["pretrain.batch_size=61", "pretrain.method.clustering.queue_length=0", "--until", "pretrain"],
            "there are 60 images",
        ),
        (["cluster.num_clusters=61", "--until", "cluster"], "cluster.num_clusters is 61"),
    ],
)
def test_what_cannot_work_is_told_without_a_traceback(
    luss: Launcher, config: Path, run: Path, words: list[str], named: str
) -> None:
    outcome = luss("run", str(config), f"output={run}", *words)
    assert outcome.code == 2
    assert named in outcome.output
    assert "Traceback" not in outcome.output


def test_the_embedded_data_of_another_run_is_not_drawn_over(
    luss: Launcher, config: Path, finished: Path, shapes_folder: Path, tmp_path: Path
) -> None:
    before = everything_in(shapes_folder)
    words = [str(config), f"output={tmp_path / 'run'}", "--until", "manifest"]
    outcome = luss("run", *words, "data.shapes.num_train=30", "data.shapes.difficulty=0.1")
    assert outcome.code == 2
    assert f"{shapes_folder} holds the embedded data set with other parameters" in outcome.output
    assert "(num_train 60, not 30, difficulty 0.5, not 0.1)" in outcome.output
    assert "set data.shapes.folder to another folder" in outcome.output
    assert everything_in(shapes_folder) == before
    # The same parameters are the same data.
    assert luss("run", *words).code == 0


def test_the_status_of_a_folder_that_holds_no_run_is_refused(luss: Launcher, tmp_path: Path) -> None:
    outcome = luss("status", str(tmp_path))
    assert outcome.code == 2
    assert "holds no run" in outcome.output


def test_the_folder_of_a_run_can_have_any_name_and_be_moved(luss: Launcher, finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "été: 1 #2"
    shutil.copytree(finished, folder)
    assert states(luss("status", str(folder))) == ["done"] * 9


def test_the_installed_command_and_the_module_of_a_stage_are_the_same_program(config: Path, finished: Path) -> None:
    commands = [
        [str(Path(sys.executable).with_name("luss")), "status", str(finished)],
        [sys.executable, "-m", "stages", "cluster", str(config), f"output={finished}"],
    ]
    outputs = [
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout for command in commands
    ]
    assert "evaluate" in outputs[0]
    assert outputs[1].startswith("cluster: done (")


def test_help_teaches_by_examples(luss: Launcher) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "stages.cli", "--help"], capture_output=True, text=True, check=True, timeout=60
    )
    assert "luss status outputs/demo" in process.stdout
    assert all(command in process.stdout for command in ("run", "status", "config", "demo"))
