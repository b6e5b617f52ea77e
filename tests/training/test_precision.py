"""Which number format is used where, and that loss scaling leaves the step as it is."""

import pytest
import torch
from torch import nn

from luss.errors import LussError
from luss.training import precision
from luss.training.precision import Precision, resolve_precision

CPU = torch.device("cpu")


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
    used.step(optimizer, clip=1.0, parameters=[parameter])
    torch.testing.assert_close(parameter.detach(), torch.tensor([3.0 - 0.6, 4.0 - 0.8]))


def test_autocast_is_on_only_below_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cpu_computes_bf16", lambda: True)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with Precision(name, CPU).autocast():
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
