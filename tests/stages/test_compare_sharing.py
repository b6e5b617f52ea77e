"""What one run of a comparison has made, others take over: the same bytes, and independent from then on."""

import hashlib
import shutil
from pathlib import Path

import pytest
from running import results

from luss.config import load_config
from luss.data.skipped import SkippedFiles
from luss.files import read_json, write_json
from luss.labels.layers import Edits
from luss.labels.store import LabelStore
from luss.settings import RunSettings
from stages.comparing.sharing import take_over
from stages.pipeline import ATTENTION, CLUSTERS, FINETUNE, LABELS, MANIFEST, PRETRAIN, PROTOCOLS
from stages.running.runner import run_stages
from stages.running.state import States

STAGES = PROTOCOLS["unsupervised"].stages


class Pair:
    """A finished run, and the settings of another beside it that would make the same."""

    def __init__(self, finished: Path, config: Path, folder: Path) -> None:
        self.one, self.two, self.config = folder / "one", folder / "two", config
        shutil.copytree(finished, self.one)
        self.run = self.settings()

    def settings(self, *words: str) -> RunSettings:
        """Those of the second run."""
        return load_config(self.config, [*words, f"output={self.two}"])

    def take(self, *stages: object) -> None:
        """Takes stages over."""
        for stage in stages or STAGES:
            assert take_over(self.run, stage) == "one", stage  # type: ignore[arg-type]


@pytest.fixture
def pair(finished: Path, config: Path, tmp_path: Path) -> Pair:
    return Pair(finished, config, tmp_path)


def files(folder: Path) -> dict[str, str]:
    """Every file below a folder, by its content."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_a_run_that_takes_everything_over_is_the_other_run(pair: Pair) -> None:
    pair.take()
    assert results(pair.two) == results(pair.one)
    assert {States(pair.run).of(stage).kind for stage in STAGES} == {"done"}
    assert States(pair.run).done(PRETRAIN)["taken_from"] == "one"
    assert load_config(pair.two / "pretrain" / "config.yaml").output == str(pair.two)
    # No second copy of what nobody writes into; a second one of what a stage would append to.
    for name, same in (
        ("pretrain/backbone.safetensors", True),
        ("predict/masks", True),
        ("pretrain/metrics.jsonl", False),
    ):
        one, two = (
            next(path for path in (run / name, *(run / name).rglob("*.png")) if path.is_file())
            for run in (pair.one, pair.two)
        )
        assert one.samefile(two) == same, name
    # Nothing is left to do, and nothing to take.
    assert take_over(pair.run, PRETRAIN) is None


def test_a_stage_that_is_made_anew_in_one_run_leaves_the_other_as_it_was(pair: Pair) -> None:
    SkippedFiles(pair.one / "manifest" / "skipped.csv").add(Path("early.jpg"), "listed before")
    pair.take(*STAGES[: STAGES.index(LABELS) + 1])
    before = files(pair.one)
    run_stages(pair.settings("cluster.num_restarts=1"), [CLUSTERS], force=CLUSTERS.name)
    SkippedFiles(pair.two / "manifest" / "skipped.csv").add(Path("late.jpg"), "listed later")
    LabelStore.open(pair.two / "pseudo_labels" / "labels").layers.add(Edits(drop=(1,)))
    for name in ("pretrain", "manifest"):
        shutil.rmtree(pair.two / name)
    assert files(pair.one) == before


def test_edits_of_labels_stay_with_the_run_that_was_edited(pair: Pair) -> None:
    LabelStore.open(pair.one / "pseudo_labels" / "labels").layers.add(Edits(drop=(1,)))
    pair.take(*STAGES[: STAGES.index(LABELS) + 1])
    assert LabelStore.open(pair.two / "pseudo_labels" / "labels").layers.current_number() == 0
    # What was learned from the labels before they were edited is of neither.
    assert take_over(pair.run, FINETUNE) is None


def test_what_was_made_otherwise_or_from_something_else_is_not_taken(pair: Pair) -> None:
    pair.take(MANIFEST)
    for words in ("seed=1", "pretrain.lr=0.5", "data.max_pixels=1000"):
        assert take_over(pair.settings(words), PRETRAIN) is None
    # Needs that are not done, and needs of the same settings that were made another time.
    assert take_over(pair.run, CLUSTERS) is None
    pair.take(PRETRAIN)
    done = pair.two / "pretrain" / "DONE.json"
    write_json(done, {**read_json(done), "id": "made another time"})
    assert take_over(pair.run, ATTENTION) is None


def test_a_damaged_or_unfinished_stage_is_not_taken(pair: Pair) -> None:
    pair.take(MANIFEST)
    weights = pair.one / "pretrain" / "backbone.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1])
    assert take_over(pair.run, PRETRAIN) is None
    weights.write_bytes(content)
    (pair.one / "pretrain" / "DONE.json").rename(pair.one / "pretrain" / "STARTED.json")
    assert take_over(pair.run, PRETRAIN) is None
    assert not (pair.two / "pretrain").exists()


def test_a_stale_result_is_moved_aside_and_one_that_has_begun_goes_on(pair: Pair) -> None:
    pair.take(MANIFEST, PRETRAIN)
    (pair.two / "pretrain" / "method.json").unlink()
    assert States(pair.run).of(PRETRAIN).kind == "stale"
    pair.take(PRETRAIN)
    assert len(list(pair.two.glob("superseded/pretrain-*"))) == 1
    (pair.two / "pretrain" / "DONE.json").rename(pair.two / "pretrain" / "STARTED.json")
    assert States(pair.run).of(PRETRAIN).kind == "partial"
    assert take_over(pair.run, PRETRAIN) is None
