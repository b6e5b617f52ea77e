"""Codes with the queue against the published function's numbers, and the signs of collapse."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tiny_pass import at_step
from torch import Tensor

from luss.losses.swapped_prediction import swapped_prediction
from luss.methods.clustering import OnlineClustering
from luss.methods.health import (
    LINES,
    collapse_warning,
    effective_rank,
    normalised_entropy,
    plateau_epochs,
    plateau_warning,
)
from luss.settings import ClusteringSettings

GOLDEN = Path(__file__).parents[1] / "golden" / "pass_losses.npz"
BATCH = 6


@pytest.fixture(scope="module")
def golden() -> Iterator[Mapping[str, NDArray[Any]]]:
    with np.load(GOLDEN) as arrays:
        yield dict(arrays)


def golden_clustering(golden: Mapping[str, NDArray[Any]], topic: str | None = None) -> OnlineClustering:
    """The published prototypes, and the queue a topic starts from."""
    settings = ClusteringSettings(
        num_prototypes=10, embedding_dim=16, hidden_dim=4, queue_length=12, queue_start_epoch=15
    )
    clustering = OnlineClustering(8, settings, batch_size=BATCH)
    clustering.prototypes.weight.data.copy_(torch.from_numpy(golden["swav/prototypes"]))
    if topic is not None:
        queue = torch.from_numpy(golden[f"{topic}/queue_in"])
        clustering.queue.copy_(queue)
        clustering.queue_filled.fill_(int((queue[0] != 0).any(dim=1).sum()))
    return clustering


def golden_views(golden: Mapping[str, NDArray[Any]]) -> tuple[list[Tensor], list[Tensor]]:
    embeddings, scores = (torch.from_numpy(golden[f"swav/{name}"]) for name in ("embedding", "scores"))
    return list(torch.split(embeddings, BATCH)), list(torch.split(scores, BATCH))


def check(
    golden: Mapping[str, NDArray[Any]],
    topic: str,
    clustering: OnlineClustering,
    epoch: int,
    codes_topic: str | None = None,
) -> None:
    embeddings, scores = golden_views(golden)
    codes = clustering.codes(embeddings[:2], scores[:2], at_step(epoch=epoch))
    for view in (0, 1):
        np.testing.assert_allclose(codes[view], golden[f"{codes_topic or topic}/codes{view}"], rtol=1e-3, atol=1e-5)
    assert float(swapped_prediction(scores, codes)) == pytest.approx(float(golden[f"{topic}/loss"]), rel=1e-5)


def test_scores_are_those_of_the_published_function(golden: Mapping[str, NDArray[Any]]) -> None:
    scores = golden_clustering(golden).score(torch.from_numpy(golden["swav/embedding"]))
    np.testing.assert_allclose(scores.detach(), golden["swav/scores"], atol=1e-6)


def test_codes_without_a_queue_equal_the_published_ones(golden: Mapping[str, NDArray[Any]]) -> None:
    clustering = golden_clustering(golden)
    check(golden, "swav", clustering, epoch=0)
    assert not clustering.queue.any()
    assert int(clustering.queue_filled) == 0


def test_codes_with_a_full_queue_equal_the_published_ones(golden: Mapping[str, NDArray[Any]]) -> None:
    clustering = golden_clustering(golden, "swav_queue")
    check(golden, "swav_queue", clustering, epoch=15)
    np.testing.assert_array_equal(clustering.queue, golden["swav_queue/queue_out"])
    assert int(clustering.queue_filled) == 12


def test_a_queue_that_is_not_full_is_filled_but_not_used(golden: Mapping[str, NDArray[Any]]) -> None:
    clustering = golden_clustering(golden, "swav_queue_notfull")
    assert int(clustering.queue_filled) == 11
    check(golden, "swav_queue_notfull", clustering, epoch=15, codes_topic="swav")
    np.testing.assert_array_equal(clustering.queue, golden["swav_queue_notfull/queue_out"])
    assert int(clustering.queue_filled) == 12


def test_a_full_queue_is_left_alone_before_its_epoch(golden: Mapping[str, NDArray[Any]]) -> None:
    clustering = golden_clustering(golden, "swav_queue")
    check(golden, "swav", clustering, epoch=14)
    np.testing.assert_array_equal(clustering.queue, golden["swav_queue/queue_in"])


def test_evaluation_does_not_fill_the_queue(golden: Mapping[str, NDArray[Any]]) -> None:
    clustering = golden_clustering(golden, "swav_queue").eval()
    check(golden, "swav_queue", clustering, epoch=15)
    np.testing.assert_array_equal(clustering.queue, golden["swav_queue/queue_in"])


@pytest.mark.parametrize(("length", "batch_size", "expected"), [(2048, 256, 2048), (20, 6, 18), (5, 6, 0)])
def test_the_queue_is_rounded_down_to_whole_batches(length: int, batch_size: int, expected: int) -> None:
    settings = ClusteringSettings(num_prototypes=3, embedding_dim=4, hidden_dim=4, queue_length=length)
    assert OnlineClustering(4, settings, batch_size=batch_size).queue.shape == (2, expected, 4)


def test_a_queue_of_one_batch_holds_the_newest_batch() -> None:
    settings = ClusteringSettings(num_prototypes=3, embedding_dim=4, hidden_dim=4, queue_length=2, queue_start_epoch=0)
    clustering = OnlineClustering(4, settings, batch_size=2)
    for seed in range(3):
        batch = F.normalize(torch.randn(2, 2, 4, generator=torch.Generator().manual_seed(seed)), dim=2)
        clustering.codes(list(batch), [clustering.score(view) for view in batch], at_step())
        assert torch.equal(clustering.queue, batch)


def test_normalising_unit_prototypes_keeps_their_bits() -> None:
    clustering = OnlineClustering(4, ClusteringSettings(), batch_size=8)
    clustering.normalise_prototypes()
    once = clustering.prototypes.weight.detach().clone()
    torch.testing.assert_close(once.norm(dim=1), torch.ones(500))
    for _ in range(3):
        clustering.normalise_prototypes()
    assert torch.equal(clustering.prototypes.weight, once)


@pytest.mark.parametrize("length", [0.991, 0.9999, 1.0001, 1.009])
def test_prototypes_a_little_off_the_sphere_come_back_to_it(length: float) -> None:
    clustering = OnlineClustering(4, ClusteringSettings(), batch_size=8)
    clustering.normalise_prototypes()
    directions = clustering.prototypes.weight.detach().clone()
    with torch.no_grad():
        clustering.prototypes.weight.mul_(length)
    clustering.normalise_prototypes()
    torch.testing.assert_close(clustering.prototypes.weight.detach(), directions, atol=1e-6, rtol=0)


def test_scores_are_float32_where_the_network_computes_in_half_precision() -> None:
    clustering = OnlineClustering(4, ClusteringSettings(), batch_size=8)
    embeddings = F.normalize(torch.randn(8, 128, generator=torch.Generator().manual_seed(0)), dim=1)
    expected = clustering.score(embeddings)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert clustering.prototypes(embeddings).dtype == torch.bfloat16
        scores = clustering.score(embeddings)
    assert scores.dtype == torch.float32
    assert torch.equal(scores, expected)
    torch.testing.assert_close(clustering.score(embeddings.bfloat16()), expected, atol=5e-3, rtol=0)


def test_codes_are_balanced_over_the_embeddings_that_they_belong_to() -> None:
    settings = ClusteringSettings(
        num_prototypes=4, embedding_dim=8, hidden_dim=8, queue_length=0, sinkhorn_iterations=30
    )
    clustering = OnlineClustering(6, settings, batch_size=32)
    _, codes, _ = clustering.loss([torch.randn(64, 6)], at_step(), num_images=32)
    assert len(codes) == 2
    torch.testing.assert_close(codes[0].sum(dim=0), torch.full((4,), 8.0), rtol=0.1, atol=0)


def test_scalars_of_collapse_are_computed_only_when_they_are_read() -> None:
    clustering = OnlineClustering(6, ClusteringSettings(num_prototypes=5, queue_length=0), batch_size=8)
    vectors = [torch.randn(16, 6)]
    assert set(clustering.loss(vectors, at_step(log=False), num_images=8)[2]) == {"swav"}
    healthy = clustering.loss(vectors, at_step(log=True), num_images=8)[2]
    assert set(healthy) == {"swav", "code_entropy", "prediction_entropy", "used_prototypes", "feature_rank"}


@pytest.mark.parametrize(("collapsed", "rank", "used"), [(True, 1.0, 1 / 8), (False, 8.0, 1.0)])
def test_health_tells_collapsed_embeddings_from_spread_ones(collapsed: bool, rank: float, used: float) -> None:
    clustering = OnlineClustering(
        6, ClusteringSettings(num_prototypes=8, embedding_dim=8, queue_length=0), batch_size=8
    )
    clustering.prototypes.weight.data.copy_(torch.eye(8))
    embeddings = torch.eye(8)[:1].expand(8, 8) if collapsed else torch.eye(8)
    scores = clustering.score(embeddings).detach()
    health = clustering.health(embeddings, scores, F.softmax(scores / 0.01, dim=1))
    assert float(health["feature_rank"]) == pytest.approx(rank, abs=1e-3)
    assert float(health["used_prototypes"]) == pytest.approx(used)
    assert float(health["code_entropy"]) == pytest.approx(0.0 if collapsed else 1.0, abs=1e-3)


def test_effective_rank_counts_equal_directions() -> None:
    directions = torch.cat([torch.eye(5)[:3]] * 4)
    assert float(effective_rank(directions)) == pytest.approx(3, abs=1e-4)


def test_effective_rank_of_embeddings_that_are_not_finite_is_nan_and_no_error() -> None:
    assert torch.isnan(effective_rank(torch.full((3, 3), float("nan"))))


def test_entropy_is_that_of_the_mean_row() -> None:
    assert float(normalised_entropy(torch.eye(4))) == pytest.approx(1, abs=1e-5)
    assert float(normalised_entropy(torch.eye(4)[:1].repeat(4, 1))) == pytest.approx(0, abs=1e-5)
    assert float(normalised_entropy(torch.eye(4)[:2])) == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize(
    "line", [{"feature_rank": 1.1, "used_prototypes": 0.9}, {"feature_rank": 30.0, "used_prototypes": 0.02}]
)
def test_a_collapse_is_warned_of_with_advice(line: Mapping[str, float]) -> None:
    assert not collapse_warning([line] * (LINES - 1))
    warning = collapse_warning([line] * LINES)
    assert "collapsed" in warning
    assert "pretrain.lr" in warning


def test_healthy_scalars_and_other_tasks_are_not_warned_of() -> None:
    assert not collapse_warning([{"feature_rank": 30.0, "used_prototypes": 0.4}] * 30)
    assert not collapse_warning([{"loss": 1.0}] * 30)


def test_one_good_line_among_the_newest_is_no_collapse() -> None:
    bad, good = {"feature_rank": 1.0}, {"feature_rank": 20.0}
    assert not collapse_warning([*[bad] * 7, good, *[bad] * 4])
    assert collapse_warning([good, *[bad] * LINES])


def clustering_log(*losses: float, steps_per_epoch: int = 30) -> list[dict[str, float]]:
    """A line an epoch with a clustering loss each."""
    return [{"epoch": epoch, "step": epoch * steps_per_epoch, "swav": loss} for epoch, loss in enumerate(losses)]


PLATEAU = float(np.log(500))


def test_many_epochs_at_the_logarithm_of_the_prototypes_are_counted_and_warned_of_with_remedies() -> None:
    log = clustering_log(9.0, 8.0, *[PLATEAU - 0.004, PLATEAU + 0.01] * 20)
    assert plateau_epochs(log, 500) == 39
    warning = plateau_warning(log, 500)
    assert "ln(500) = 6.21 for 39 epochs" in warning
    remedies = (
        "draw_prototypes_steps",
        "pretrain.method.clustering.embedding_dim",
        "pretrain.method.global_views.scale",
    )
    assert [word for word in remedies if word not in warning] == []


@pytest.mark.parametrize(
    "log",
    [
        [],
        [{"loss": PLATEAU}] * 99,
        clustering_log(*[PLATEAU] * 10),
        clustering_log(*[PLATEAU] * 40, steps_per_epoch=2),
        clustering_log(*[PLATEAU] * 40, 0.98 * PLATEAU),
        clustering_log(*[PLATEAU] * 40, 0.9 * PLATEAU, *[PLATEAU] * 5),
        clustering_log(*[0.99 * PLATEAU] * 40),
    ],
    ids=["nothing", "another loss", "few epochs", "few steps", "left at last", "came back", "below it"],
)
def test_a_training_that_has_left_the_plateau_or_was_short_there_is_not_warned_of(log: list[dict[str, float]]) -> None:
    assert plateau_epochs(log, 500) == 0
    assert plateau_warning(log, 500) == ""
