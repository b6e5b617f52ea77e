"""The bank of mean features and the neighbours' vote, against loops written from the protocol's definition."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from luss.benchmark.distance_matching import Bank, bank_of_image, vote_shares
from luss.clustering.neighbours import Neighbours
from luss.errors import LussError

GOLDEN = Path(__file__).parents[1] / "golden" / "distance_matching_knn.npz"


def naive_votes(rows: np.ndarray, ids: np.ndarray, query: np.ndarray, num_classes: int) -> np.ndarray:
    """Ten nearest by cosine, each adding exp(cosine / 0.07) to its category; in float64."""
    query = query.astype(np.float64) / np.linalg.norm(query.astype(np.float64))
    cosines = [float(row.astype(np.float64) @ query / np.linalg.norm(row.astype(np.float64))) for row in rows]
    votes = np.zeros(num_classes + 1)
    for place in sorted(range(len(rows)), key=lambda place: -cosines[place])[:10]:
        votes[ids[place]] += math.exp(cosines[place] / 0.07)
    return votes


@pytest.mark.parametrize("engine", ["faiss", "torch"])
def test_the_vote_on_the_golden_features_is_that_of_the_definition(engine: str) -> None:
    with np.load(GOLDEN, allow_pickle=False) as golden:
        rows, ids, queries = golden["train_features"], golden["train_labels"].astype(np.int64), golden["test_features"]
    bank = Neighbours(F.normalize(torch.from_numpy(rows), dim=1).numpy(), engine=engine)
    cosines, places = bank.nearest(F.normalize(torch.from_numpy(queries), dim=1), 10)
    shares = vote_shares(cosines, torch.from_numpy(ids)[places], num_classes=5, temperature=0.07).numpy()
    expected = np.stack([naive_votes(rows, ids, query, 5) for query in queries])
    np.testing.assert_allclose(shares, expected / expected.sum(axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_array_equal(shares.argmax(axis=1), expected.argmax(axis=1))
    assert len(set(shares.argmax(axis=1))) == 6


def test_votes_for_one_category_are_added_up() -> None:
    # Alone the first neighbour would win; the other two together outweigh it.
    shares = vote_shares(torch.tensor([[0.9, 0.88, 0.88]]), torch.tensor([[3, 1, 1]]), num_classes=3, temperature=0.07)
    weights = np.exp(np.array([0.9, 0.88, 0.88]) / 0.07)
    expected = [0, weights[1:].sum() / weights.sum(), 0, weights[0] / weights.sum()]
    np.testing.assert_allclose(shares[0].numpy(), expected, atol=1e-6)
    assert int(shares.argmax()) == 1


def test_a_small_temperature_does_not_overflow() -> None:
    shares = vote_shares(torch.tensor([[1.0, 0.5]]), torch.tensor([[0, 2]]), num_classes=2, temperature=1e-4)
    np.testing.assert_allclose(shares[0].numpy(), [1, 0, 0], atol=1e-6)


def test_an_image_gives_the_mean_direction_of_each_category_background_included_and_ignored_left_out() -> None:
    generator = np.random.default_rng(0)
    # Long and short features: they are averaged as they are, so the long ones decide the direction.
    features = (generator.standard_normal((5, 4, 6)) * generator.uniform(0.1, 9, (1, 4, 6))).astype(np.float32)
    ids = generator.choice(np.array([0, 2, 7, 300, 1000], np.uint16), (4, 6))
    bank = bank_of_image(torch.from_numpy(features), ids)
    assert bank.ids.tolist() == sorted(set(ids.ravel().tolist()) - {1000})
    assert bank.ids.dtype == np.uint16
    for category, vector in zip(bank.ids, bank.vectors, strict=True):
        mean = np.mean([features[:, y, x] for y in range(4) for x in range(6) if ids[y, x] == category], axis=0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)


def test_an_image_whose_mask_counts_nowhere_gives_nothing() -> None:
    bank = bank_of_image(torch.ones(5, 2, 2), np.full((2, 2), 1000, np.uint16))
    assert len(bank) == 0
    assert bank.vectors.shape == (0, 5)


def test_a_bank_comes_back_from_its_file_and_parts_join_in_order(tmp_path: Path) -> None:
    parts = [Bank(np.array([i, i + 300], np.uint16), np.full((2, 3), i, np.float32)) for i in range(3)]
    Bank.join(parts).save(tmp_path / "bank.npz")
    found = Bank.load(tmp_path / "bank.npz")
    assert found.ids.tolist() == [0, 300, 1, 301, 2, 302]
    np.testing.assert_array_equal(found.vectors[:, 0], [0, 0, 1, 1, 2, 2])
    assert [path.name for path in tmp_path.iterdir()] == ["bank.npz"]


def test_a_damaged_or_absent_bank_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "bank.npz"
    with pytest.raises(LussError, match=r"bank\.npz does not exist"):
        Bank.load(path)
    path.write_bytes(b"PK but no archive")
    with pytest.raises(LussError, match=r"bank\.npz is damaged"):
        Bank.load(path)
