"""`luss compare`, whole: killed and continued, with a cell that fails, as jobs, and with a budget of time."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from running import Fault, Launcher, results

from luss.config import load_config
from luss.errors import LussError
from luss.files import read_json
from luss.progress import Interrupted, StopFlag
from stages.cli import main
from stages.comparing import budget, running
from stages.comparing.budget import measure, speed_key
from stages.comparing.grid import Grid, check_cells, read_grid
from stages.comparing.record import Record
from stages.comparing.running import Comparison
from stages.jobs.plan import Order

ROOT = Path(__file__).parents[2]
MADE = ("manifest", "pretrain", "pixel_attention", "extract_features", "cluster")


def begun(finished: Path, folder: Path, *cells: str, stages: tuple[str, ...] = MADE) -> Path:
    """A comparison's folder in which some cells have the stages of a finished run."""
    for cell in cells:
        for stage in stages:
            shutil.copytree(finished / stage, folder / cell / stage)
    return folder


def test_a_comparison_that_was_killed_continues_and_ends_as_runs_of_their_own_do(
    luss: Launcher, config: Path, finished: Path, tmp_path: Path
) -> None:
    folder = begun(finished, tmp_path / "compared", "num_clusters10")
    command = ("compare", str(config), "cluster.num_clusters=[10,8]", f"output={folder}", "--until", "cluster")
    # When what was taken over is about to get its name, and when the first own stage is about to be done.
    for path, there in (
        ("num_clusters8/pretrain", "manifest"),
        ("num_clusters8/cluster/DONE.json", "extract_features"),
    ):
        assert luss(*command, fault=Fault("os.rename", path)).code == -9
        assert (folder / "num_clusters8" / there / "DONE.json").is_file()
    outcome = luss(*command)
    assert outcome.code == 0, outcome.output
    assert "num_clusters8" in outcome.output
    assert not list(folder.rglob("*.partial"))
    alone = begun(finished, tmp_path, "alone", stages=MADE[:-1]) / "alone"
    assert luss.stage("cluster", str(config), "cluster.num_clusters=8", f"output={alone}").code == 0
    assert results(folder / "num_clusters8") == results(alone)
    kept = {name: value for name, value in results(folder / "num_clusters10").items() if value}
    assert kept.items() <= results(finished).items()
    rows = read_json(folder / "table.json")["rows"]
    for row, cell in zip(rows, ("num_clusters10", "num_clusters8"), strict=True):
        assert row["values"]["nmi"]["mean"] == pytest.approx(
            100 * read_json(folder / cell / "cluster" / "cluster.json")["nmi"]
        )
    assert rows[0]["values"]["one_nn"] == rows[1]["values"]["one_nn"]
    assert (folder / "compare.html").is_file()
    # A value more adds a run and keeps the others; the dry run says so before, and changes nothing.
    more = [word.replace("10,8", "10,8,6") for word in command]
    told = luss(*more, "--dry-run").output
    assert re.search(r"num_clusters6 +│ 0 of 5 +│ cluster +│ manifest to", told)
    before = {
        cell: (folder / cell / "cluster" / "DONE.json").read_bytes() for cell in ("num_clusters10", "num_clusters8")
    }
    # As jobs, in this process.
    outcome = luss(*more, "--submit", "--cluster", "debug")
    assert outcome.code == 0, outcome.output
    assert {cell: (folder / cell / "cluster" / "DONE.json").read_bytes() for cell in before} == before
    assert len(read_json(folder / "table.json")["rows"]) == 3
    outcome = luss("status", str(folder))
    assert re.search(r"num_clusters6 +│ 5 of 9 +│ pseudo_labels missing", outcome.output)


def test_a_cell_that_fails_is_listed_and_does_not_stop_the_others(
    luss: Launcher, config: Path, finished: Path, tmp_path: Path
) -> None:
    folder = begun(finished, tmp_path / "compared", "num_clusters10", "num_clusters9", stages=MADE[:-1])
    shard = next((folder / "num_clusters10" / "extract_features" / "features").glob("shard-*.npy"))
    sound = shard.read_bytes()
    shard.write_bytes(bytes(len(sound)))
    command = ("compare", str(config), "cluster.num_clusters=[10,9]", f"output={folder}", "--until", "cluster")
    outcome = luss(*command)
    assert outcome.code == 1
    assert "num_clusters10: failed: " in outcome.output
    assert (folder / "num_clusters9" / "cluster" / "DONE.json").is_file()
    table = read_json(folder / "table.json")
    assert [row["cells"][0]["state"] for row in table["rows"]] == ["failed", "done"]
    assert shard.name in table["rows"][0]["cells"][0]["reason"]
    assert "nmi" not in table["rows"][0]["values"]
    assert "nmi" in table["rows"][1]["values"]
    assert "failed: " in luss("status", str(folder)).output
    # Mended, it is a cell like the others.
    shard.write_bytes(sound)
    outcome = luss(*command)
    assert outcome.code == 0, outcome.output
    assert read_json(folder / "compare.json")["errors"] == {}


@pytest.fixture
def grid(config: Path, finished: Path, tmp_path: Path) -> Callable[..., Grid]:
    """Makes grids whose cells have the images of a finished run listed, but nothing more."""

    def make(*words: str) -> Grid:
        found = read_grid(config, [*words, f"output={tmp_path / 'compared'}"])
        begun(finished, found.folder, *(cell.name for cell in found.cells), stages=("manifest",))
        return found

    return make


def comparison(grid: Grid, minutes: float | None = None) -> Comparison:
    record = Record(grid.name, "luss compare", budget_minutes=minutes)
    return Comparison(grid, record, "pretrain", Console(quiet=True))


def test_a_budget_of_time_becomes_epochs_of_the_same_number_for_every_seed_and_is_kept(
    grid: Callable[..., Grid], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []

    def fake(run: Any, minutes: float, folder: Path, stop: StopFlag) -> dict[str, Any]:
        measured.append(run.name)
        return {"images_per_second": 1.0, "epochs": 10 * len(measured), "minutes": minutes, "machine": "here"}

    monkeypatch.setattr(running, "measure", fake)
    made = grid("pretrain.batch_size=[20,30]", "seed=[0,1]", "name=x")
    made.cells[3].run.pretrain.epochs = 0
    compared = comparison(made, 5.0)
    compared.apply_budget(dry=True)
    assert measured == []
    compared.apply_budget()
    assert measured == ["x-batch_size20-seed0", "x-batch_size30-seed0"]
    # An untrained network stays one.
    assert [cell.run.pretrain.epochs for cell in made.cells] == [10, 20, 10, 0]
    compared.apply_budget()
    assert len(measured) == 2
    assert read_json(made.folder / "compare.json")["speeds"] == compared.record.speeds


def test_the_speed_of_a_pretraining_is_measured_without_a_trace_in_the_run(
    grid: Callable[..., Grid], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "_LEAST", 0.1)
    run = grid("seed=[0,1]").cells[0].run
    folder, stop = Path(run.output).parent, StopFlag()
    before = sorted(folder.rglob("*"))
    found = measure(run, 0.05, folder, stop)
    assert sorted(folder.rglob("*")) == before
    assert not stop
    assert run.pretrain.epochs == 2
    # 60 images, batches of 20.
    assert found["epochs"] == max(1, round(3 * found["images_per_second"] / 60))
    assert found["minutes"] == pytest.approx(found["epochs"] * 60 / found["images_per_second"] / 60, abs=0.01)
    assert measure(run, 1e-6, folder, stop)["epochs"] == 1
    stop.set("SIGTERM received")
    with pytest.raises(Interrupted, match="SIGTERM"):
        measure(run, 0.05, folder, stop)
    assert sorted(folder.rglob("*")) == before


def test_seed_and_length_do_not_change_how_fast_a_pretraining_is(config: Path) -> None:
    key = speed_key(load_config(config))
    assert speed_key(load_config(config, ["seed=3", "pretrain.epochs=9", "cluster.num_clusters=3"])) == key
    assert speed_key(load_config(config, ["pretrain.method=simclr"])) != key


def test_a_pretraining_that_is_submitted_already_is_waited_for(
    grid: Callable[..., Grid], monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted: list[str] = []
    monkeypatch.setattr(running, "submit", lambda order, tell: submitted.append(order.run.name))
    told: list[tuple[str, str]] = []
    made = grid("cluster.num_clusters=[10,8]", "seed=[0,1]", "name=x")

    def order(run: Any) -> Order:
        return Order(run, "slurm", "again")

    comparison(made).submit(order, lambda name, text: told.append((name, text)))
    assert submitted == ["x-num_clusters10-seed0", "x-num_clusters10-seed1"]
    assert [name for name, _ in told] == ["num_clusters8-seed0", "num_clusters8-seed1"]
    assert told[0][1].startswith("waits for the pretraining of num_clusters10-seed0, which is the same")


def test_what_the_number_of_images_forbids_is_told_of_every_cell_before_any_trains(grid: Callable[..., Grid]) -> None:
    made = grid("cluster.num_clusters=[10,61,62]", "pretrain.method.clustering.queue_length=0")
    compared = Comparison(made, Record("x", ""), None, Console(quiet=True))
    with pytest.raises(LussError) as error:
        compared.prepare()
    assert str(error.value).splitlines() == [
        "num_clusters61: cluster.num_clusters is 61, but there are 60 images",
        "num_clusters61: sizes that they fill, to type: cluster.num_clusters=30",
        "num_clusters62: cluster.num_clusters is 62, but there are 60 images",
        "num_clusters62: sizes that they fill, to type: cluster.num_clusters=31",
    ]


def test_what_can_be_known_of_the_cells_is_told_of_all_before_any_works(grid: Callable[..., Grid]) -> None:
    made = grid("pretrain.backbone.name=[test_resnet,resnat18,resnut18]")
    with pytest.raises(LussError) as error:
        check_cells(made, None, Console(quiet=True))
    assert [line.partition(":")[0] for line in str(error.value).splitlines()] == ["resnat18", "resnut18"]
    with pytest.raises(LussError, match=r"^there is no stage 'cook'"):
        check_cells(made, "cook", Console(quiet=True))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--budget-minutes", "0"), "--budget-minutes is 0: it must be more than 0"),
        (("--budget-minutes", "2", "--submit"), "--budget-minutes measures this machine, and jobs work elsewhere"),
        (("--budget-minutes", "2", "pretrain.epochs=[2,3]"), "pretrain.epochs is what --budget-minutes finds"),
        (("--submit",), "SLURM is not here: submit from a login node, or use --cluster local"),
        (("--partition", "gpu"), "--partition is for jobs: add --submit"),
        (("pretrain.epoch=3",), "did you mean 'pretrain.epochs'"),
    ],
)
def test_a_command_that_cannot_be_meant_is_refused_and_nothing_is_made(
    config: Path,
    tmp_path: Path,
    words: tuple[str, ...],
    told: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stages.jobs.launch.has_slurm", lambda: False)
    assert main(["compare", str(config), "seed=[0,1]", f"output={tmp_path / 'x'}", *words]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_the_examples_of_the_help_are_grids(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    lines = re.findall(r"^  luss compare (.*?)(?:  |$)", capsys.readouterr().out, re.M)
    assert len(lines) == 3
    for line in lines:
        words = [word for word in line.split() if "=" in word or word.startswith("[")]
        assert len(read_grid(Path(line.split()[0]), [*words, "data.root=shapes"]).cells) > 2
