"""The momentum teacher by itself."""

import numpy as np
import torch
from torch import nn

from luss.methods.momentum import Teacher

# One step of DINO's moving average with momentum 0.996, made with the published code.
STUDENT = [[-0.7933562, -0.41931078, 0.43906823], [0.468121, 0.6055298, -0.70635587]]
BEFORE = [[1.4990577, -0.11086549, 0.42577082], [0.5927831, -1.1964245, 1.6236026]]
AFTER = [[1.489888, -0.11209927, 0.42582402], [0.59228444, -1.1892166, 1.6142828]]


def layer(weight: list[list[float]] | None = None) -> nn.Linear:
    made = nn.Linear(3, 2, bias=False)
    if weight is not None:
        made.weight.data.copy_(torch.tensor(weight))
    return made


def test_the_teacher_follows_by_the_published_numbers() -> None:
    teacher = Teacher(layer(BEFORE))
    teacher.follow(layer(STUDENT), 0.996)
    np.testing.assert_allclose(teacher.module.weight, AFTER, rtol=1e-6)


def test_a_momentum_of_one_keeps_the_teacher_and_of_none_makes_it_the_student() -> None:
    student, teacher = layer(STUDENT), Teacher(layer(BEFORE))
    teacher.follow(student, 1.0)
    assert torch.equal(teacher.module.weight, torch.tensor(BEFORE))
    teacher.follow(student, 0.0)
    assert torch.equal(teacher.module.weight, student.weight)


def test_the_teacher_is_a_copy_without_gradient() -> None:
    student = layer()
    teacher = Teacher(student)
    assert torch.equal(teacher.module.weight, student.weight)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    inputs = torch.randn(4, 3)
    assert not teacher(inputs).requires_grad
    student.weight.data.add_(1)
    assert not torch.equal(teacher(inputs), student(inputs))


def test_batch_norm_statistics_are_the_teacher_s_own() -> None:
    student = nn.BatchNorm1d(3)
    teacher = Teacher(student)
    student(torch.randn(8, 3) + 5)
    teacher.follow(student, 0.0)
    assert not teacher.module.running_mean.any()
    seen = torch.randn(8, 3) - 2
    teacher(seen)
    torch.testing.assert_close(teacher.module.running_mean, 0.1 * seen.mean(dim=0))


def test_weights_that_only_one_of_the_two_has_stay_as_they_are() -> None:
    student, teacher = nn.Linear(3, 2), Teacher(layer(BEFORE))
    teacher.follow(student, 0.5)
    torch.testing.assert_close(teacher.module.weight, (torch.tensor(BEFORE) + student.weight.detach()) / 2)
    wider = Teacher(nn.Linear(3, 2))
    bias = wider.module.bias.clone()
    wider.follow(layer(STUDENT), 0.0)
    assert torch.equal(wider.module.bias, bias)


def test_the_teacher_survives_its_state() -> None:
    teacher = Teacher(nn.Sequential(layer(BEFORE), nn.BatchNorm1d(2)))
    teacher(torch.randn(4, 3))
    again = Teacher(nn.Sequential(layer(), nn.BatchNorm1d(2)))
    again.load_state_dict(teacher.state_dict())
    assert all(torch.equal(one, other) for one, other in zip(again.buffers(), teacher.buffers(), strict=True))
    assert torch.equal(again.module[0].weight, teacher.module[0].weight)
