"""What is refused before work begins, so that nobody finds a typo after hours."""

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console
from running import Launcher
from tiny_run import write_tiny_config

from luss.config import load_config, load_stored_config
from luss.errors import LussError
from stages.base import fingerprint
from stages.parts.images import list_name
from stages.pipeline import CLUSTERS, MANIFEST, PRETRAIN
from stages.running.fitting import lowered
from stages.running.preflight import check_processes, check_sizes, preflight
from stages.running.runner import run_stages
from stages.running.state import States

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


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
        (["cluster.num_clusters=61", "pretrain.method.clustering={num_prototypes: 61, queue_length: 61}"],
         "pretrain.method.clustering.num_prototypes is 61, but there are 60 images "
         "pretrain.method.clustering.queue_length is 61, but there are 60 images cluster.num_clusters is 61, but there are 60 images "
         "sizes that they fill, to type: pretrain.method.clustering.num_prototypes=30 pretrain.method.clustering.queue_length=60 "
         "cluster.num_clusters=30"),
        (["data.extra=[train-exrta]"], "data.extra names 'train-exrta', but"),
        (["pixel_attention.batch_size=80", "pixel_attention.queue_length=0", "finetune.batch_size=64"],
         "pixel_attention.batch_size is 80, but there are 60 images finetune.batch_size is 64, but there are 60 images "
         "sizes that they fill, to type: pixel_attention.batch_size=40 finetune.batch_size=32"),
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


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """118 tiny photographs of somebody who has no benchmark."""
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(118):
        Image.new("RGB", (24, 20), (number, 255 - number, 80)).save(folder / f"{number:03d}.png")
    return folder


@pytest.mark.parametrize(("count", "half"), [(118, 64), (60, 32), (300, 128)])
def test_sizes_of_a_file_that_few_photographs_cannot_fill_are_lowered_with_one_warning(
    photographs: Path, tmp_path: Path, count: int, half: int
) -> None:
    folder, console = tmp_path / "photographs", Console(record=True, width=2000)
    folder.mkdir()
    for number in range(count):
        os.link(photographs / f"{number % 118:03d}.png", folder / f"{number}.png")
    run = load_config(ROOT / "configs" / "objects27_cpu.yaml", [f"data.root={folder}", f"output={tmp_path / 'run'}"])
    run_stages(run, [MANIFEST], console=console)
    said = console.export_text()
    assert said.count("data.extra names 'train-extra'") == 1
    assert said.count("warning: sizes are lowered") == (half < 128)
    lowered = ("pretrain.batch_size", "pretrain.method.clustering.num_prototypes", "cluster.layout_dim")
    if half < 128:
        assert all(f"{key} 128 -> {half}" in said for key in lowered)
        assert "finetune.batch_size" not in said
    # Everybody who looks at the run sees them, and who looks at what a stage has left too.
    states = States(run)
    assert states.run.data.extra == []
    assert (states.run.pretrain.batch_size, states.run.cluster.layout_dim, states.run.cluster.num_clusters) == (
        half,
        half,
        27,
    )
    assert run.pretrain.batch_size == 128
    kept = load_stored_config(tmp_path / "run" / "manifest" / "config.yaml")
    assert kept.data.extra == []
    assert States(kept).fingerprint(CLUSTERS) == states.fingerprint(CLUSTERS)
    place = states.place(PRETRAIN)
    assert (place.run.pretrain.batch_size, place.fingerprint) == (half, fingerprint(PRETRAIN, states.run))
    preflight(run, Console(quiet=True))


def test_a_queue_and_parts_of_a_batch_are_fitted_together(shapes_folder: Path, finished: Path, config: Path) -> None:
    run = load_config(config, [f"output={finished}"])
    run.typed = frozenset()
    run.pretrain.batch_size, run.pretrain.accumulate = 100, 20
    run.pretrain.method.clustering.queue_length = 512
    found = lowered(run, finished).pretrain
    assert (found.batch_size, found.accumulate, found.method.clustering.queue_length) == (50, 1, 50)
    run.pretrain.accumulate = 5
    found = lowered(run, finished).pretrain
    assert (found.batch_size, found.accumulate, found.method.clustering.queue_length) == (50, 5, 60)


def test_what_was_typed_is_refused_and_what_a_file_says_is_lowered(config: Path, finished: Path) -> None:
    over = finished.parent / "over.yaml"
    text = "pretrain: {batch_size: 64, method: {clustering: {queue_length: 0}}}\nfinetune: {batch_size: 64}\n"
    over.write_text(text, encoding="utf-8")
    run = load_config(config, [str(over), f"output={finished}", "finetune.batch_size=64"])
    with pytest.raises(LussError) as caught:
        check_sizes(run)
    assert str(caught.value).splitlines() == [
        "finetune.batch_size is 64, but there are 60 images",
        "sizes that they fill, to type: finetune.batch_size=32",
    ]
    assert States(run).run.pretrain.batch_size == 32
    check_sizes(load_config(config, [str(over), f"output={finished}", "finetune.batch_size=32"]))


def test_a_run_of_lowered_sizes_is_done_for_the_same_command_and_for_status(
    luss: Launcher, config: Path, shapes_folder: Path, tmp_path: Path
) -> None:
    over, run = tmp_path / "over.yaml", tmp_path / "run"
    over.write_text(
        "pretrain: {batch_size: 64, epochs: 1, method: {clustering: {num_prototypes: 90, queue_length: 64}}}\n"
    )
    words = ("run", str(config), str(over), f"output={run}", f"data.root={shapes_folder}", "--until", "pretrain")
    outcome = luss(*words)
    assert outcome.code == 0, outcome.output
    assert "global batch 32" in outcome.output
    kept = load_stored_config(run / "pretrain" / "config.yaml").pretrain
    clustering = kept.method.clustering
    assert (kept.batch_size, clustering.num_prototypes, clustering.queue_length) == (32, 45, 32)
    assert "pretrain: done (" in luss(*words).output
    assert "stale" not in luss("status", str(run)).output


def test_a_folder_of_more_photographs_that_is_not_there_is_left_out_unless_it_was_typed(
    photographs: Path, config: Path, tmp_path: Path
) -> None:
    over, run, root = tmp_path / "over.yaml", tmp_path / "run", tmp_path / "root"
    over.write_text("data: {extra: [more]}\n", encoding="utf-8")
    shutil.copytree(photographs, root / "train")
    words = [str(over), f"data.root={root}", f"output={run}"]
    run_stages(load_config(config, words), [MANIFEST], console=Console(quiet=True))
    assert States(load_config(config, words)).of(MANIFEST).kind == "done"
    # It came: the representation is to learn from it.
    shutil.copytree(photographs, root / "more")
    assert States(load_config(config, words)).of(MANIFEST).detail == "data.extra: default -> ['more']"
    run_stages(load_config(config, words), [MANIFEST], console=Console(quiet=True))
    # It has gone after it was listed: the run is what it was.
    shutil.rmtree(root / "more")
    assert States(load_config(config, words)).of(MANIFEST).kind == "done"
    with pytest.raises(LussError, match=r"data\.extra names 'more', but"):
        preflight(load_config(config, [*words, "data.extra=[more]", f"output={tmp_path / 'other'}"]), Console())


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
