"""Stages as objects: rounds made of the same classes, and how often a look at a run computes what it shows."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from running import ORDER

from luss.config import load_config
from stages import pipeline
from stages.base import Stage, fingerprint, in_order
from stages.cluster import Cluster
from stages.commands.status import main as status
from stages.evaluate import Evaluate
from stages.extract_features import ExtractFeatures
from stages.finetune import Finetune
from stages.pipeline import FINETUNE, MANIFEST, STAGES
from stages.pixel_attention import PixelAttentionStage
from stages.predict import Predict
from stages.pseudo_labels import PseudoLabelsStage
from stages.running.results import settings_of_run
from stages.running.state import States
from stages.sharded import cut

# A second round, as `stages/pipeline.py` would have it.
ATTENTION = PixelAttentionStage("pixel_attention_2", lambda run: run.pixel_attention, MANIFEST, FINETUNE)
FEATURES = ExtractFeatures("extract_features_2", lambda run: run.extract_features, MANIFEST, ATTENTION)
CLUSTERS = Cluster("cluster_2", lambda run: run.cluster, MANIFEST, FEATURES)
LABELS = PseudoLabelsStage("pseudo_labels_2", lambda run: run.pseudo_labels, MANIFEST, ATTENTION, CLUSTERS)
TUNED = Finetune("finetune_2", lambda run: run.finetune, MANIFEST, start_from=FINETUNE, learn_from=LABELS)
MASKS = Predict("predict_2", lambda run: run.predict, MANIFEST, TUNED)
LAST = Evaluate("evaluate_2", lambda run: run.evaluate, MASKS, protocol="unsupervised")


def test_a_second_round_comes_after_the_first_which_it_starts_from() -> None:
    second = ["pixel_attention", "extract_features", "cluster", "pseudo_labels", "finetune", "predict", "evaluate"]
    first = ORDER[: ORDER.index("finetune") + 1]
    assert [stage.name for stage in in_order([LAST])] == [*first, *(f"{name}_2" for name in second)]


def test_a_second_round_has_identities_of_its_own_and_follows_every_change_of_the_first(config: Path) -> None:
    before, after, other = (
        load_config(config, words) for words in ([], ["cluster.num_restarts=3"], ["predict.short_side=40"])
    )
    known: dict[str, str] = {}
    fingerprint(LAST, before, known)
    assert len(set(known.values())) == len(known) == 14
    changed = {stage.name for stage in in_order([LAST]) if fingerprint(stage, before) != fingerprint(stage, after)}
    assert changed == {name for name in known if "_2" in name} | {"cluster", "pseudo_labels", "finetune"}
    changed = {stage.name for stage in in_order([LAST]) if fingerprint(stage, before) != fingerprint(stage, other)}
    assert changed == {"predict_2", "evaluate_2"}


def test_the_state_of_a_round_is_found_as_that_of_any_stage(config: Path, finished: Path) -> None:
    states = States(load_config(config, [f"output={finished}"]))
    assert states.of(FINETUNE).kind == "done"
    assert states.of(LAST).kind == "missing"
    assert states.num_shards(LABELS) == 4
    assert states.missing_shards(MASKS) == [0, 1, 2]


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the settings of each stage are found: once for its state, once for its fingerprint."""
    counts: Counter[str] = Counter()
    for kind in {type(stage) for stage in STAGES.values()}:

        def settings(self: Stage[Any], run: Any, of: Any = kind.settings) -> dict[str, Any]:
            counts[self.name] += 1
            return dict(of(self, run))

        if "settings" in vars(kind):
            monkeypatch.setattr(kind, "settings", settings)
    plain = Stage.settings

    def settings_of_others(self: Stage[Any], run: Any) -> dict[str, Any]:
        if "settings" not in vars(type(self)):
            counts[self.name] += 1
        return plain(self, run)

    monkeypatch.setattr(Stage, "settings", settings_of_others)
    return counts


def test_status_finds_the_state_of_every_stage_once(finished: Path, computed: Counter[str]) -> None:
    from argparse import Namespace

    status(Namespace(run=finished))
    assert computed == dict.fromkeys(ORDER, 1)


def test_a_default_that_was_another_in_an_earlier_version_makes_nothing_stale(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    for path in (run / "run.yaml", *run.glob("*/config.yaml")):
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("max_pixels: 200000000", "max_pixels: 300000000"), encoding="utf-8")
    states = States(settings_of_run(run))
    assert states.run.data.max_pixels == 300_000_000
    assert states.of(FINETUNE).kind == "done", states.of(FINETUNE)


def test_one_look_finds_every_fingerprint_once(config: Path, finished: Path, computed: Counter[str]) -> None:
    states = States(load_config(config, [f"output={finished}"]))
    found = {stage: states.fingerprint(stage) for stage in pipeline.STAGES.values()}
    # The manifest's also when it is looked at for the number of images.
    assert computed == {**dict.fromkeys(STAGES, 1), "manifest": 2}
    assert found == {stage: fingerprint(stage, states.run) for stage in found}


@pytest.mark.parametrize(("count", "size", "expected"), [(0, 4, 0), (4, 4, 1), (9, 4, 3), (3, 10, 1)])
def test_shards_cover_every_image_once(count: int, size: int, expected: int) -> None:
    ranges = cut(count, size)
    assert [index for images in ranges for index in images] == list(range(count))
    assert len(ranges) == expected
    assert all(0 < len(images) <= size for images in ranges)
