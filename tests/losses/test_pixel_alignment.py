"""Grids over the common part of two views, and the loss that aligns them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from luss.losses.pixel_alignment import overlap_grids, pixel_alignment, sample_points

GOLDEN = Path(__file__).parents[1] / "golden" / "pass_losses.npz"


@pytest.fixture(scope="module")
def golden() -> Iterator[Mapping[str, NDArray[Any]]]:
    with np.load(GOLDEN) as arrays:
        yield dict(arrays)


def golden_grids(
    golden: Mapping[str, NDArray[Any]], points: Literal["centres", "edges"]
) -> tuple[Tensor, Tensor, Tensor]:
    first, second = (torch.from_numpy(golden[f"grid/rect_{name}"]) for name in "qk")
    flips = first[:, 4].bool(), second[:, 4].bool()
    return overlap_grids(first[:, :4].float(), second[:, :4].float(), *flips, size=7, points=points)


def rectangles() -> st.SearchStrategy[tuple[int, int, int, int]]:
    return st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(1, 60), st.integers(1, 60))


def original_pixels(grid: Tensor, rectangle: tuple[int, ...], flip: bool) -> NDArray[np.float64]:
    """Where a grid's points lie in the original image: grid_sample's convention undone, point by point."""
    left, top, width, height = rectangle
    places = np.empty(grid.shape)
    for row in range(grid.shape[0]):
        for column in range(grid.shape[1]):
            u, v = (float(grid[row, column, 0]) + 1) / 2, (float(grid[row, column, 1]) + 1) / 2
            places[row, column] = left + (1 - u if flip else u) * width, top + v * height
    return places


def test_published_grids_equal_those_of_the_published_function(golden: Mapping[str, NDArray[Any]]) -> None:
    first, second, _ = golden_grids(golden, "edges")
    np.testing.assert_allclose(first.numpy(), golden["grid/grid_q"], atol=1e-5)
    np.testing.assert_allclose(second.numpy(), golden["grid/grid_k"], atol=1e-5)


def test_the_pair_without_overlap_is_found(golden: Mapping[str, NDArray[Any]]) -> None:
    first, _, overlaps = golden_grids(golden, "edges")
    apart = torch.from_numpy((golden["grid/grid_q"] == -2).all(axis=(1, 2, 3)))
    assert apart.any()
    assert not apart.all()
    assert torch.equal(overlaps, ~apart)
    assert (first[apart] == -2).all()


@settings(max_examples=60, deadline=None)
@given(rectangles(), rectangles(), st.booleans(), st.booleans(), st.integers(1, 5))
def test_both_views_are_sampled_at_the_same_original_pixels_strictly_inside_both(
    first: tuple[int, ...], second: tuple[int, ...], first_flip: bool, second_flip: bool, size: int
) -> None:
    first_grid, second_grid, overlaps = overlap_grids(
        torch.tensor([first]).float(),
        torch.tensor([second]).float(),
        torch.tensor([first_flip]),
        torch.tensor([second_flip]),
        size=size,
    )
    low = np.maximum(first[:2], second[:2])
    high = np.minimum(np.add(first[:2], first[2:]), np.add(second[:2], second[2:]))
    assert bool(overlaps[0]) == bool((high > low).all())
    if not overlaps[0]:
        return
    for grid in (first_grid, second_grid):
        assert grid.abs().max() < 1
    places = original_pixels(first_grid[0], first, first_flip)
    np.testing.assert_allclose(places, original_pixels(second_grid[0], second, second_flip), atol=1e-3)
    for row in range(size):
        for column in range(size):
            expected = low + (high - low) * (np.array([column, row]) + 0.5) / size
            np.testing.assert_allclose(places[row, column], expected, atol=1e-3)


def test_a_map_of_positions_sampled_in_both_views_shows_the_same_places() -> None:
    first, second = (10, 20, 80, 40), (40, 10, 60, 60)
    maps = []
    for (left, top, width, height), flip in ((first, False), (second, True)):
        x = left + (torch.arange(32) + 0.5) / 32 * width
        y = top + (torch.arange(32) + 0.5) / 32 * height
        x = x.flip(0) if flip else x
        maps.append(torch.stack([x[None, :].expand(32, 32), y[:, None].expand(32, 32)])[None])
    first_grid, second_grid, _ = overlap_grids(
        torch.tensor([first]).float(),
        torch.tensor([second]).float(),
        torch.tensor([False]),
        torch.tensor([True]),
        size=5,
    )
    seen = sample_points(maps[0], first_grid), sample_points(maps[1], second_grid)
    torch.testing.assert_close(*seen, atol=1e-3, rtol=0)


def test_sampling_mixes_in_no_zeros_by_default(golden: Mapping[str, NDArray[Any]]) -> None:
    first, second, overlaps = golden_grids(golden, "centres")
    for grid in (first, second):
        sampled = sample_points(torch.full((7, 1, 7, 7), 3.0), grid)
        torch.testing.assert_close(sampled[overlaps], torch.full_like(sampled[overlaps], 3.0))


def test_published_sampling_halves_vectors_on_a_border_and_quarters_them_in_a_corner(
    golden: Mapping[str, NDArray[Any]],
) -> None:
    first, _, overlaps = golden_grids(golden, "edges")
    lowest = sample_points(torch.ones(7, 1, 7, 7), first, padding="zeros").flatten(1).amin(dim=1)
    # The facts recorded with the golden arrays; the sixth pair does not overlap, the last lies inside.
    expected = torch.tensor([0.25, 0.25, 0.25, 0.25, 0.0, 0.0, 1.0])
    torch.testing.assert_close(lowest, expected, atol=1e-5, rtol=0)
    assert not overlaps.all()


def random_maps(num_pairs: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(num_pairs, 4, 3, 3, generator=generator) for _ in range(4)]


def naive_alignment(p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor, valid: list[bool]) -> float:
    cosines = []
    for pair in range(len(p1)):
        if not valid[pair]:
            continue
        for row in range(p1.shape[2]):
            for column in range(p1.shape[3]):
                for p, z in ((p1, z2), (p2, z1)):
                    a, b = p[pair, :, row, column].double().numpy(), z[pair, :, row, column].double().numpy()
                    cosines.append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    return -float(np.mean(cosines))


def test_the_alignment_loss_equals_that_of_the_published_function(golden: Mapping[str, NDArray[Any]]) -> None:
    z, p = torch.from_numpy(golden["p2p/z"]), torch.from_numpy(golden["p2p/p"])
    assert float(pixel_alignment(*p.chunk(2), *z.chunk(2))) == pytest.approx(float(golden["p2p/loss"]), abs=1e-6)


def test_the_alignment_loss_equals_a_naive_loop() -> None:
    p1, p2, z1, z2 = random_maps(3)
    assert float(pixel_alignment(p1, p2, z1, z2)) == pytest.approx(
        naive_alignment(p1, p2, z1, z2, [True] * 3), abs=1e-6
    )


def test_equal_directions_give_the_lowest_loss() -> None:
    z1, z2 = random_maps(2)[:2]
    assert float(pixel_alignment(2 * z2, 0.5 * z1, z1, z2)) == pytest.approx(-1, abs=1e-6)


def test_pairs_that_do_not_count_are_left_out_of_the_mean() -> None:
    p1, p2, z1, z2 = random_maps(4)
    valid = [True, False, True, False]
    loss = pixel_alignment(p1, p2, z1, z2, valid=torch.tensor(valid))
    assert float(loss) == pytest.approx(naive_alignment(p1, p2, z1, z2, valid), abs=1e-6)


def test_without_a_pair_that_counts_the_loss_is_zero_and_its_gradient_too() -> None:
    p1, p2, z1, z2 = random_maps(2)
    p1.requires_grad_()
    loss = pixel_alignment(p1, p2, z1, z2, valid=torch.tensor([False, False]))
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0
    assert p1.grad is not None
    assert not p1.grad.any()


def test_no_gradient_reaches_the_embeddings_that_are_predicted() -> None:
    maps = [tensor.requires_grad_() for tensor in random_maps(2)]
    pixel_alignment(*maps, valid=torch.tensor([True, False])).backward()  # type: ignore[no-untyped-call]
    assert maps[2].grad is None
    assert maps[3].grad is None
    for predicted in maps[:2]:
        assert predicted.grad is not None
        assert predicted.grad[0].any()
        assert not predicted.grad[1].any()
