"""Makes `import torchvision` work on builds of torch that lack torchvision's compiled operators.

The PyPI wheel of torchvision is compiled against the CUDA build of torch; on a CPU build its operator library does not load, and the
Python package then fails on `torchvision::nms does not exist`. timm imports torchvision unconditionally. Declaring the two schemas is
enough for everything `luss` uses (timm's models). Import this module before timm; where torchvision is sound it does nothing.

`python -m luss.compat` does the same for every program of the environment, so that `import timm` works there alone; `make setup` calls it.
"""

import importlib.util
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

_NAME = "torchvision"
# What the error of a missing operator says.
_OPERATOR = "torchvision::"
HOOK = "luss-torchvision.pth"
"""The file in an environment's site-packages that imports this module whenever Python starts, while luss is installed."""
_HOOK_LINE = 'import importlib.util; importlib.util.find_spec("luss") and __import__("luss.compat")\n'

# The library object must stay alive: its schemas vanish with it.
_library: Any = None


class _Finder(MetaPathFinder):
    """Sees the first import of torchvision."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the other finders know of torchvision, with a loader that mends it."""
        if fullname != _NAME:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(_NAME)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    """Runs a package; where it misses its operators, once more with their schemas declared."""

    def __init__(self, usual: Loader) -> None:
        self.usual = usual

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """The usual module."""
        return self.usual.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Fills it."""
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self.usual
        try:
            self.usual.exec_module(module)
        except RuntimeError as error:
            if _OPERATOR not in str(error):
                raise
            for name in [name for name in sys.modules if name.startswith(f"{_NAME}.")]:
                del sys.modules[name]
            _declare_operators()
            self.usual.exec_module(module)


def _declare_operators() -> None:
    global _library
    import torch

    _library = torch.library.Library(_NAME, "DEF")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def mend_environment(folder: Path | None = None) -> bool:
    """Makes torchvision importable for every program of this environment, where it is not; takes the hook away where it is.

    Args:
        folder: The environment's site-packages, where they are not those of this Python.

    Returns:
        Whether the hook is in place.
    """
    hook = (folder or Path(sysconfig.get_path("purelib"))) / HOOK
    hook.unlink(missing_ok=True)
    command = [sys.executable, "-c", f"import {_NAME}"]
    tried = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if _OPERATOR in tried.stderr:
        hook.write_text(_HOOK_LINE, encoding="utf-8")
    return hook.is_file()


if __name__ == "__main__":
    mend_environment()
elif _NAME not in sys.modules:
    sys.meta_path.insert(0, _Finder())
