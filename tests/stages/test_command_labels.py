"""`luss labels` on a finished run: layers, their history, what later stages make of them, bad input, kills and full disks."""

import hashlib
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from running import Fault, Launcher, Outcome, losses

from luss.labels.store import LabelStore
from stages.cli import main
from stages.pipeline import FINETUNE

Command = Callable[..., Outcome]


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A finished run to edit."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs `luss` in this process: a start costs more than these commands."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words: str) -> Outcome:
        code = main(words)
        return Outcome(code, "".join(capsys.readouterr()))

    return call


def stored(run: Path) -> dict[str, str]:
    folder = run / "pseudo_labels" / "labels"
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.h5")}


def test_threshold_merges_drops_and_names_come_from_the_command_line(here: Command, run: Path, tmp_path: Path) -> None:
    before = stored(run)
    names = tmp_path / "names.json"
    names.write_text('{"3": "dog", "4": "dog"}')
    outcome = here("labels", str(run), "--threshold", "0.3", "--merge", "7,2", "--drop", "5,6", "--names", str(names))
    assert outcome.code == 0, outcome.output
    assert "clusters 3 and 4 have the same name 'dog' and stay 2 clusters" in outcome.output
    assert "layer 1 is the current one" in outcome.output
    store = LabelStore.open(run)
    assert (store.threshold, store.layer.merged, store.layer.dropped) == (0.3, {7: 2}, (5, 6))
    assert store.names == {3: "dog", 4: "dog"}
    assert stored(run) == before


def test_the_file_of_the_report_applies_names_merges_and_drops_once(here: Command, run: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.json"
    names.write_text('{"names": {"3": "dog"}, "merge": [[3, 7]], "drop": [5]}')
    assert here("labels", str(run), "--names", str(names)).code == 0
    again = here("labels", str(run), "--names", str(names))
    assert "nothing changes" in again.output
    store = LabelStore.open(run)
    assert (store.layers.numbers(), store.names, store.layer.merged, store.layer.dropped) == (
        [1],
        {3: "dog"},
        {7: 3},
        (5,),
    )


def test_undo_goes_back_one_edit_and_use_to_any(here: Command, run: Path) -> None:
    here("labels", str(run), "--drop", "1")
    here("labels", str(run), "--drop", "2")
    assert here("labels", str(run), "--undo").code == 0
    assert LabelStore.open(run).layer.dropped == (1,)
    assert "as stored again" in here("labels", str(run), "--use", "0").output
    assert "nothing to undo" in here("labels", str(run), "--undo").output
    assert here("labels", str(run), "--use", "2").code == 0
    assert LabelStore.open(run).layer.dropped == (1, 2)


def test_the_history_and_the_edited_clusters_are_shown(here: Command, run: Path) -> None:
    here("labels", str(run), "--merge", "2,8", "--threshold", "0.25")
    here("labels", str(run), "--drop", "5")
    shown = here("labels", str(run), "--show").output
    assert "8 of 10 clusters in use, threshold 0.25 (given), layer 2" in shown
    for expected in ("2 (current)", "threshold 0.25; merge 2,8", "drop 5", "with 8", "is 2", "background"):
        assert expected in shown
    assert LabelStore.open(run).layer.number == 2


def test_fine_tuning_runs_anew_on_edited_labels_and_says_why(
    luss: Launcher, run: Path, config: Path, finished: Path
) -> None:
    outcome = luss("labels", str(run), "--drop", "1,2,3", "--merge", "4,5,6,7")
    assert "fine-tuning and what follows will run anew" in outcome.output
    assert "the labels were edited: layer 1" in " ".join(luss("status", str(run)).output.split())
    trained = luss("run", str(config), f"output={run}", "--until", "finetune")
    assert trained.code == 0, trained.output
    assert "finetune: runs anew (the labels were edited: layer 1)" in trained.output
    assert losses(run / "finetune") != losses(finished / "finetune")
    record, before = (json.loads((folder / "finetune" / "DONE.json").read_text()) for folder in (run, finished))
    assert record["extra"] == LabelStore.open(run).layer.identity
    assert record["fingerprint"] != before["fingerprint"]
    # The pseudo labels themselves were not made again.
    assert "pseudo_labels: done" in trained.output
    assert "the labels were edited: they are as stored again" in FINETUNE.extra_identity(finished)[1]
    luss("labels", str(run), "--use", "0")
    assert "they are as stored again" in " ".join(luss("status", str(run)).output.split())


def test_names_alone_make_nothing_stale(here: Command, run: Path, tmp_path: Path) -> None:
    (tmp_path / "names.json").write_text('{"1": "dog"}')
    here("labels", str(run), "--names", str(tmp_path / "names.json"))
    assert LabelStore.open(run).names == {1: "dog"}
    assert "stale" not in here("status", str(run)).output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--merge", "3,44"], "cannot merge cluster 44: clusters have the ids 1 to 10"),
        (["--merge", "3,x"], "--merge 3,x is not a list of cluster ids"),
        (["--merge", "3"], "cannot merge 3: give two clusters"),
        (["--drop", "0"], "cannot drop 0: it is the background"),
        (["--merge", "3,4", "--drop", "4"], "cannot merge cluster 4: it is dropped"),
        (["--threshold", "1.2"], "the threshold is 1.2"),
        (["--names", "NAMES"], "cannot name cluster 99: clusters have the ids 1 to 10"),
        (["--names", "nowhere.json"], "nowhere.json does not exist"),
        (["--use", "3"], "there is no layer 3"),
        (["--drop", "3", "--undo"], "stand alone"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(
    here: Command, finished: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    (tmp_path / "names.json").write_text('{"99": "dog"}')
    words = [str(tmp_path / "names.json") if word == "NAMES" else word for word in words]
    outcome = here("labels", str(finished), *words)
    assert outcome.code == 2
    assert message in outcome.output
    assert "Traceback" not in outcome.output
    assert not (finished / "pseudo_labels" / "labels" / "layers").exists()


def test_a_run_without_labels_is_refused(here: Command, tmp_path: Path) -> None:
    outcome = here("labels", str(tmp_path), "--drop", "1")
    assert (outcome.code, "pseudo_labels is not done" in outcome.output) == (2, True)


@pytest.mark.parametrize("place", ["layers/001.json", "layers/current"])
def test_a_kill_leaves_the_labels_as_they_were_and_the_command_works_again(
    luss: Launcher, run: Path, place: str
) -> None:
    assert luss("labels", str(run), "--drop", "4", fault=Fault("os.rename", place)).code == -signal.SIGKILL
    assert LabelStore.open(run).layer.number == 0
    assert luss("labels", str(run), "--drop", "4").code == 0
    assert LabelStore.open(run).layer.dropped == (4,)


def test_a_full_disk_is_said_and_leaves_the_labels_as_they_were(luss: Launcher, run: Path) -> None:
    outcome = luss("labels", str(run), "--drop", "4", fault=Fault("os.rename", "layers/001.json", signal=None))
    assert (outcome.code, "is full" in outcome.output) == (2, True)
    assert LabelStore.open(run).layer.number == 0
    assert luss("labels", str(run), "--drop", "4").code == 0
    assert LabelStore.open(run).layer.dropped == (4,)
