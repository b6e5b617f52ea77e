"""Learners without prototypes, and one that reads labels, through every stage."""

from pathlib import Path

import pytest
from running import Launcher

from luss.files import read_json

_VIEW = "{count: 1, size: 32, scale: [0.3, 1.0]}"


@pytest.mark.slow
def test_a_learner_without_prototypes_goes_through_every_stage(luss: Launcher, config: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "byol.yaml"
    method = f"{{name: byol, first_view: {_VIEW}, second_view: {_VIEW}, hidden_dim: 32, embedding_dim: 16}}"
    overlay.write_text(f"pretrain: {{method: {method}}}\n", encoding="utf-8")
    outcome = luss("run", str(config), str(overlay), f"output={tmp_path / 'run'}")
    assert outcome.code == 0, outcome.output
    # The attention trains a clustering head of its own, and says so.
    assert read_json(tmp_path / "run" / "pretrain" / "method.json")["clustering"] is None
    assert "clustering head" in outcome.output
    assert 0 <= read_json(tmp_path / "run" / "evaluate" / "metrics.json")["splits"]["validation"]["miou"] <= 100


@pytest.mark.slow
def test_every_result_of_a_supervised_pretraining_says_that_labels_were_used(
    luss: Launcher, config: Path, tmp_path: Path
) -> None:
    overlay = tmp_path / "supervised.yaml"
    method = f"{{name: supervised, global_views: {_VIEW}}}"
    overlay.write_text(f"pretrain: {{method: {method}}}\n", encoding="utf-8")
    outcome = luss("run", str(config), str(overlay), f"output={tmp_path / 'run'}")
    assert outcome.code == 0, outcome.output
    assert "pretrained with image labels" in " ".join(outcome.output.split())


def test_images_without_categories_are_refused_before_any_is_read(
    luss: Launcher, config: Path, shapes_folder: Path, tmp_path: Path
) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for index, image in enumerate(sorted((shapes_folder / "train").rglob("*.jpg"))[:3]):
        (flat / f"{index}.jpg").write_bytes(image.read_bytes())
    words = ("pretrain.method=supervised", f"data.root={flat}", f"output={tmp_path / 'run'}")
    outcome = luss("run", str(config), *words)
    assert outcome.code == 2
    assert "not sorted into a folder a category" in " ".join(outcome.output.split())
