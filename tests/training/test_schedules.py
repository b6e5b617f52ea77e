"""Schedules against their formulas, and against numbers that the published codes give."""

import itertools
import math
from collections.abc import Callable

import pytest

from luss.training.schedules import cosine, linear, lr_at
from luss.training.task import Progress


@pytest.mark.parametrize("num_steps", [1, 7, 100])
def test_without_warm_up_the_learning_rate_is_half_a_cosine(num_steps: int) -> None:
    peak, final = 0.6, 0.0006
    for step in range(num_steps):
        expected = final + 0.5 * (peak - final) * (1 + math.cos(math.pi * step / num_steps))
        assert lr_at(step, num_steps=num_steps, warmup_steps=0, peak=peak, final=final) == pytest.approx(expected)
        assert cosine(Progress(step, num_steps), peak, final) == pytest.approx(expected)


def test_the_warm_up_of_the_learning_rate_is_linear_and_ends_at_the_peak() -> None:
    rates = [lr_at(step, num_steps=24, warmup_steps=4, peak=0.8, final=0.0) for step in range(24)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8])
    assert rates[14] == pytest.approx(0.4)
    assert all(earlier > later for earlier, later in itertools.pairwise(rates[4:]))


def test_a_training_of_warm_up_alone_works() -> None:
    assert lr_at(3, num_steps=4, warmup_steps=4, peak=1.0, final=0.0) == 1.0
    assert cosine(Progress(3, 4), 1.0, 0.0, warmup_epochs=4) == 0.75


def test_a_line_runs_over_its_epochs_and_then_stays() -> None:
    values = [linear(Progress(step, 40, 4), 0.04, 0.08, epochs=2) for step in range(40)]
    assert values[:9] == pytest.approx([0.04 + 0.005 * step for step in range(9)])
    assert values[9:] == [0.08] * 31
    assert linear(Progress(0, 40, 4), 0.04, 0.08, epochs=0) == 0.08


# Numbers of the published codes by step, and our schedule of the same training. "Warm-up from 0" means that step 0 has a rate of 0.
PUBLISHED: dict[str, tuple[Callable[[int], float], dict[int, float]]] = {
    "DINO's weight decay, 5 epochs of 7 steps": (
        lambda step: cosine(Progress(step, 35, 7), 0.04, 0.4),
        {0: 0.04, 1: 0.040724627, 17: 0.21192433, 18: 0.22807567, 34: 0.39927537},
    ),
    "DINO's momentum": (
        lambda step: cosine(Progress(step, 35, 7), 0.996, 1.0),
        {0: 0.996, 3: 0.99607207, 17: 0.99791027, 34: 0.99999195},
    ),
    # Its warm-up reaches the peak at its own last step and has it twice (linspace); ours reaches it once, at the first step after: warming up
    # it differs by up to 1/14 of the peak, behind it not at all.
    "DINO's learning rate behind the warm-up of 2 epochs": (
        lambda step: cosine(Progress(step, 35, 7), 1e-3, 1e-6, warmup_epochs=2),
        {0: 0.0, 14: 1e-3, 15: 0.000994421, 24: 0.00053782768, 34: 6.5790023e-06},
    ),
    "DINO's teacher temperature, by epoch": (
        lambda step: linear(Progress(step, 6), 0.04, 0.07, epochs=2),
        {0: 0.04, 1: 0.055, 2: 0.07, 5: 0.07},
    ),
    "PixPro's learning rate, warmed up from a hundredth": (
        lambda step: cosine(Progress(step, 40, 4), 4.0, 1e-6, warmup_epochs=5, warmup_from=0.04),
        {0: 0.04, 1: 0.238, 19: 3.802, 20: 4.0, 21: 3.9753767, 30: 2.0000005, 39: 0.024624313},
    ),
    "PixPro's momentum": (
        lambda step: cosine(Progress(step, 40, 4), 0.99, 1.0),
        {0: 0.99, 1: 0.99001541, 20: 0.995, 39: 0.99998459},
    ),
    "BYOL's momentum": (
        lambda step: cosine(Progress(step, 40), 0.99, 1.0),
        {0: 0.99, 10: 0.99146447, 30: 0.99853553, 40: 1.0},
    ),
    "BYOL's learning rate, warmed up from 0": (
        lambda step: cosine(Progress(step, 40), 0.9, 0.0, warmup_epochs=8),
        {0: 0.0, 1: 0.1125, 8: 0.9, 9: 0.89783311, 24: 0.45, 39: 0.0021668731},
    ),
    "SimSiam's learning rate, by epoch": (
        lambda step: cosine(Progress(step, 100), 0.1, 0.0),
        {0: 0.1, 1: 0.099975328, 25: 0.085355339, 44: 0.059369066, 99: 2.467198171342e-05},
    ),
    "MoCo's learning rate, by epoch": (
        lambda step: cosine(Progress(step, 200), 0.03, 0.0),
        {0: 0.03, 1: 0.029998149, 44: 0.026557699, 199: 1.8505127750911841e-06},
    ),
    # As DINO's: the published warm-up has its peak one step earlier, by up to 1/7 of the way.
    "SwAV's learning rate behind the warm-up of 8 steps": (
        lambda step: cosine(Progress(step, 32, 4), 4.8, 0.0048, warmup_epochs=2, warmup_from=0.3),
        {0: 0.3, 8: 4.8, 9: 4.7794882, 20: 2.4024, 31: 0.0253118},
    ),
    "Fine-tuning of a ViT, 100 epochs of 100 steps": (
        lambda step: cosine(Progress(step, 10_000, 100), 5e-4, 1e-6, warmup_epochs=5),
        {0: 0.0, 50: 5e-05, 250: 0.00025, 500: 0.0005, 550: 0.000499965894595621, 5000: 0.00027110354669534695}
        | {9900: 1.1364122934389507e-06, 9997: 1.0001227822430318e-06},
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_schedules_give_the_published_numbers(name: str) -> None:
    schedule, expected = PUBLISHED[name]
    assert {step: schedule(step) for step in expected} == pytest.approx(expected, rel=2e-7, abs=1e-12)


def test_the_loop_s_learning_rate_has_its_warm_up_one_step_earlier_than_the_cosine() -> None:
    def rate(step: int) -> float:
        return lr_at(step, num_steps=35, warmup_steps=14, peak=1e-3, final=1e-6)

    def schedule(step: int) -> float:
        return cosine(Progress(step, 35, 7), 1e-3, 1e-6, warmup_epochs=2)

    assert [rate(step) for step in range(13)] == pytest.approx([schedule(step + 1) for step in range(13)])
    assert rate(13) == 1e-3
    assert [rate(step) for step in range(14, 35)] == pytest.approx([schedule(step) for step in range(14, 35)])


@pytest.mark.parametrize("steps_per_epoch", [2, 10, 500])
def test_schedules_depend_on_the_epoch_and_not_on_the_steps_in_it(steps_per_epoch: int) -> None:
    for epoch in (0, 0.5, 1, 3.5, 9):
        progress = Progress(int(epoch * steps_per_epoch), 10 * steps_per_epoch, steps_per_epoch)
        assert progress.epoch == epoch
        assert progress.num_epochs == 10
        once = Progress(int(2 * epoch), 20, 2)
        assert cosine(progress, 1.0, 0.1, warmup_epochs=2) == cosine(once, 1.0, 0.1, warmup_epochs=2)
        assert linear(progress, 1.0, 0.1, epochs=4) == linear(once, 1.0, 0.1, epochs=4)
