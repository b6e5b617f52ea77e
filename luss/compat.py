"""Makes `import torchvision` work on builds of torch that lack torchvision's compiled operators.

The PyPI wheel of torchvision is compiled against the CUDA build of torch; on a CPU build its operator library does not load, and the
Python package then fails on `torchvision::nms does not exist`. timm imports torchvision unconditionally. Declaring the two schemas is
enough for everything `luss` uses (timm's models). Import this module before timm.
"""

import sys

import torch

# The library object must stay alive: its schemas vanish with it.
_library: torch.library.Library | None = None


def ensure_torchvision() -> None:
    """Imports torchvision, declaring the missing operator schemas first where the plain import fails. Idempotent."""
    global _library
    if "torchvision" in sys.modules:
        return
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        _library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for name in ("nms", "qnms"):
            _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
        import torchvision  # noqa: F401


ensure_torchvision()
