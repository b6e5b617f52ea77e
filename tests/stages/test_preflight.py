"""What is refused before work begins, so that nobody finds a typo after hours."""

import shutil
from pathlib import Path

import pytest
from rich.console import Console
from running import Launcher
from tiny_run import write_tiny_config

from luss.config import load_config
from luss.errors import LussError
from stages.parts.images import list_name
from stages.running.preflight import check_processes, check_sizes, preflight

pytestmark = pytest.mark.slow


def refused(luss: Launcher, config: Path, run: Path, *words: str) -> str:
    """What `luss run` says; nothing has been trained."""
    outcome = luss("run", str(config), f"output={run}", *words)
    assert outcome.code == 2, outcome.output
    assert not (run / "pretrain" / "STARTED.json").exists()
    return " ".join(outcome.output.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["finetune.output_stride=8", "pretrain.backbone.name=vgg11"], "finetune.output_stride=8: vgg11 cannot be built"),
        (["pretrain.backbone.name=resnet81"], "'resnet81'"),
        (["cluster.layout_dim=900", "extract_features.layout_stages=[0]", "extract_features.layout_grid=2", "cluster.layout_weights=[1.0]"],
         "grid of 2 have 36 numbers"),
        (["cluster.num_clusters=1000"], "cluster.num_clusters is 1000, but masks compare at most 999 ids"),
        (["data.train=trian"], "data.train names 'trian'"),
        (["cluster.num_clusters=61"], "cluster.num_clusters is 61, but there are 60 images"),
        (["finetune.batch_size=61"], "finetune.batch_size is 61, but there are 60 images"),
        (["pixel_attention.batch_size=80", "pixel_attention.queue_length=0", "finetune.batch_size=64"],
         "pixel_attention.batch_size is 80, but there are 60 images: lower it finetune.batch_size is 64"),
        (["protocols=[semi_supervised]", "semi_finetune.batch_size=5000"], "semi_finetune.batch_size is 5000, but"),
    ],
)  # fmt: skip
def test_what_a_later_stage_would_refuse_is_refused_before_pretraining(
    luss: Launcher, config: Path, shapes_folder: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    assert message in refused(luss, config, tmp_path / "run", f"data.root={shapes_folder}", *words)


def test_the_nearest_split_is_named(luss: Launcher, config: Path, shapes_folder: Path, tmp_path: Path) -> None:
    words = (f"data.root={shapes_folder}", f"output={tmp_path / 'run'}", "--dry-run")
    assert "did you mean 'train'" in luss("run", str(config), "data.train=trian", *words).output
    output = " ".join(luss("run", str(config), "data.evaluate=[vaildation]", *words).output.split())
    assert (
        f"data.evaluate names 'vaildation', which {shapes_folder} lacks (did you mean 'validation'?): it is left out"
        in output
    )
    assert "which" not in luss("run", str(config), *words).output


def test_faiss_that_is_not_installed_is_told_before_anything_runs(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.running.preflight.faiss_is_installed", lambda: False)
    preflight(load_config(config, [f"output={tmp_path}", "cluster.engine=torch"]), Console())
    with pytest.raises(LussError, match=r"cluster\.engine is faiss, which is not installed"):
        preflight(load_config(config, [f"output={tmp_path}", "cluster.engine=faiss"]), Console())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretrain.backbone.name=test_vit", "finetune.size=56"], r"finetune\.size is 56, but test_vit takes sides .* 16: set 64"),
        (["pretrain.backbone.name=test_vit", "finetune.size=64", "finetune.output_stride=8"], r"finetune\.output_stride=8: test_vit"),
        (["pretrain.backbone.name=test_coatnet"], r"pseudo_labels takes images of any aspect, but test_coatnet those of 160 x 160"),
        (["pretrain.backbone.name=levit_128s", "extract_features.layout_stages=[4]"], "levit_128s|pseudo_labels takes images"),
    ],
)  # fmt: skip
def test_sizes_that_a_network_does_not_take_are_refused(
    config: Path, shapes_folder: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    fitting = [
        "pretrain.method.global_views.size=32",
        "pretrain.method.local_views.size=16",
        "pixel_attention.views.size=32",
    ]
    run = load_config(config, [f"output={tmp_path}", f"data.root={shapes_folder}", *fitting, *words])
    with pytest.raises(LussError, match=message):
        preflight(run, Console())


def test_sizes_of_whole_images_that_are_rounded_are_said_once(
    config: Path, shapes_folder: Path, tmp_path: Path
) -> None:
    sizes = [
        "pretrain.method.global_views.size=32",
        "pretrain.method.local_views.size=16",
        "pixel_attention.views.size=32",
    ]
    words = [
        *sizes,
        "finetune.size=32",
        "finetune.output_stride=0",
        "predict.short_side=70",
        "pretrain.backbone.name=test_vit",
    ]
    run = load_config(config, [f"output={tmp_path}", f"data.root={shapes_folder}", *words])
    console = Console(record=True, width=400)
    preflight(run, console)
    said = console.export_text()
    assert said.count("predict.short_side is 70, but test_vit takes multiples of 16: images get 64 pixels") == 1
    assert "finetune.size" not in said


def test_the_sizes_of_a_finished_listing_are_checked_for_single_stages_too(
    luss: Launcher, config: Path, finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished / "manifest", tmp_path / "manifest")
    words = (f"output={tmp_path}", "cluster.num_clusters=70")
    with pytest.raises(LussError, match=r"cluster\.num_clusters is 70"):
        check_sizes(load_config(config, words))
    outcome = luss.stage("pretrain", str(config), *words)
    assert outcome.code == 2
    assert "cluster.num_clusters is 70, but there are 60 images" in outcome.output
    # Where only other protocols are asked for, nothing is clustered.
    check_sizes(load_config(config, [*words, "protocols=[distance_matching]"]))


def test_a_global_batch_that_does_not_divide_over_the_processes_of_a_job_is_refused(config: Path) -> None:
    settings = load_config(config, ["finetune.batch_size=12", "finetune.accumulate=2"])
    check_processes(settings, {"manifest": 5, "finetune": 6})
    with pytest.raises(LussError, match=r"finetune\.batch_size is 12, which does not divide over 4 processes"):
        check_processes(settings, {"finetune": 4})


def test_a_slash_at_the_end_of_the_data_is_no_other_data(
    luss: Launcher, config: Path, shapes_folder: Path, tmp_path: Path
) -> None:
    run = f"output={tmp_path / 'run'}"
    assert luss("run", str(config), run, f"data.root={shapes_folder}", "--until", "manifest").code == 0
    for other in (f"{shapes_folder}/", f"{shapes_folder.parent}/./{shapes_folder.name}"):
        assert "manifest: done" in luss("run", str(config), run, f"data.root={other}", "--until", "manifest").output
    assert not (tmp_path / "run" / "superseded").exists()


def test_photographs_of_elsewhere_are_listed_in_the_run(
    luss: Launcher, config: Path, shapes_folder: Path, tmp_path: Path
) -> None:
    elsewhere, run = tmp_path / "elsewhere" / "more", tmp_path / "run"
    shutil.copytree(shapes_folder / "validation", elsewhere)
    outcome = luss(
        "run",
        str(config),
        f"output={run}",
        f"data.root={shapes_folder}",
        f"data.extra=[{elsewhere}]",
        "--until",
        "pretrain",
    )
    assert outcome.code == 0, outcome.output
    assert "pretrain: 80 images" in outcome.output
    assert [path.name for path in elsewhere.parent.iterdir()] == ["more"]
    assert (run / "manifest" / "manifest" / f"{list_name(str(elsewhere))}.tsv").is_file()
    assert list_name("train-extra") == "train-extra"
    assert list_name("/a/more") != list_name("/b/more")


def test_a_forced_stage_that_was_stopped_says_how_it_is_continued(
    luss: Launcher, config: Path, finished: Path, tmp_path: Path
) -> None:
    from signal import SIGTERM

    from running import Fault

    run = tmp_path / "run"
    shutil.copytree(finished, run)
    words = (str(config), f"output={run}", "pretrain.checkpoint_epochs=1", "--until", "pretrain")
    fault = Fault("os.rename", "pretrain/checkpoints/", 1, SIGTERM)
    outcome = luss("run", *words, "--force", "pretrain", fault=fault)
    assert outcome.code == 130, outcome.output
    assert "the same command without --force continues it" in " ".join(outcome.output.split())
    again = luss("run", *words)
    assert again.code == 0, again.output
    assert "continuing pretrain at step 3 of 6" in again.output


def test_settings_that_there_are_no_more_leave_an_old_run_readable(
    luss: Launcher, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    for path in [run / "run.yaml", *run.glob("*/config.yaml")]:
        path.write_text(path.read_text(encoding="utf-8") + "old_block: {sub: 1}\n", encoding="utf-8")
    assert luss("status", str(run)).code == 0
    from luss.segmenter import Segmenter

    assert Segmenter.load(run).num_clusters == 10


def test_a_stage_can_be_run_in_another_thread(shapes_folder: Path, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from stages.api import run_stage

    config = write_tiny_config(tmp_path / "tiny.yaml", shapes_folder, f"output: {tmp_path / 'run'}")
    with ThreadPoolExecutor(1) as pool:
        assert (pool.submit(run_stage, "manifest", config).result() / "DONE.json").is_file()
