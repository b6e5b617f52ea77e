"""Runs whose files are damaged, cannot be opened, or lie where nothing can be written: a sentence with the remedy, and nothing is lost."""

import errno
import json
import os
import resource
import shutil
from pathlib import Path

import pytest
from running import Fault, Launcher, copy_until

from luss.config import load_config, load_run_config, to_yaml
from luss.errors import LussError
from luss.files import read_json, temporary_beside
from stages.cli import main
from stages.pipeline import STAGES
from stages.running import process, products
from stages.running.runner import run_stages, select
from stages.running.state import States

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def flip(path: Path, place: float = 0.5) -> None:
    """Turns one bit over; the size stays."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(content)


def said(capsys: Capture) -> str:
    """What was printed since the last look, on one line."""
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).replace("\u2502", " ").split())


RECORDS = ["[]", "{}", "null", "3", "", "{", '{"version": "2"}']


@pytest.mark.parametrize("content", RECORDS)
@pytest.mark.parametrize("name", ["DONE.json", "STARTED.json"])
def test_a_damaged_record_is_told_with_the_remedy_and_nothing_is_moved_aside(
    run: Path, config: Path, capsys: Capture, name: str, content: str
) -> None:
    (run / "evaluate" / "DONE.json").unlink()
    (run / "evaluate" / name).write_text(content, encoding="utf-8")
    assert main(["status", str(run)]) == 0
    assert "stale" in said(capsys)
    settings = load_config(config, [f"output={run}"])
    with pytest.raises(LussError, match=rf"evaluate/{name} is .*: .*luss run CONFIG --force evaluate"):
        run_stages(settings, [STAGES["evaluate"]])
    assert not (run / "superseded").exists()


def test_the_remedy_for_a_damaged_record_works_and_keeps_the_old_result(run: Path, config: Path) -> None:
    (run / "evaluate" / "DONE.json").write_text("[]", encoding="utf-8")
    run_stages(load_config(config, [f"output={run}"]), [STAGES["evaluate"]], force="evaluate")
    assert json.loads((run / "evaluate" / "DONE.json").read_text(encoding="utf-8"))["id"]
    assert len(list((run / "superseded").glob("evaluate-*"))) == 1


@pytest.mark.parametrize("entry", ["figures", "products", "inputs"])
def test_a_record_with_an_entry_of_another_kind_is_damaged(run: Path, capsys: Capture, entry: str) -> None:
    path = run / "manifest" / "DONE.json"
    path.write_text(json.dumps(read_json(path) | {entry: []}), encoding="utf-8")
    assert main(["status", str(run)]) == 0
    assert f"is damaged ({entry} is a list, not an object)" in said(capsys)


@pytest.mark.parametrize("content", ["{}", "{"])
def test_a_damaged_note_of_given_weights_is_found_as_any_product_is(
    run: Path, config: Path, capsys: Capture, content: str
) -> None:
    given = copy_until(run, run.parent / "given", "pixel_attention")
    words = [f"output={run}", "pretrain.epochs=0", f"pretrain.weights={given}"]
    run_stages(load_config(config, words), [STAGES["pretrain"]])
    (run / "pretrain" / "given.json").write_text(content, encoding="utf-8")
    assert main(["status", str(run)]) == 0
    assert "its product given.json has changed size" in said(capsys)
    assert list(products.damaged(run / "pretrain")) == ["given.json"]
    run_stages(load_config(config, words), [STAGES["pretrain"]], force="pretrain")
    assert read_json(run / "pretrain" / "given.json")["files"]


@pytest.mark.parametrize("content", ["", "a: ["])
def test_settings_that_cannot_be_read_are_taken_from_the_next_stage_that_has_them(
    run: Path, capsys: Capture, content: str
) -> None:
    for path in (run / "run.yaml", run / "evaluate" / "config.yaml"):
        path.write_text(content, encoding="utf-8")
    assert main(["status", str(run)]) == 0
    for path in run.glob("*/config.yaml"):
        path.write_text(content, encoding="utf-8")
    capsys.readouterr()
    for words in (
        ["status", str(run)],
        ["report", str(run)],
        ["export", str(run), "--format", "png", "--out", str(run / "x")],
    ):
        assert main(words) == 2
        assert f"copy the configuration that it was started with to {run / 'run.yaml'}" in said(capsys)


def test_the_settings_of_a_copy_whose_times_mean_nothing_are_those_of_the_last_stage(run: Path) -> None:
    (run / "run.yaml").unlink()
    settings = load_run_config(run, list(STAGES))
    settings.cluster.num_restarts = 7
    (run / "evaluate" / "config.yaml").write_text(to_yaml(settings), encoding="utf-8")
    for place, path in enumerate([run / "evaluate" / "config.yaml", run / "pretrain" / "config.yaml"]):
        os.utime(path, (place, place))
    assert load_run_config(run, list(STAGES)).cluster.num_restarts == 7


def test_the_settings_of_a_run_are_those_that_a_stage_was_last_started_with(run: Path, config: Path) -> None:
    run_stages(load_config(config, [f"output={run}", "evaluate.workers=2"]), [STAGES["evaluate"]], force="evaluate")
    assert load_run_config(run, list(STAGES)).evaluate.workers == 2
    # An early stage that begins anew after all others.
    settings = load_config(config, [f"output={run}", "data.verify=full"])
    run_stages(settings, [STAGES["manifest"]])
    assert load_run_config(run, list(STAGES)).data.verify == "full"


PRODUCTS = [
    ("pretrain", "backbone.safetensors"),
    ("pixel_attention", "attention.safetensors"),
    ("extract_features", "features/shard-00001.npy"),
    ("cluster", "centroids.npy"),
    ("cluster", "assignments.npy"),
    ("pseudo_labels", "labels/shard-00002.h5"),
    ("pseudo_labels", "labels/labels.h5"),
    ("finetune", "model.safetensors"),
    ("evaluate", "metrics.json"),
]


def test_a_bit_that_turned_over_in_any_product_is_found_and_named_with_the_remedy(run: Path, capsys: Capture) -> None:
    assert main(["verify", str(run)]) == 0
    assert "damaged" not in said(capsys)
    for stage, name in PRODUCTS:
        flip(run / stage / name)
    flip(next((run / "predict" / "masks").rglob("*.png")))
    with pytest.raises(SystemExit) as caught:
        main(["verify", str(run)])
    assert caught.value.code == 1
    text = said(capsys)
    for stage, name in [*PRODUCTS, ("predict", "masks/validation")]:
        assert f"{run / stage / name} is damaged" in text
        assert f"luss run CONFIG --force {stage}" in text
    assert (run / "cluster" / "centroids.npy").is_file()


@pytest.mark.parametrize("damage", ["lost", "renamed"])
def test_a_mask_that_is_lost_or_has_another_name_is_found(run: Path, capsys: Capture, damage: str) -> None:
    mask = next((run / "predict" / "masks").rglob("*.png"))
    mask.unlink() if damage == "lost" else mask.rename(mask.with_name("other.png"))
    with pytest.raises(SystemExit):
        main(["verify", str(run), "--stage", "predict"])
    assert "predict/masks/validation is damaged" in said(capsys)


def test_a_stage_does_not_read_a_damaged_product_and_names_the_stage_that_made_it(run: Path, config: Path) -> None:
    flip(run / "cluster" / "centroids.npy", 0.9)
    settings = load_config(config, [f"output={run}"])
    with pytest.raises(LussError, match=r"cluster/centroids\.npy is damaged: .*luss run CONFIG --force cluster"):
        run_stages(settings, [STAGES["pseudo_labels"]], force="pseudo_labels")
    assert (run / "pseudo_labels" / "DONE.json").is_file()


@pytest.mark.parametrize(
    ("format", "product"), [("png", "pseudo_labels/labels/shard-00000.h5"), ("timm", "pretrain/backbone.safetensors")]
)
def test_nothing_is_exported_from_a_damaged_product(
    run: Path, tmp_path: Path, capsys: Capture, format: str, product: str
) -> None:
    flip(run / product, 0.9)
    assert main(["export", str(run), "--format", format, "--out", str(tmp_path / "out")]) == 2
    assert f"{run / product} is damaged" in said(capsys)


def test_a_result_of_an_earlier_version_without_checksums_stays_valid(run: Path, config: Path, capsys: Capture) -> None:
    for path in run.glob("*/DONE.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        del record["checksums"]
        path.write_text(json.dumps(record), encoding="utf-8")
    settings = load_config(config, [f"output={run}"])
    assert {States(settings).of(stage).kind for stage in select(settings)} == {"done"}
    assert main(["verify", str(run)]) == 0
    assert "no checksums: of an earlier version" in said(capsys)


def test_where_nothing_is_to_be_done_no_product_is_read_and_otherwise_each_once(
    run: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, read = load_config(config, [f"output={run}"]), list[Path]()
    monkeypatch.setattr(products, "_SOUND", {})
    whole = products.checksum
    monkeypatch.setattr(products, "checksum", lambda path: (read.append(path), whole(path))[1])
    run_stages(settings, select(settings))
    assert not read
    run_stages(settings, [STAGES["evaluate"]], force="evaluate")
    run_stages(settings, [STAGES["evaluate"]], force="evaluate")
    assert sorted(path.name for path in read) == ["clusters-validation.png", "masks.json"]


def test_products_beyond_what_is_read_in_passing_are_left_to_verify(run: Path) -> None:
    flip(run / "pseudo_labels" / "labels" / "shard-00000.h5")
    products.require_sound(run, ["pseudo_labels"], most_bytes=100)
    with pytest.raises(LussError, match="damaged"):
        products.require_sound(run, ["pseudo_labels"])


def test_a_run_that_cannot_be_written_can_be_looked_at(luss: Launcher, run: Path, config: Path, tmp_path: Path) -> None:
    readonly = Fault("writing", str(run), refusal=errno.EROFS)
    # Between shards, where more than records is looked at.
    (run / "predict" / "DONE.json").rename(run / "predict" / "STARTED.json")
    outcome = luss("status", str(run), fault=readonly)
    assert outcome.code == 0, outcome.output
    assert "0 of 3" in outcome.output
    outcome = luss("report", str(run), "--out", str(tmp_path / "page"), "--clusters", "1", fault=readonly)
    assert outcome.code == 0, outcome.output
    for words in (["run", str(config), f"output={run}"], ["report", str(run)]):
        outcome = luss(*words, fault=readonly)
        assert outcome.code == 2
        assert "its disk is read-only: make it writable, or give another place" in outcome.output
        assert "Traceback" not in outcome.output


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP])
def test_a_run_works_where_there_are_no_hard_links(luss: Launcher, config: Path, tmp_path: Path, number: int) -> None:
    words = ["run", str(config), f"output={tmp_path / 'run'}", "--until", "manifest"]
    outcome = luss(*words, fault=Fault("os.link", "", refusal=number))
    assert outcome.code == 0, outcome.output
    assert sorted(path.name for path in (tmp_path / "run").iterdir() if path.name != "run.yaml") == ["manifest"]


def test_too_few_files_for_the_loader_workers_are_refused_before_they_would_be_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    allowed: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: allowed.append(limits))
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (40, 40))
    with pytest.raises(
        LussError, match=r"pretrain\.workers=2 may have 64 files open, .* may have 40: .*`ulimit -n 64`"
    ):
        process.allow_open_files("pretrain", 2)
    process.allow_open_files("pretrain", 0)
    assert not allowed
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (40, 4096))
    process.allow_open_files("pretrain", 2)
    assert allowed == [(4096, 4096)]


def test_what_killed_processes_left_in_a_run_is_removed_by_the_next(
    luss: Launcher, run: Path, config: Path, tmp_path: Path
) -> None:
    killed = copy_until(run, tmp_path / "killed", "pretrain")
    # Killed when everything was done but for clearing up.
    fault = Fault("os.rename", "evaluated/validation.json")
    assert (
        luss("run", str(config), f"output={killed}", "data.verify=full", "--until", "manifest", fault=fault).code == -9
    )
    left = next(path for path in killed.rglob(".*.partial"))
    dead = left.name.split(".")[-2]
    places = [run, run / "jobs", run / "evaluate", run / "report"]
    for place in places:
        place.mkdir(exist_ok=True)
        (place / f".x.{dead}.partial").write_text("half")
    own = temporary_beside(run / "x")
    own.touch()
    for name in ("checkpoints/step-000000001.pt", "shards/00000.json", "progress.json"):
        (run / "evaluate" / name).parent.mkdir(exist_ok=True)
        (run / "evaluate" / name).write_text("{}")
    settings = load_config(config, [f"output={run}"])
    run_stages(settings, select(settings))
    assert list(run.rglob("*.partial")) == [own]
    found = {path.name for path in (run / "evaluate").iterdir()}
    assert found == {"DONE.json", "config.yaml", "log", "metrics.json"}


def test_a_lock_of_a_shard_that_is_a_folder_is_named(run: Path, config: Path) -> None:
    (run / ".lock.predict.shard-00000").mkdir()
    settings = load_config(config, [f"output={run}"])
    with pytest.raises(LussError, match=r"\.lock\.predict\.shard-00000 cannot be made .*: move away"):
        run_stages(settings, [STAGES["predict"]], force="predict")


@pytest.mark.parametrize(
    "content", ["[]", '{"splits": []}', '{"splits": {"validation": {"miou": "3"}}}', '{"splits": {"validation": 3}}']
)
def test_damaged_metrics_are_named(run: Path, content: str) -> None:
    from stages.parts.metrics import read_metrics

    (run / "evaluate" / "metrics.json").write_text(content, encoding="utf-8")
    with pytest.raises(LussError, match=r"evaluate/metrics\.json is damaged .*--force evaluate"):
        read_metrics(run / "evaluate" / "metrics.json")
