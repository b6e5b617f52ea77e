"""The engines' arithmetic against naive loops, and what happens when faiss is absent."""

import importlib
import importlib.util
from typing import Any

import numpy as np
import pytest
import torch

from luss.clustering.engine import Engine, sum_by_cluster
from luss.clustering.faiss_engine import FaissEngine
from luss.clustering.kmeans import kmeans
from luss.clustering.torch_engine import TorchEngine, one_hot_sums
from luss.errors import LussError

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
ENGINES = [FaissEngine, *(lambda device=device: TorchEngine(device) for device in DEVICES)]


@pytest.fixture(params=ENGINES, ids=["faiss", *DEVICES])
def engine(request: pytest.FixtureRequest) -> Engine:
    return request.param()


def numbers(num_rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num_rows, 6)).astype(np.float32)


def test_the_nearest_centroid_is_the_naive_one(engine: Engine) -> None:
    rows, centroids = numbers(2500, 0), numbers(30, 1)
    expected = ((rows[:, None].astype(np.float64) - centroids) ** 2).sum(2)
    clusters, distances = engine.assign(engine.place(rows), centroids)
    np.testing.assert_array_equal(clusters, expected.argmin(1))
    np.testing.assert_allclose(distances, expected.min(1), atol=1e-5)


def test_a_row_on_its_centroid_has_no_negative_distance(engine: Engine) -> None:
    rows = numbers(1000, 0) * 100
    _, distances = engine.assign(engine.place(rows), rows[:300])
    assert distances.min() >= 0


def test_sums_are_those_of_a_loop(engine: Engine) -> None:
    rows = numbers(9000, 0)
    clusters = np.random.default_rng(2).integers(0, 20, 9000)
    clusters[clusters == 7] = 8
    expected = np.stack([rows[clusters == cluster].sum(0, dtype=np.float64) for cluster in range(20)])
    sums = engine.sums(engine.place(rows), clusters, 20)
    assert sums.dtype == np.float64
    np.testing.assert_allclose(sums, expected, atol=1e-3)
    assert not sums[7].any()


def test_the_same_question_gives_the_same_bits(engine: Engine) -> None:
    rows, centroids = numbers(5000, 0), numbers(40, 1)
    answers = []
    for _ in range(3):
        placed = engine.place(rows)
        clusters, distances = engine.assign(placed, centroids)
        answers.append(distances.tobytes() + engine.sums(placed, clusters, 40).tobytes())
    assert len(set(answers)) == 1


def test_sums_on_the_cpu_do_not_lose_small_rows_beside_large_ones() -> None:
    rows = np.full((10_000, 1), 0.1, dtype=np.float32)
    rows[0] = 1e7
    total = sum_by_cluster(rows, np.zeros(10_000, dtype=np.int64), 1)
    np.testing.assert_allclose(total, rows.sum(dtype=np.float64), rtol=1e-12)


def test_sums_by_products_are_those_by_the_sparse_matrix() -> None:
    rows, clusters = numbers(1000, 0), np.random.default_rng(2).integers(0, 20, 1000)
    sums = one_hot_sums(torch.from_numpy(rows), torch.from_numpy(clusters), 25, block_size=300)
    np.testing.assert_allclose(sums, sum_by_cluster(rows, clusters, 25), atol=1e-4)


def test_products_stay_in_float32_whatever_training_has_set(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_float32_matmul_precision()
    during = []
    product = torch.addmm

    def watched(*args: Any) -> torch.Tensor:
        during.append(torch.get_float32_matmul_precision())
        return product(*args)

    monkeypatch.setattr(torch, "addmm", watched)
    try:
        torch.set_float32_matmul_precision("medium")
        engine = TorchEngine("cpu")
        engine.assign(engine.place(numbers(10, 0)), numbers(3, 1))
        assert during == ["highest"]
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


class Ten:
    """Ten rows."""

    dim = 6

    def __len__(self) -> int:
        return 10

    def chunks(self, chunk_size: int, start: int = 0) -> Any:
        if start == 0:
            yield 0, numbers(10, 0)

    def gather(self, indices: np.ndarray) -> np.ndarray:
        return numbers(10, 0)[indices]


def test_without_faiss_the_error_names_both_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    hide_faiss(monkeypatch)
    with pytest.raises(LussError, match=r"luss\[cpu\].*luss\[gpu\].*torch engine"):
        kmeans(Ten(), 2, engine="faiss")


def test_without_faiss_auto_takes_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kmeans(Ten(), 2).engine == "faiss"
    hide_faiss(monkeypatch)
    assert kmeans(Ten(), 2).engine == "torch"


def hide_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    load, find = importlib.import_module, importlib.util.find_spec

    def failing(name: str, package: str | None = None) -> Any:
        if name == "faiss":
            raise ModuleNotFoundError("No module named 'faiss'")
        return load(name, package)

    monkeypatch.setattr(importlib, "import_module", failing)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "faiss" else find(name))
