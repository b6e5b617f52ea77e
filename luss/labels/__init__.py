"""The pseudo-label data set: `PseudoLabels` (torch), `LabelStore` (the label maps), and what makes and edits them."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luss.labels.dataset import PseudoLabels
    from luss.labels.store import LabelStore

__all__ = ["LabelStore", "PseudoLabels"]

# Imported when they are first used: torch takes seconds, and the palette lives here too.
_HOMES = {"LabelStore": "luss.labels.store", "PseudoLabels": "luss.labels.dataset"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return globals()[name]
