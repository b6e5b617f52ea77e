"""The most similar vectors of a bank, by either engine."""

import importlib
import importlib.util
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from luss.clustering import neighbours
from luss.clustering.neighbours import Neighbours, leave_one_out_accuracy
from luss.errors import LussError

ENGINES = [("faiss", "cpu"), ("torch", "cpu"), *([("torch", "cuda")] if torch.cuda.is_available() else [])]


def numbers(num_rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num_rows, 6)).astype(np.float32)


@pytest.mark.parametrize(("engine", "device"), ENGINES)
def test_the_largest_inner_products_come_first_with_their_rows(engine: str, device: str) -> None:
    rows, queries = numbers(300, 0), numbers(2500, 1)
    values, places = Neighbours(rows, engine=engine, device=device).nearest(torch.from_numpy(queries).to(device), 4)
    products = queries.astype(np.float64) @ rows.astype(np.float64).T
    expected = np.argsort(-products, axis=1)[:, :4]
    np.testing.assert_array_equal(places.cpu().numpy(), expected)
    np.testing.assert_allclose(values.cpu().numpy(), np.take_along_axis(products, expected, axis=1), atol=1e-5)
    assert places.dtype == torch.int64


@pytest.mark.parametrize(("engine", "device"), ENGINES)
def test_a_bank_smaller_than_the_wanted_number_gives_all_it_has(engine: str, device: str) -> None:
    values, places = Neighbours(numbers(3, 0), engine=engine, device=device).nearest(
        torch.ones(2, 6, device=device), 10
    )
    assert values.shape == (2, 3)
    assert sorted(places[0].tolist()) == [0, 1, 2]


def test_without_faiss_auto_takes_torch_and_faiss_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Neighbours(numbers(3, 0)).engine == "faiss"
    find, load = importlib.util.find_spec, importlib.import_module

    def no_spec(name: str, *rest: Any) -> Any:
        return None if name == "faiss" else find(name, *rest)

    def no_module(name: str, *rest: Any) -> Any:
        if name == "faiss":
            raise ImportError(name)
        return load(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", no_spec)
    monkeypatch.setattr(importlib, "import_module", no_module)
    bank = Neighbours(numbers(3, 0))
    assert bank.engine == "torch"
    assert bank.nearest(torch.ones(1, 6), 1)[1].shape == (1, 1)
    with pytest.raises(LussError, match="install luss"):
        Neighbours(numbers(3, 0), engine="faiss")


def test_what_cannot_be_searched_is_refused() -> None:
    with pytest.raises(LussError, match="choose one of"):
        Neighbours(numbers(3, 0), engine="annoy")  # type: ignore[arg-type]
    with pytest.raises(LussError, match="works on the CPU"):
        Neighbours(numbers(3, 0), engine="faiss", device="cuda:0")
    with pytest.raises(LussError, match="without vectors"):
        Neighbours(numbers(0, 0))


class Rows:
    """Vectors in memory as a feature store gives them."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows, self.dim = rows, rows.shape[1]

    def __len__(self) -> int:
        return len(self.rows)

    def chunks(self, chunk_size: int, start: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        for first in range(start, len(self.rows), chunk_size):
            yield first, self.rows[first : first + chunk_size]

    def gather(self, indices: np.ndarray) -> np.ndarray:
        return self.rows[indices]


def naive_accuracy(rows: np.ndarray, labels: np.ndarray, asked: Iterable[int]) -> float:
    """One image after the other, in double precision."""
    right = total = 0
    for query in asked:
        if labels[query] < 0 or not rows[query].any():
            continue
        best, found = -np.inf, -1
        for other in range(len(rows)):
            if other == query or labels[other] < 0 or not rows[other].any():
                continue
            cosine = rows[query] @ rows[other] / np.linalg.norm(rows[query]) / np.linalg.norm(rows[other])
            if cosine > best:
                best, found = cosine, other
        total += 1
        right += labels[found] == labels[query]
    return right / total


@pytest.mark.parametrize(("engine", "device"), ENGINES)
@pytest.mark.parametrize("chunk", [7, 1000])
def test_leave_one_out_accuracy_is_that_of_a_loop_over_all_pairs_in_chunks_of_any_size(
    engine: str, device: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "_CHUNK", chunk)
    rows, labels = numbers(60, 2) * np.arange(1, 61, dtype=np.float32)[:, None], np.arange(60) % 3
    # Images that could not be read, one without a category, and one that is there twice.
    rows[[5, 6]], labels[9], rows[20] = 0, -1, rows[41]
    found = leave_one_out_accuracy(Rows(rows), labels, engine=engine, device=device)
    assert found == pytest.approx(naive_accuracy(rows.astype(np.float64), labels, range(60)), abs=1e-12)
    assert 0 < found < 1


def test_leave_one_out_asks_evenly_spaced_images_where_there_are_many_and_compares_them_with_all() -> None:
    rows, labels = numbers(100, 3), np.arange(100) % 2
    found = leave_one_out_accuracy(Rows(rows), labels, max_queries=4)
    assert found == pytest.approx(naive_accuracy(rows.astype(np.float64), labels, (0, 33, 66, 99)))


@pytest.mark.parametrize(
    ("rows", "labels", "words"),
    [
        (numbers(3, 0), np.zeros(2, int), "2 labels do not fit 3 vectors"),
        (numbers(2, 0), np.array([0, -1]), "fewer than two images"),
        (np.zeros((3, 6), np.float32), np.zeros(3, int), "fewer than two images"),
    ],
)
def test_leave_one_out_accuracy_needs_two_vectors_with_labels(rows: np.ndarray, labels: np.ndarray, words: str) -> None:
    with pytest.raises(LussError, match=words):
        leave_one_out_accuracy(Rows(rows), labels)
