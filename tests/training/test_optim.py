"""Schedule, learning-rate scaling and layer-wise trust ratios, against their formulas."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from luss.errors import LussError
from luss.settings import TrainSettings
from luss.training.optim import OPTIMIZERS, build_optimizer, lr_at, scaled_lr


@pytest.mark.parametrize("num_steps", [1, 7, 100])
def test_without_warm_up_the_learning_rate_is_half_a_cosine(num_steps: int) -> None:
    base, final = 0.6, 0.0006
    for step in range(num_steps):
        expected = final + 0.5 * (base - final) * (1 + math.cos(math.pi * step / num_steps))
        assert lr_at(step, num_steps=num_steps, warmup_steps=0, peak=base, final=final) == pytest.approx(expected)


def test_the_warm_up_is_linear_and_ends_at_the_peak() -> None:
    rates = [lr_at(step, num_steps=24, warmup_steps=4, peak=0.8, final=0.0) for step in range(24)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8])
    assert rates[14] == pytest.approx(0.4)
    assert all(earlier > later for earlier, later in itertools.pairwise(rates[4:]))


def test_a_training_of_warm_up_alone_works() -> None:
    assert lr_at(3, num_steps=4, warmup_steps=4, peak=1.0, final=0.0) == 1.0


def test_the_learning_rate_is_scaled_by_the_real_batch() -> None:
    assert scaled_lr(TrainSettings(lr=0.6, batch_size=64, lr_batch_size=256)) == pytest.approx(0.15)
    assert scaled_lr(TrainSettings(lr=0.6, batch_size=1024, lr_batch_size=256)) == pytest.approx(2.4)


def lars_by_formula(weight: Tensor, gradients: list[Tensor], *, lr: float, decay: float, momentum: float) -> Tensor:
    """SGD with momentum on gradients that are scaled layer-wise; a layer of zero norm is neither scaled nor decayed."""
    weight, velocity = weight.double().clone(), torch.zeros_like(weight, dtype=torch.float64)
    for gradient in gradients:
        gradient = gradient.double()
        if weight.norm() > 0 and gradient.norm() > 0:
            ratio = 0.001 * weight.norm() / (gradient.norm() + decay * weight.norm() + 1e-8)
            gradient = ratio * (gradient + decay * weight)
        velocity = momentum * velocity + gradient
        weight = weight - lr * velocity
    return weight.float()


@pytest.mark.parametrize("start", [0.0, 1.0])
def test_lars_follows_the_formula_for_layers_of_any_norm(start: float) -> None:
    generator = torch.Generator().manual_seed(0)
    initial = start * torch.randn(5, 3, generator=generator)
    gradients = [torch.randn(5, 3, generator=generator) for _ in range(4)]
    parameter = nn.Parameter(initial.clone())
    settings = TrainSettings(optimizer="lars", lr=0.6, weight_decay=0.01, momentum=0.9)
    optimizer = build_optimizer([parameter], settings, key="pretrain")
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    expected = lars_by_formula(initial, gradients, lr=0.6, decay=0.01, momentum=0.9)
    torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=1e-7)


def test_each_layer_has_its_own_trust_ratio() -> None:
    large, small = nn.Parameter(torch.full((4,), 10.0)), nn.Parameter(torch.full((4,), 0.1))
    optimizer = build_optimizer([large, small], TrainSettings(weight_decay=0.0, momentum=0.0, lr=1.0), key="pretrain")
    for parameter in (large, small):
        parameter.grad = torch.ones(4)
    optimizer.step()
    moved = [float((before - parameter.detach()).norm()) for before, parameter in ((10.0, large), (0.1, small))]
    assert moved == pytest.approx([0.001 * 20, 0.001 * 0.2], rel=1e-3)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_reaches_biases_and_batch_norms_too(name: str) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    optimizer = build_optimizer(model.parameters(), TrainSettings(optimizer=name, weight_decay=0.25), key="pretrain")
    groups = optimizer.param_groups
    assert sum(len(group["params"]) for group in groups) == 4
    assert [group["weight_decay"] for group in groups] == [0.25]


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[0].requires_grad_(False)
    optimizer = build_optimizer(model.parameters(), TrainSettings(), key="pretrain")
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {
        id(p) for p in model[1].parameters()
    }


def test_an_unknown_optimiser_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(LussError, match=r"finetune\.optimizer is 'adam': choose one of lars, larc, sgd, adamw"):
        build_optimizer([nn.Parameter(torch.ones(1))], TrainSettings(optimizer="adam"), key="finetune")
