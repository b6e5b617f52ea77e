"""Balanced codes, against the published function's numbers and against a loop in plain exponentials."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from luss.losses.sinkhorn import sinkhorn

GOLDEN = Path(__file__).parents[1] / "golden" / "pass_losses.npz"


def naive_sinkhorn(scores: Tensor, epsilon: float, num_iterations: int) -> Tensor:
    """Equation by equation, entry by entry, in float64 and without logarithms."""
    mass = np.exp(scores.double().numpy() / epsilon)
    num_rows, num_prototypes = mass.shape
    for _ in range(num_iterations):
        for prototype in range(num_prototypes):
            mass[:, prototype] /= mass[:, prototype].sum() * num_prototypes
        for row in range(num_rows):
            mass[row] /= mass[row].sum() * num_rows
    return torch.from_numpy(mass * num_rows).float()


def cosines(num_rows: int, num_prototypes: int, seed: int = 0) -> Tensor:
    return torch.rand(num_rows, num_prototypes, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_codes_equal_those_of_the_published_function() -> None:
    with np.load(GOLDEN) as golden:
        codes = sinkhorn(
            torch.from_numpy(golden["sinkhorn/scores"]),
            epsilon=float(golden["sinkhorn/epsilon"]),
            num_iterations=int(golden["sinkhorn/iterations"]),
        )
        np.testing.assert_allclose(codes.numpy(), golden["sinkhorn/codes"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("epsilon", "num_iterations"), [(0.05, 3), (0.05, 1), (0.2, 5)])
@pytest.mark.parametrize(("num_rows", "num_prototypes"), [(16, 5), (5, 16), (7, 7)])
def test_codes_equal_a_naive_loop(num_rows: int, num_prototypes: int, epsilon: float, num_iterations: int) -> None:
    scores = cosines(num_rows, num_prototypes)
    codes = sinkhorn(scores, epsilon=epsilon, num_iterations=num_iterations)
    torch.testing.assert_close(codes, naive_sinkhorn(scores, epsilon, num_iterations), rtol=1e-4, atol=1e-6)


def test_every_image_has_codes_that_sum_to_one() -> None:
    torch.testing.assert_close(sinkhorn(cosines(40, 8)).sum(dim=1), torch.ones(40))


def test_codes_use_every_prototype_equally_often_even_if_all_images_prefer_one() -> None:
    scores = cosines(64, 8) * 0.3
    scores[:, 2] += 0.6
    assert torch.bincount(scores.argmax(dim=1), minlength=8)[2] > 50
    used = sinkhorn(scores, num_iterations=30).sum(dim=0)
    torch.testing.assert_close(used, torch.full((8,), 64 / 8), rtol=0.02, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_scores_do_not_overflow(dtype: torch.dtype) -> None:
    # exp(1 / 0.05) is 4.8e8, far above the largest float16.
    scores = torch.tensor([[1.0, -1.0, 0.5], [0.25, 0.75, -0.5], [0.0, 0.5, 1.0]], dtype=dtype)
    codes = sinkhorn(scores)
    assert codes.dtype == torch.float32
    torch.testing.assert_close(codes, naive_sinkhorn(scores.float(), 0.05, 3), rtol=1e-4, atol=1e-6)


def test_a_tiny_epsilon_does_not_overflow() -> None:
    codes = sinkhorn(cosines(12, 4), epsilon=0.001)
    assert torch.isfinite(codes).all()
    torch.testing.assert_close(codes.sum(dim=1), torch.ones(12))


def test_codes_carry_no_gradient() -> None:
    scores = cosines(6, 3).requires_grad_()
    assert not sinkhorn(scores).requires_grad
