"""Large-scale unsupervised semantic segmentation: from a folder of unlabelled images to pixel masks of discovered categories.

The names below are what a notebook needs; each has an example in its docstring. They are imported when they are first used, so that
`import luss` is instant. The pipeline itself is `from stages.api import run, run_stage`: the library knows no stages.

    load_config              a run's settings from YAML and words
    Segmenter, Segmentation  a trained model: images in, label maps and confidence out
    PseudoLabels             images with their pseudo labels as a torch data set
    LabelStore               the label maps themselves: any size, any crop, any threshold
    evaluate                 the metrics of ImageNet-S for folders of predictions and masks
    hungarian                the matching of clusters to categories
    Manifest                 the list of images of a run
    make_shapes              the embedded data set
    palette, overlay         colours for clusters, and a label map over its image
    LussError                what every mistake in the input raises
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luss.benchmark.evaluator import evaluate_folders as evaluate
    from luss.benchmark.matching import hungarian
    from luss.config import load_config
    from luss.data.manifest import Manifest
    from luss.data.shapes import make_shapes
    from luss.errors import LussError
    from luss.labels.dataset import PseudoLabels
    from luss.labels.palette import overlay, palette
    from luss.labels.store import LabelStore
    from luss.segmenter import Segmentation, Segmenter

__version__ = "0.1.0"

__all__ = [
    "LabelStore",
    "LussError",
    "Manifest",
    "PseudoLabels",
    "Segmentation",
    "Segmenter",
    "evaluate",
    "hungarian",
    "load_config",
    "make_shapes",
    "overlay",
    "palette",
]

# Name -> its module, and its name there.
_HOMES = {
    "LabelStore": ("luss.labels.store", "LabelStore"),
    "LussError": ("luss.errors", "LussError"),
    "Manifest": ("luss.data.manifest", "Manifest"),
    "PseudoLabels": ("luss.labels.dataset", "PseudoLabels"),
    "Segmentation": ("luss.segmenter", "Segmentation"),
    "Segmenter": ("luss.segmenter", "Segmenter"),
    "evaluate": ("luss.benchmark.evaluator", "evaluate_folders"),
    "hungarian": ("luss.benchmark.matching", "hungarian"),
    "load_config": ("luss.config", "load_config"),
    "make_shapes": ("luss.data.shapes", "make_shapes"),
    "overlay": ("luss.labels.palette", "overlay"),
    "palette": ("luss.labels.palette", "palette"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    globals()[name] = getattr(importlib.import_module(module), attribute)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
