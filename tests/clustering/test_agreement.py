import itertools

import numpy as np
import pytest

from luss.clustering.agreement import clustering_accuracy, normalized_mutual_information
from luss.errors import LussError


def test_renamed_clusters_agree_fully() -> None:
    labels = np.random.default_rng(0).integers(0, 5, 200)
    renamed = np.array([40, 7, 300, 2, 9])[labels]
    assert clustering_accuracy(renamed, labels) == 1.0
    assert normalized_mutual_information(renamed, labels) == pytest.approx(1.0)


@pytest.mark.parametrize(("num_clusters", "num_categories"), [(4, 4), (5, 3), (3, 5)])
def test_accuracy_is_that_of_the_best_of_all_matchings(num_clusters: int, num_categories: int) -> None:
    random = np.random.default_rng(1)
    labels = random.integers(0, num_categories, 120)
    clusters = np.where(random.random(120) < 0.6, labels % num_clusters, random.integers(0, num_clusters, 120))
    size = max(num_clusters, num_categories)
    best = max((np.array(names)[clusters] == labels).mean() for names in itertools.permutations(range(size), size))
    assert clustering_accuracy(clusters, labels) == pytest.approx(best)


def test_a_greedy_matching_would_be_worse() -> None:
    clusters = np.repeat([0, 0, 1, 1], [10, 9, 9, 0])
    labels = np.repeat([0, 1, 0, 1], [10, 9, 9, 0])
    assert clustering_accuracy(clusters, labels) == pytest.approx(18 / 28)


def test_independent_clusters_share_no_information() -> None:
    labels, clusters = (grid.ravel() for grid in np.meshgrid(np.arange(6), np.arange(4)))
    assert normalized_mutual_information(clusters, labels) == pytest.approx(0.0, abs=1e-12)


def test_information_is_over_the_mean_entropy() -> None:
    clusters, labels = np.array([0, 0, 1, 1]), np.array([0, 1, 2, 3])
    assert normalized_mutual_information(clusters, labels) == pytest.approx(np.log(2) / ((np.log(2) + np.log(4)) / 2))


@pytest.mark.parametrize("measure", [clustering_accuracy, normalized_mutual_information])
def test_different_lengths_and_no_labels_are_refused(measure) -> None:
    with pytest.raises(LussError, match="3 assignments do not fit 2 labels"):
        measure(np.zeros(3, dtype=int), np.zeros(2, dtype=int))
    with pytest.raises(LussError, match="no labelled images"):
        measure(np.zeros(0, dtype=int), np.zeros(0, dtype=int))
