"""Mixed precision: which number format a device is good at, autocast and loss scaling."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from luss.errors import LussError

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def cpu_computes_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 natively (AVX512-BF16 or AMX).

    Without such instructions bfloat16 is emulated and several times slower than float32; with them ResNet-18 trains about twice as fast
    (docs/performance.md).
    """
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, lambda: False)()) for name in checks)


def resolve_precision(name: str, device: torch.device, *, warn: Callable[[str], None]) -> str:
    """The format that is used: "fp32", "bf16" or "fp16".

    "auto" is bf16 on a GPU that computes in it, fp16 on another GPU, and fp32 on a CPU. A format that the device would only emulate is
    replaced by fp32, with a warning.

    Raises:
        LussError: Unknown name.
    """
    if name not in PRECISIONS:
        raise LussError(f"precision is {name!r}: choose one of {', '.join(PRECISIONS)}")
    if device.type == "cuda":
        if name != "auto":
            return name
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if name == "bf16" and not cpu_computes_bf16():
        warn(
            "this CPU has no bfloat16 instructions: computing in fp32 instead, about twice as slowly as on one that has"
        )
        return "fp32"
    if name == "fp16":
        warn("fp16 needs a GPU: computing in fp32 instead")
        return "fp32"
    return "fp32" if name == "auto" else name


class Precision:
    """Autocast, loss scaling and the optimiser step of one run."""

    def __init__(self, name: str, device: torch.device, *, warn: Callable[[str], None] = lambda text: None) -> None:
        """`name`: one of `PRECISIONS`."""
        self.device = device
        self.name = resolve_precision(name, device, warn=warn)
        self.dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.name]
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.name == "fp16")

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of forward passes."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.name != "fp32")

    def scale(self, loss: Tensor) -> Tensor:
        """The loss to call backward on."""
        scaled: Tensor = self.scaler.scale(loss)
        return scaled

    def step(self, optimizer: torch.optim.Optimizer, *, clip: Callable[[], None] | None = None) -> None:
        """Unscales, clips where asked to and steps; a step with overflown gradients is skipped."""
        if clip is not None:
            self.scaler.unscale_(optimizer)
            clip()
        self.scaler.step(optimizer)
        self.scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """The loss scale."""
        state: dict[str, Any] = self.scaler.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the loss scale."""
        if state:
            self.scaler.load_state_dict(state)
