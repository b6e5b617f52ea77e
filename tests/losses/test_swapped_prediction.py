"""SwAV's loss and its deep-to-shallow use, against the published function's numbers and a loop in numpy."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from luss.losses.pixel_alignment import pixel_alignment
from luss.losses.swapped_prediction import swapped_prediction

GOLDEN = Path(__file__).parents[1] / "golden" / "pass_losses.npz"
BATCH = 6


@pytest.fixture(scope="module")
def golden() -> Iterator[Mapping[str, NDArray[Any]]]:
    with np.load(GOLDEN) as arrays:
        yield dict(arrays)


def views(array: NDArray[Any]) -> list[Tensor]:
    return list(torch.split(torch.from_numpy(array), BATCH))


def golden_codes(golden: Mapping[str, NDArray[Any]], topic: str = "swav") -> list[Tensor]:
    return [torch.from_numpy(golden[f"{topic}/codes{view}"]) for view in (0, 1)]


def naive(scores: Sequence[Tensor], codes: Sequence[Tensor], temperature: float) -> float:
    total = 0.0
    for assigning, code in enumerate(codes):
        view_losses = []
        for view, score in enumerate(scores):
            if view == assigning:
                continue
            image_losses = []
            for row, target in zip(score.double().numpy(), code.double().numpy(), strict=True):
                exponentials = np.exp(row / temperature)
                image_losses.append(-(target * np.log(exponentials / exponentials.sum())).sum())
            view_losses.append(np.mean(image_losses))
        total += float(np.mean(view_losses))
    return total / len(codes)


def random_case(num_views: int, num_assigning: int) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(num_views)
    scores = [torch.rand(4, 5, generator=generator) * 2 - 1 for _ in range(num_views)]
    codes = [torch.rand(4, 5, generator=generator).softmax(dim=1) for _ in range(num_assigning)]
    return scores, codes


def test_the_loss_equals_that_of_the_published_function(golden: Mapping[str, NDArray[Any]]) -> None:
    loss = swapped_prediction(views(golden["swav/scores"]), golden_codes(golden))
    assert float(loss) == pytest.approx(float(golden["swav/loss"]), rel=1e-5)


@pytest.mark.parametrize(("num_views", "num_assigning"), [(2, 1), (2, 2), (3, 2), (8, 2), (3, 3)])
@pytest.mark.parametrize("temperature", [0.1, 0.7])
def test_the_loss_equals_a_naive_loop(num_views: int, num_assigning: int, temperature: float) -> None:
    scores, codes = random_case(num_views, num_assigning)
    loss = swapped_prediction(scores, codes, temperature=temperature)
    assert float(loss) == pytest.approx(naive(scores, codes, temperature), rel=1e-5)


def test_deep_codes_supervise_a_shallow_stage_as_published(golden: Mapping[str, NDArray[Any]]) -> None:
    loss = swapped_prediction(views(golden["d2s/shallow_scores"]), golden_codes(golden))
    assert float(loss) == pytest.approx(float(golden["d2s/loss"]), rel=1e-5)


def test_deep_codes_supervise_two_shallow_stages_as_published(golden: Mapping[str, NDArray[Any]]) -> None:
    stages = views(golden["d2s_32/shallow_scores"])
    codes = golden_codes(golden)
    assert float(swapped_prediction(stages[:2], codes)) == pytest.approx(float(golden["d2s_32/loss3"]), rel=1e-5)
    assert float(swapped_prediction(stages[2:], codes)) == pytest.approx(float(golden["d2s_32/loss2"]), rel=1e-5)


def test_the_published_total_is_the_mean_of_the_clustering_losses_plus_alignment(
    golden: Mapping[str, NDArray[Any]],
) -> None:
    deep = swapped_prediction(views(golden["swav/scores"]), golden_codes(golden))
    shallow = swapped_prediction(views(golden["d2s/shallow_scores"]), golden_codes(golden))
    z, p = torch.from_numpy(golden["p2p/z"]), torch.from_numpy(golden["p2p/p"])
    alignment = pixel_alignment(*p.chunk(2), *z.chunk(2))
    assert float((deep + shallow) / 2 + alignment) == pytest.approx(float(golden["total/loss"]), rel=1e-5)


def test_no_gradient_passes_through_codes() -> None:
    scores, codes = random_case(2, 2)
    for tensor in [*scores, *codes]:
        tensor.requires_grad_()
    swapped_prediction(scores, codes).backward()  # type: ignore[no-untyped-call]
    assert all(code.grad is None for code in codes)
    assert all(score.grad is not None and score.grad.abs().sum() > 0 for score in scores)


def test_a_view_does_not_predict_its_own_codes() -> None:
    scores, codes = random_case(2, 1)
    scores[0].requires_grad_()
    scores[1].requires_grad_()
    swapped_prediction(scores, codes).backward()  # type: ignore[no-untyped-call]
    assert scores[0].grad is None or not scores[0].grad.any()
    assert scores[1].grad is not None
    assert scores[1].grad.any()


def test_half_precision_scores_give_a_float32_loss() -> None:
    scores, codes = random_case(3, 2)
    loss = swapped_prediction([score.half() for score in scores], codes)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(naive(scores, codes, 0.1), rel=1e-2)


@pytest.mark.parametrize(("num_views", "num_codes"), [(1, 1), (2, 0), (2, 3)])
def test_too_few_views_or_too_many_codes_are_refused(num_views: int, num_codes: int) -> None:
    scores, codes = random_case(3, 3)
    with pytest.raises(ValueError, match="at least 2 views"):
        swapped_prediction(scores[:num_views], codes[:num_codes])
