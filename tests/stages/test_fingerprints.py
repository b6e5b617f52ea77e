"""What makes a result stale: which settings the fingerprint of which stage hangs on."""

from pathlib import Path
from typing import get_args

import pytest
from running import ORDER

from luss.config import load_config
from luss.methods.pass_s import PassSSettings
from luss.settings import MaskSettings, PretrainSettings, ViewSettings
from luss.settings.fields import changing_settings
from luss.settings.run import Protocol
from stages.base import fingerprint
from stages.pipeline import PROTOCOLS, STAGES

SEMI = ("semi_finetune", "semi_predict", "semi_evaluate")


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    path = tmp_path / "trial.yaml"
    path.write_text("name: trial\ndata: {root: photos}\n", encoding="utf-8")
    return path


def test_only_values_that_differ_from_their_defaults_change_a_result() -> None:
    assert changing_settings(PretrainSettings()) == {"method.name": "pass_s"}
    method = PassSSettings(grid_size=3)
    method.clustering.num_prototypes = 7
    changed = PretrainSettings(epochs=3, method=method)
    assert changing_settings(changed) == {
        "epochs": 3,
        "method.name": "pass_s",
        "method.clustering.num_prototypes": 7,
        "method.grid_size": 3,
    }


def test_a_block_that_there_may_be_changes_a_result_by_being_there() -> None:
    assert changing_settings(ViewSettings(mask=MaskSettings())) == {"mask": True}


def test_where_and_how_fast_something_is_computed_changes_no_result() -> None:
    settings = PretrainSettings(workers=9, log_every=3, checkpoint_minutes=1.0, compile=True)
    assert changing_settings(settings) == changing_settings(PretrainSettings())


def identities(path: Path, *words: str) -> dict[str, str]:
    run = load_config(path, words)
    return {name: fingerprint(stage, run) for name, stage in STAGES.items()}


@pytest.mark.parametrize(
    "word",
    [
        "device=cpu", "output=elsewhere", "pretrain.workers=7", "pretrain.epochs=20", "extract_features.batch_size=3", "name=other",
        "cluster.chunk_size=17", "data.max_skipped_share=0.5", "protocols=[semi_supervised]",
    ],
)  # fmt: skip
def test_a_setting_that_cannot_change_a_result_leaves_every_fingerprint(minimal: Path, word: str) -> None:
    assert identities(minimal, word) == identities(minimal)


@pytest.mark.parametrize(
    ("word", "first"),
    [
        ("data.root=other", "manifest"), ("seed=1", "pretrain"), ("pretrain.epochs=21", "pretrain"),
        ("pretrain.method.clustering.epsilon=0.03", "pretrain"), ("pretrain.method=swav", "pretrain"),
        ("pixel_attention.shared=true", "pixel_attention"),
        ("extract_features.dtype=float16", "extract_features"), ("cluster.num_clusters=51", "cluster"),
        ("pseudo_labels.threshold=0.5", "pseudo_labels"), ("finetune.scale=[0.1, 1.0]", "finetune"),
        ("data.evaluate=[test]", "predict"), ("evaluate.matching=identity", "evaluate"),
    ],
)  # fmt: skip
def test_a_setting_changes_the_fingerprint_of_its_stage_and_of_all_later_ones(
    minimal: Path, word: str, first: str
) -> None:
    before, after = identities(minimal), identities(minimal, word)
    changed = [name for name in ORDER if before[name] != after[name]]
    assert changed == ORDER[ORDER.index(first) :]


@pytest.mark.parametrize(
    ("word", "changed"),
    [
        ("pretrain.epochs=21", {"distance_matching", *SEMI}),
        ("pixel_attention.shared=true", set()),
        ("finetune.epochs=3", set()),
        ("distance_matching.temperature=0.1", {"distance_matching"}),
        ("data.evaluate=[test]", {"distance_matching", "semi_predict", "semi_evaluate"}),
        ("semi_finetune.epochs=3", set(SEMI)),
        ("semi_predict.short_side=96", {"semi_predict", "semi_evaluate"}),
    ],
)
def test_the_other_protocols_depend_on_the_pretraining_and_on_their_own_settings(
    minimal: Path, word: str, changed: set[str]
) -> None:
    before, after = identities(minimal), identities(minimal, word)
    others = set(STAGES) - set(ORDER)
    assert {name for name in others if before[name] != after[name]} == changed


def test_every_protocol_that_can_be_named_has_stages_that_hold_all_that_they_need() -> None:
    assert set(PROTOCOLS) == set(get_args(Protocol))
    for protocol in PROTOCOLS.values():
        for place, stage in enumerate(protocol.stages):
            assert set(stage.needs) <= set(protocol.stages[:place])
    assert {stage.name for protocol in PROTOCOLS.values() for stage in protocol.stages} == set(STAGES)
