"""Which number format is used where, and that loss scaling leaves a step as it is and skips one that overflows."""

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import nn

from luss.errors import LussError
from luss.settings import OptimizerSettings
from luss.training import precision
from luss.training.optim import clip as clip_gradients
from luss.training.precision import Precision, resolve_precision

CPU = torch.device("cpu")


def clipping(parameters: Iterable[nn.Parameter], norm: float) -> Callable[[], None] | None:
    """Clips the total norm; nothing for a norm of 0."""
    settings = OptimizerSettings(clip="total", clip_norm=norm)
    return (lambda: clip_gradients(parameters, settings)) if norm else None


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp32")])
def test_bf16_on_a_cpu_is_used_only_where_it_is_native(
    monkeypatch: pytest.MonkeyPatch, native: bool, expected: str
) -> None:
    monkeypatch.setattr(precision, "cpu_computes_bf16", lambda: native)
    warnings: list[str] = []
    assert resolve_precision("bf16", CPU, warn=warnings.append) == expected
    assert len(warnings) == (0 if native else 1)


@pytest.mark.parametrize(("bf16", "expected"), [(True, "bf16"), (False, "fp16")])
def test_auto_takes_what_a_gpu_is_good_at(monkeypatch: pytest.MonkeyPatch, bf16: bool, expected: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    assert resolve_precision("auto", torch.device("cuda"), warn=lambda text: None) == expected


def test_auto_on_a_cpu_is_fp32_without_a_warning() -> None:
    warnings: list[str] = []
    assert resolve_precision("auto", CPU, warn=warnings.append) == "fp32"
    assert not warnings


def test_fp16_on_a_cpu_becomes_fp32_with_a_warning() -> None:
    warnings: list[str] = []
    assert resolve_precision("fp16", CPU, warn=warnings.append) == "fp32"
    assert "needs a GPU" in warnings[0]


def test_an_unknown_precision_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(LussError, match="'half': choose one of auto, fp32, bf16, fp16"):
        resolve_precision("half", CPU, warn=lambda text: None)


def test_a_step_is_the_optimiser_s_own_with_clipping_of_the_total_norm() -> None:
    parameter = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    used = Precision("fp32", CPU)
    used.scale((parameter**2).sum() / 2).backward()  # type: ignore[no-untyped-call]
    used.step(optimizer, clip=clipping([parameter], 1.0))
    torch.testing.assert_close(parameter.detach(), torch.tensor([3.0 - 0.6, 4.0 - 0.8]))


def test_autocast_is_on_only_below_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cpu_computes_bf16", lambda: True)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with Precision(name, CPU).autocast():
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> Precision:
    """What a GPU gets for fp16, on the CPU."""
    monkeypatch.setattr(precision, "resolve_precision", lambda name, device, warn: name)
    used = Precision("fp16", CPU)
    assert used.scaler.is_enabled()
    return used


def small_problem() -> tuple[nn.Linear, torch.optim.Optimizer]:
    torch.manual_seed(0)
    layer = nn.Linear(4, 3)
    return layer, torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)


@pytest.mark.parametrize("clip", [0.0, 0.01])
def test_steps_with_loss_scaling_have_the_bits_of_steps_without(scaled: Precision, clip: float) -> None:
    inputs = torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(1))
    weights = []
    for used in (scaled, Precision("fp32", CPU)):
        layer, optimizer = small_problem()
        for batch in inputs:
            optimizer.zero_grad()
            used.scale(layer(batch).square().mean()).backward()  # type: ignore[no-untyped-call]
            used.step(optimizer, clip=clipping(layer.parameters(), clip))
        weights.append(layer.weight.detach())
    # The scale is a power of two: it takes no digits away. Clipping that saw scaled gradients would shrink them.
    assert scaled.scaler.get_scale() == 2**16
    assert torch.equal(*weights)
    assert not torch.equal(weights[0], small_problem()[0].weight)


@pytest.mark.parametrize("clip", [0.0, 0.01])
def test_overflown_gradients_skip_the_step_and_halve_the_scale(scaled: Precision, clip: float) -> None:
    layer, optimizer = small_problem()
    before = layer.weight.detach().clone()
    scaled.scale(layer(torch.ones(2, 4)).sum()).backward()  # type: ignore[no-untyped-call]
    assert layer.weight.grad is not None
    layer.weight.grad[0, 0] = float("inf")
    scaled.step(optimizer, clip=clipping(layer.parameters(), clip))
    assert torch.equal(layer.weight, before)
    assert not optimizer.state, "momentum must not see what overflowed"
    assert scaled.scaler.get_scale() == 2**15
    # The next step counts again.
    optimizer.zero_grad()
    scaled.scale(layer(torch.ones(2, 4)).sum()).backward()  # type: ignore[no-untyped-call]
    scaled.step(optimizer, clip=clipping(layer.parameters(), clip))
    assert not torch.equal(layer.weight, before)
    assert bool(layer.weight.isfinite().all())


def test_the_loss_scale_is_kept_and_restored(scaled: Precision) -> None:
    scaled.scale(torch.ones(()))  # The scaler is made at its first use.
    scaled.scaler.update(2.0**7)
    again = Precision("fp16", CPU)
    again.load_state_dict(scaled.state_dict())
    assert float(again.scale(torch.ones(()))) == 2**7
