"""Losses of the representation learners: against published numbers, closed forms and naive loops."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from luss.losses.dense_contrast import dense_contrast, matching_positions
from luss.losses.info_nce import info_nce
from luss.losses.negative_cosine import negative_cosine
from luss.losses.nt_xent import nt_xent
from luss.losses.pixel_propagation import image_coordinates, near_agreement, near_positions, propagate
from luss.models.heads import two_layers

_FOLDER = Path(__file__).parents[1] / "golden" / "learners"


def golden(name: str) -> dict[str, NDArray[Any]]:
    with np.load(_FOLDER / f"{name}.npz") as file:
        return dict(file)


def tensor(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(array).float()


def unit(rows: int, columns: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)), dim=1)


def close(actual: Tensor, expected: NDArray[Any], rtol: float = 1e-5, atol: float = 2e-6) -> None:
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=rtol, atol=atol)


# InfoNCE


def test_queries_that_find_nothing_cost_the_logarithm_of_the_candidates() -> None:
    same = unit(1, 8, 0)
    loss = info_nce(same.expand(5, -1), same.expand(5, -1), same.expand(12, -1))
    assert float(loss) == pytest.approx(math.log(13), rel=1e-6)


def test_info_nce_is_the_naive_loop() -> None:
    query, positive, negatives = unit(4, 8, 0), unit(4, 8, 1), unit(9, 8, 2)
    expected = 0.0
    for row in range(4):
        right = math.exp(float(query[row] @ positive[row]) / 0.2)
        wrong = sum(math.exp(float(query[row] @ negative) / 0.2) for negative in negatives)
        expected -= math.log(right / (right + wrong)) / 4
    assert float(info_nce(query, positive, negatives, temperature=0.2)) == pytest.approx(expected, rel=1e-5)


def test_only_queries_of_info_nce_get_a_gradient() -> None:
    query, positive, negatives = (unit(3, 4, seed).requires_grad_() for seed in range(3))
    info_nce(query, positive, negatives).backward()
    assert query.grad is not None
    assert positive.grad is None
    assert negatives.grad is None


# NT-Xent


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_nt_xent_has_the_published_values_and_gradients(temperature: float) -> None:
    arrays = golden("simclr")
    first, second = (tensor(arrays[name]).requires_grad_() for name in ("z1", "z2"))
    loss = nt_xent(F.normalize(first, dim=1), F.normalize(second, dim=1), temperature=temperature)
    loss.backward()
    close(loss, arrays[f"lightly/loss_T{temperature}"])
    # The official code has the sum of the views' means in place of the mean.
    close(2 * loss, arrays[f"tf/loss_T{temperature}"])
    assert first.grad is not None
    assert second.grad is not None
    close(first.grad, arrays[f"lightly/grad_z1_T{temperature}"])
    close(second.grad, arrays[f"lightly/grad_z2_T{temperature}"])


# Negative cosine


def test_negative_cosine_gives_the_published_loss_of_byol_and_its_gradients() -> None:
    arrays = golden("byol")
    first, second = (tensor(arrays[name]).requires_grad_() for name in ("pred1", "pred2"))
    targets = [tensor(arrays[name]) for name in ("targ1", "targ2")]
    loss = 4 + 2 * (negative_cosine(first, targets[1]) + negative_cosine(second, targets[0]))
    loss.backward()
    close(loss, arrays["dm/loss"])
    assert first.grad is not None
    close(first.grad, arrays["dm/grad_pred1"])


def test_no_gradient_passes_through_the_target_of_a_negative_cosine() -> None:
    prediction, target = unit(3, 4, 0).requires_grad_(), unit(3, 4, 1).requires_grad_()
    negative_cosine(prediction, target).backward()
    assert prediction.grad is not None
    assert target.grad is None


# Dense contrast


def test_positions_are_matched_with_the_most_alike_whatever_their_length() -> None:
    key = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    query = 7 * key.flatten(2)[:, :, order].view_as(key)
    assert torch.equal(matching_positions(query, key), order.expand(2, -1))


def test_dense_contrast_is_the_naive_loop_over_positions() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(2, 6, 2, 3, generator=generator) for _ in range(2))
    match, negatives = torch.randint(0, 6, (2, 6), generator=generator), unit(5, 6, 3)
    losses = []
    for image in range(2):
        for position in range(6):
            ours = F.normalize(query[image].flatten(1)[:, position], dim=0)[None]
            theirs = F.normalize(key[image].flatten(1)[:, match[image, position]], dim=0)[None]
            losses.append(info_nce(ours, theirs, negatives))
    assert float(dense_contrast(query, key, match, negatives)) == pytest.approx(float(torch.stack(losses).mean()))


# Pixel propagation


def test_coordinates_of_crops_are_the_published_ones() -> None:
    arrays = golden("pixpro_coords")
    crops = tensor(arrays["crops"])
    sizes = torch.from_numpy(arrays["image_size"]).expand(len(crops), 2)
    close(image_coordinates(crops, torch.from_numpy(arrays["flips"]).bool(), sizes), arrays["coords"])


def test_the_whole_image_goes_from_nought_to_one_and_a_pixel_wide_image_has_coordinates() -> None:
    whole = image_coordinates(torch.tensor([[0.0, 0.0, 60.0, 40.0]]), torch.tensor([False]), torch.tensor([[60, 40]]))
    assert whole.tolist() == [[0, 0, 1, 1]]
    thin = image_coordinates(torch.tensor([[0.0, 0.0, 1.0, 9.0]]), torch.tensor([False]), torch.tensor([[1, 9]]))
    assert thin.isfinite().all()


@pytest.mark.parametrize("threshold", [0.5, 0.7])
def test_near_positions_and_their_agreement_are_the_published_ones(threshold: float) -> None:
    arrays = golden("pixpro_loss")
    query, key = tensor(arrays["q"]).requires_grad_(), tensor(arrays["k"])
    ends = [torch.from_numpy(arrays[name]) for name in ("coord_q", "coord_k")]
    near = near_positions(*ends, (7, 7), threshold=threshold)
    assert np.array_equal(near.numpy(), arrays[f"mask_{threshold}"])
    for image, expected in enumerate(arrays[f"loss_per_image_{threshold}"]):
        place = slice(image, image + 1)
        close(near_agreement(query[place], key[place], near[place]), expected)
    loss = near_agreement(query, key, near)
    close(loss, arrays[f"loss_{threshold}"])


def test_near_positions_of_maps_that_are_not_square_are_counted_row_by_row() -> None:
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    assert torch.equal(near_positions(whole, whole, (2, 5), threshold=0.1)[0], torch.eye(10, dtype=torch.bool))


@pytest.mark.parametrize(
    ("layers", "sharpness"), [(0, 2.0), (1, 1.0), (1, 2.0), (1, 0.5), (2, 2.0)], ids=lambda value: f"{value}"
)
def test_propagation_gives_the_published_maps_and_gradients(layers: int, sharpness: float) -> None:
    arrays = golden("pixpro_ppm")
    values: nn.Module = nn.Identity()
    prefix = f"layer{layers}/param/"
    weights = {name.removeprefix(prefix): tensor(array) for name, array in arrays.items() if name.startswith(prefix)}
    if layers == 1:
        values = nn.Conv2d(6, 6, 1)
        values.load_state_dict(weights)
    if layers == 2:
        values = two_layers(6, 4, 6, pixels=True)
        places = {"linear1": "0", "bn1": "1", "linear2": "3"}
        named = {f"{places[name.partition('.')[0]]}.{name.partition('.')[2]}": array for name, array in weights.items()}
        values.load_state_dict({**values.state_dict(), **named})
    features = tensor(arrays["x"]).requires_grad_()
    result = propagate(features, values(features), sharpness=sharpness)
    (result * tensor(arrays["weight"])).sum().backward()
    key = f"layer{layers}/p{sharpness}"
    close(result, arrays[f"{key}/y"], rtol=1e-4, atol=1e-5)
    assert features.grad is not None
    # The square root's slope is steep near 0, and float32 is coarse there.
    close(features.grad, arrays[f"{key}/grad_x"], rtol=2e-3 if sharpness < 1 else 1e-4, atol=1e-4)
