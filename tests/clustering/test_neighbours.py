"""The most similar vectors of a bank, by either engine."""

import importlib
import importlib.util
from typing import Any

import numpy as np
import pytest
import torch

from luss.clustering.neighbours import Neighbours
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
