"""A pretraining whose representation collapses says so while it runs, and what usually helps."""

from pathlib import Path

import pytest
from running import Launcher, losses


@pytest.mark.parametrize(("embedding_dim", "num_warnings"), [(1, 1), (32, 0)])
def test_a_pretraining_that_collapses_warns_once_with_remedies(
    tmp_path: Path, luss: Launcher, config: Path, embedding_dim: int, num_warnings: int
) -> None:
    # Embeddings of one number are all the same direction, whatever the network learns: rank 1 from the first step.
    words = (
        f"output={tmp_path / 'run'}",
        "pretrain.epochs=4",
        f"pretrain.method.clustering.embedding_dim={embedding_dim}",
    )
    outcome = luss("run", str(config), *words, "--until", "pretrain")
    assert outcome.code == 0, outcome.output
    ranks = [line["feature_rank"] for line in losses(tmp_path / "run" / "pretrain")]
    assert len(ranks) == 12, "too few log lines for a warning"
    assert all(rank < 2 for rank in ranks) == (num_warnings > 0)
    warnings = [line for line in outcome.output.splitlines() if "collapsed" in line]
    assert len(warnings) == num_warnings, outcome.output
    remedies = ("pretrain.lr", "freeze_prototypes_steps", "prototypes", "larger batch or queue", "epsilon")
    for warning in warnings:
        assert warning.startswith("warning: the representation seems to have collapsed (feature rank 1.0")
        assert [word for word in remedies if word not in warning] == []
