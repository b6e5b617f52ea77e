"""Stages that are made shard by shard, by processes that know nothing of each other."""

import csv
import json
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from running import ORDER, Fault, Launcher, results

from luss.config import load_config
from luss.data.names import MaskNames
from luss.errors import LussError
from luss.files import read_record
from luss.settings import RunSettings
from stages.parts import masks
from stages.pipeline import STAGES
from stages.pixel_attention import PixelAttentionStage
from stages.running.folder import StageFolder, work_of_shards
from stages.running.lock import shard_lock
from stages.running.runner import run_stages
from stages.running.shard_work import run_shards
from stages.running.state import States

NUM_SHARDS = {"extract_features": 4, "pseudo_labels": 4, "predict": 3}
# The rename that completes shard 1 of a stage.
WRITING = {
    "extract_features": "features/shard-00001.npy",
    "pseudo_labels": "labels/shard-00001.h5",
    "predict": "shards/00001.json",
}


@pytest.fixture
def before(finished: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Makes a run that is finished up to a stage, that one not included."""

    def copy(stage: str) -> Path:
        run = tmp_path / "run"
        for name in ORDER[: ORDER.index(stage)]:
            shutil.copytree(finished / name, run / name)
        return run

    return copy


def words(config: Path, run: Path, *more: str) -> list[str]:
    return [str(config), f"output={run}", *more]


def of_stage(run: Path, stage: str) -> dict[str, Any]:
    return {name: value for name, value in results(run).items() if name.startswith(f"{stage}/")}


def record(run: Path, stage: str) -> dict[str, Any]:
    return dict(json.loads((run / stage / "DONE.json").read_text(encoding="utf-8")))


def skipped(run: Path, stage: str) -> list[str]:
    with open(run / stage / "skipped.csv", encoding="utf-8", newline="") as file:
        return [Path(row["path"]).name for row in csv.DictReader(file)]


@pytest.mark.parametrize("stage", NUM_SHARDS)
def test_shards_made_by_several_processes_at_once_join_to_the_bits_of_one_process(
    luss: Launcher, config: Path, finished: Path, before: Callable[[str], Path], stage: str
) -> None:
    run, last = before(stage), NUM_SHARDS[stage] - 1
    # All of them begin the stage's folder.
    shares = [
        ["--shard", "0"],
        ["--shard", str(last), "--shard", "1"],
        [f"--shard={shard}" for shard in range(2, last)],
    ]
    starts = [(stage, words(config, run, *share)) for share in shares if share]
    for outcome in luss.side_by_side(*starts):
        assert outcome.code == 0, outcome.output
    settings = load_config(config, [f"output={run}"])
    assert States(settings).missing_shards(STAGES[stage]) == []
    assert not (run / stage / "DONE.json").exists()
    assert f"{last + 1} of {last + 1} shards" in luss("status", str(run)).output
    outcome = luss.stage(stage, *words(config, run))
    assert outcome.code == 0, outcome.output
    assert of_stage(run, stage) == of_stage(finished, stage)
    assert set(record(run, stage)["products"]) == set(record(finished, stage)["products"])
    assert States(settings).missing_shards(STAGES[stage]) == []
    left = {path.name for path in run.glob(".*")} | {path.name for path in (run / stage).glob(".*")}
    assert not left
    assert not (run / stage / "shards").exists()


@pytest.mark.parametrize("stage", NUM_SHARDS)
def test_a_killed_shard_that_is_made_again_alone_has_the_same_bits_and_leaves_nothing_behind(
    luss: Launcher, config: Path, finished: Path, before: Callable[[str], Path], stage: str
) -> None:
    run = before(stage)
    alone = words(config, run, "--shard", "1")
    event = Fault("os.rename", "predict/masks", 3) if stage == "predict" else Fault("os.rename", WRITING[stage])
    for fault in (event, Fault("os.rename", WRITING[stage])):
        assert luss.stage(stage, *alone, fault=fault).code == -signal.SIGKILL
        assert list((run / stage).rglob(".*.partial"))
        settings = load_config(config, [f"output={run}"])
        assert States(settings).missing_shards(STAGES[stage]) == list(range(NUM_SHARDS[stage]))
    outcome = luss.stage(stage, *alone)
    assert outcome.code == 0, outcome.output
    assert f"{stage}: shard 1 of {NUM_SHARDS[stage]} made" in outcome.output
    assert not list((run / stage).rglob(".*.partial"))
    assert 1 not in States(settings).missing_shards(STAGES[stage])
    made = [path for path in (run / stage).rglob("*") if path.suffix in (".npy", ".h5", ".png")]
    assert len(made) == (8 if stage == "predict" else 1)
    for path in made:
        assert path.read_bytes() == (finished / path.relative_to(run)).read_bytes(), path


def test_the_state_counts_shards_and_those_at_work(luss: Launcher, config: Path, before: Callable[[str], Path]) -> None:
    run, stage = before("extract_features"), STAGES["extract_features"]
    settings = load_config(config, [f"output={run}"])
    assert States(settings).num_shards(stage) == 4
    assert States(settings).missing_shards(stage) == [0, 1, 2, 3]
    outcome = luss.stage(stage.name, *words(config, run, "--shard", "2", "--shard", "0"))
    assert outcome.code == 0, outcome.output
    state = States(settings).of(stage)
    assert (state.kind, state.detail) == ("partial", "2 of 4 shards")
    assert state.seconds > 0
    assert States(settings).missing_shards(stage) == [1, 3]
    with shard_lock(run, stage.name, 3):
        assert States(settings).of(stage).detail == "2 of 4 shards, 1 at work"
    assert "extract_features: shard 0 of 4 is there" in luss.stage(stage.name, *words(config, run, "--shard=0")).output


def test_a_done_stage_makes_no_shard(luss: Launcher, config: Path, finished: Path) -> None:
    times = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    outcome = luss.stage("predict", *words(config, finished, "--shard", "1"))
    assert outcome.code == 0, outcome.output
    assert outcome.output.splitlines() == ["predict: done"]
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == times


def test_a_second_process_on_the_same_shard_is_refused_and_the_first_is_not_disturbed(
    luss: Launcher, config: Path, finished: Path, before: Callable[[str], Path]
) -> None:
    run, stage = before("pseudo_labels"), "pseudo_labels"
    halt = Fault("os.rename", WRITING[stage], signal=signal.SIGSTOP)
    with luss.halted(stage, *words(config, run, "--shard", "1"), at=halt) as first:
        second = luss.stage(stage, *words(config, run, "--shard", "1"))
        other = luss.stage(stage, *words(config, run, "--shard", "0"))
    assert second.code == 2
    assert f"shard 1 of pseudo_labels in {run} is being made by process" in second.output
    assert other.code == 0, other.output
    assert first[0].code == 0, first[0].output
    path = Path(WRITING[stage])
    assert (run / stage / path).read_bytes() == (finished / stage / path).read_bytes()


def test_the_stage_is_not_run_or_moved_aside_while_a_shard_of_it_is_being_made(
    luss: Launcher, config: Path, finished: Path, before: Callable[[str], Path]
) -> None:
    run, stage = before("extract_features"), "extract_features"
    halt = Fault("os.rename", WRITING[stage], signal=signal.SIGSTOP)
    with luss.halted(stage, *words(config, run, "--shard", "1"), at=halt) as shard:
        whole = luss.stage(stage, *words(config, run))
        forced = luss.stage(stage, *words(config, run, "--force"))
        changed = luss("run", *words(config, run, "extract_features.resize=40"))
    for refused in (whole, forced, changed):
        assert refused.code == 2
        assert f"shard 1 of extract_features in {run} is being made by process" in refused.output
    assert shard[0].code == 0, shard[0].output
    assert not (run / "superseded").exists()
    assert luss.stage(stage, *words(config, run)).code == 0
    assert of_stage(run, stage) == of_stage(finished, stage)


def test_no_shard_begins_while_the_whole_stage_is_run(
    luss: Launcher, config: Path, finished: Path, before: Callable[[str], Path]
) -> None:
    run, stage = before("extract_features"), "extract_features"
    halt = Fault("os.rename", WRITING[stage], signal=signal.SIGSTOP)
    with luss.halted(stage, *words(config, run), at=halt) as whole:
        shard = luss.stage(stage, *words(config, run, "--shard", "3"))
        again = luss.stage(stage, *words(config, run))
    assert shard.code == 2
    assert f"extract_features in {run} is being run by process" in shard.output
    assert again.code == 2
    assert f"the run {run} is in use by process" in again.output
    assert whole[0].code == 0, whole[0].output
    assert of_stage(run, stage) == of_stage(finished, stage)


def test_a_shard_of_a_stale_stage_is_refused_with_the_reason_and_changes_nothing(
    luss: Launcher, config: Path, before: Callable[[str], Path]
) -> None:
    run, stage = before("extract_features"), "extract_features"
    assert luss.stage(stage, *words(config, run, "--shard", "0")).code == 0
    kept = {path: path.stat().st_mtime_ns for path in (run / stage).rglob("*")}
    changed = words(config, run, "extract_features.resize=40")
    outcome = luss.stage(stage, *changed, "--shard", "1")
    assert outcome.code == 2
    assert "is stale (extract_features.resize: 36 -> 40)" in outcome.output
    assert {path: path.stat().st_mtime_ns for path in (run / stage).rglob("*")} == kept
    settings = load_config(config, changed[1:])
    assert States(settings).missing_shards(STAGES[stage]) == [0, 1, 2, 3]
    assert luss.stage(stage, *changed).code == 0
    assert list((run / "superseded").glob("extract_features-*/features/shard-00000.npy"))


def test_a_shard_whose_stage_was_moved_aside_meanwhile_writes_nothing(
    config: Path, before: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, stage = before("extract_features"), STAGES["extract_features"]
    settings = load_config(config, [f"output={run}"])

    def moving(*arguments: Any, **words: Any) -> None:
        if (run / stage.name).exists():
            (run / stage.name).rename(tmp_path / "moved")
            StageFolder(stage, States(settings).place(stage)).begin()

    # Between its beginning and its end, as by somebody who took its lock for dead.
    monkeypatch.setattr("stages.running.shard_work.begin_piece", moving)
    with pytest.raises(LussError, match="was moved aside, ended or changed by another process"):
        run_shards(settings, stage, [0])
    assert not (run / stage.name / "features").exists()


def test_a_shard_that_is_asked_to_stop_is_made_again_later(
    luss: Launcher, config: Path, finished: Path, before: Callable[[str], Path]
) -> None:
    run, stage = before("pseudo_labels"), "pseudo_labels"
    fault = Fault("open", ".jpg", 3, signal.SIGTERM)
    outcome = luss.stage(stage, *words(config, run, "--shard", "1", "--shard", "2"), fault=fault)
    assert outcome.code == 130
    assert "pseudo_labels: shard 1 stopped (SIGTERM received); the same command makes it again" in outcome.output
    assert not list(run.glob(".lock*"))
    assert luss.stage(stage, *words(config, run, "--shard", "1")).code == 0
    assert (run / stage / WRITING[stage]).read_bytes() == (finished / stage / WRITING[stage]).read_bytes()


def test_many_who_begin_a_stage_at_once_agree_on_one_record(config: Path, before: Callable[[str], Path]) -> None:
    run, stage = before("extract_features"), STAGES["extract_features"]
    settings = load_config(config, [f"output={run}"])
    together = Barrier(8)

    def begin(_: int) -> str:
        together.wait()
        return StageFolder(stage, States(settings).place(stage)).begin_shard()

    with ThreadPoolExecutor(8) as pool:
        words = set(pool.map(begin, range(8)))
    assert len(words) == 1
    assert sorted(path.name for path in (run / "extract_features").iterdir()) == ["STARTED.json", "config.yaml"]


def test_a_shard_with_too_many_unreadable_images_fails_by_name_alone_and_can_be_mended_alone(
    shapes_folder: Path, config: Path, luss: Launcher, tmp_path: Path
) -> None:
    # 60 pictures in four shards; two pictures of shard 1 and one of shard 3 are cut off.
    photos, run, stage = tmp_path / "photos", tmp_path / "run", "extract_features"
    photos.mkdir()
    for place, path in enumerate(sorted((shapes_folder / "train").rglob("*.jpg"))):
        content = path.read_bytes()
        (photos / f"{place:02d}.jpg").write_bytes(content[: len(content) // 3] if place in (17, 20, 50) else content)
    arguments = words(config, run, f"data.root={photos}", "pretrain.epochs=0", "pixel_attention.epochs=0")
    assert luss("run", *arguments, "--until", "pixel_attention").code == 0
    strict = [*arguments, "data.max_skipped_share=0.02"]
    outcomes = luss.side_by_side(*((stage, [*strict, "--shard", str(shard)]) for shard in range(4)))
    assert [outcome.code for outcome in outcomes] == [0, 2, 0, 0]
    assert "shard 1 of extract_features failed: 2 of 60 image files (3.3%) could not be used" in outcomes[1].output
    assert States(load_config(config, strict[1:])).missing_shards(STAGES[stage]) == [1]
    # The whole stage fails likewise, and a list names the files.
    whole = luss.stage(stage, *strict)
    assert whole.code == 2
    assert "shard 1 of extract_features failed" in whole.output
    assert "20.jpg" in (run / stage / "shards" / "00001.skipped.csv").read_text(encoding="utf-8")
    shutil.copyfile(sorted((shapes_folder / "train").rglob("*.jpg"))[17], photos / "17.jpg")
    assert luss.stage(stage, *strict, "--shard", "1").code == 0
    # Each shard is within the limit now, all together are not.
    whole = luss.stage(stage, *strict)
    assert whole.code == 2
    assert "shards 1, 3 of extract_features hold unreadable images: 2 of 60" in whole.output
    whole = luss.stage(stage, *arguments, "data.max_skipped_share=0.05")
    assert whole.code == 0, whole.output
    # The mended one was read, with a note: it has other bytes than when it was listed.
    assert skipped(run, stage) == ["20.jpg", "17.jpg", "50.jpg"]
    assert record(run, stage)["figures"]["skipped"] == 2


def test_a_note_that_its_maker_takes_away_meanwhile_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = tmp_path / "shards"
    notes.mkdir()
    for name, seconds in (("00000.json", 2.0), ("00001.progress.json", 3.0), ("00002.json", 4.0)):
        (notes / name).write_text(json.dumps({"seconds": seconds, "peak_memory_mb": 100 * seconds}), encoding="utf-8")

    def read_late(path: Path) -> Any:
        # The maker of shard 1 ends, after its note was listed.
        (notes / "00001.progress.json").unlink(missing_ok=True)
        return read_record(path)

    monkeypatch.setattr("stages.running.folder.read_record", read_late)
    assert work_of_shards(tmp_path) == (6.0, 400)
    (notes / "00000.json").write_text("{", encoding="utf-8")
    with pytest.raises(LussError, match="is not valid JSON"):
        work_of_shards(tmp_path)


def test_the_number_of_shards_needs_the_manifest(config: Path, tmp_path: Path) -> None:
    settings = load_config(config, [f"output={tmp_path}"])
    for stage in NUM_SHARDS:
        with pytest.raises(LussError, match=f"{stage} needs manifest, which is missing"):
            States(settings).num_shards(STAGES[stage])
    assert States(settings).num_shards(STAGES["pretrain"]) == 1


def test_a_split_that_is_evaluated_later_is_listed_once_by_whoever_comes_first(
    config: Path, before: Callable[[str], Path]
) -> None:
    run = before("predict")
    settings = load_config(config, [f"output={run}", "data.evaluate=[validation,test]", "predict.shard_size=6"])
    with ThreadPoolExecutor(4) as pool:
        counts = set(pool.map(lambda _: States(settings).num_shards(STAGES["predict"]), range(4)))
    assert counts == {8}
    assert sorted(path.stem for path in (run / "manifest" / "evaluated").glob("*.tsv")) == ["test", "validation"]
    assert States(settings).of(STAGES["manifest"]).kind == "done"


@pytest.mark.parametrize(
    ("stage", "arguments", "message"),
    [
        ("extract_features", ["--shard", "4"], "extract_features has no shard 4: its shards are 0 to 3"),
        ("extract_features", ["--shard=-1"], "extract_features has no shard -1: its shards are 0 to 3"),
        ("extract_features", ["--shard", "1", "--force"], "--force runs the whole stage anew: leave out --shard"),
        ("cluster", ["--shard", "0"], "unrecognized arguments: --shard"),
    ],
)
def test_a_shard_that_cannot_be_is_refused(
    luss: Launcher, config: Path, finished: Path, stage: str, arguments: list[str], message: str
) -> None:
    outcome = luss.stage(stage, *words(config, finished, *arguments))
    assert outcome.code == 2
    assert message in outcome.output


def test_a_shard_needs_the_stages_before_it(luss: Launcher, config: Path, before: Callable[[str], Path]) -> None:
    run = before("pixel_attention")
    outcome = luss.stage("extract_features", *words(config, run, "--shard", "0"))
    assert outcome.code == 2
    assert "extract_features needs pixel_attention, which is missing" in outcome.output
    assert not (run / "extract_features").exists()


def test_a_stage_without_shards_is_refused(finished: Path, config: Path) -> None:
    settings: RunSettings = load_config(config, [f"output={finished}"])
    with pytest.raises(LussError, match="cluster has no shards: the stages that have are extract_features"):
        run_shards(settings, STAGES["cluster"], [0])


def test_the_network_is_loaded_once_for_all_shards_of_a_process_and_not_at_all_to_join_them(
    config: Path, before: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, stage = before("extract_features"), STAGES["extract_features"]
    settings = load_config(config, [f"output={run}"])
    loaded: list[str] = []

    network = PixelAttentionStage.network

    def load(*arguments: Any) -> Any:
        loaded.append("once more")
        return network(*arguments)

    monkeypatch.setattr(PixelAttentionStage, "network", load)
    run_shards(settings, stage, [3, 1, 0])
    assert len(loaded) == 1
    run_shards(settings, stage, [2])
    assert len(loaded) == 2
    run_stages(settings, [stage])
    assert len(loaded) == 2


def test_the_names_of_all_masks_are_read_once_for_all_shards_of_a_process(
    config: Path, before: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def names(images: Any) -> MaskNames:
        read.append(len(images))
        return MaskNames(images)

    monkeypatch.setattr(masks, "MaskNames", names)
    run_shards(load_config(config, [f"output={before('predict')}"]), STAGES["predict"], [0, 2])
    assert read == [20]
