"""The formats of `luss export`: one file a format, whose `FORMAT` says what it writes (`luss.export.formats`), and one line below.

The lines are all that is read to print a help text: some formats need extra packages, and torch takes seconds.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from luss.export.formats import Format

# Name -> module here, and what it writes.
FORMATS: dict[str, tuple[str, str]] = {
    "model": ("model", "the segmenter as one folder that can be copied anywhere: weights and config.json"),
    "timm": ("timm_backbone", "the pretrained and the fine-tuned backbone as weights for timm"),
    "onnx": ("onnx", "the segmenter with its decisions, for onnxruntime"),
    "torch-export": ("torch_export", "the same as a .pt2 file for torch.export.load"),
    "png": ("png", "label maps, id = R + 256 G as in ImageNet-S"),
    "palette": ("palette", "label maps in colour, for at most 255 clusters"),
    "coco": ("coco", "COCO json with run-length masks"),
    "yolo": ("yolo", "polygons and data.yaml for YOLO's segmentation"),
    "label-studio": ("label_studio", "tasks for Label Studio with brush masks to correct"),
    "cvat": ("cvat", "zip files for CVAT, Segmentation mask 1.1"),
    "torch": ("torch_folder", "the stored labels with a torch Dataset in one file, for use without luss"),
    "imagenet-s-zip": ("imagenet_s_zip", "a submission to ImageNet-S: predicted masks, method.txt, match.json"),
    "webdataset": ("webdataset", "tar shards of images, masks and json"),
}

PREDICTED = ("png", "palette", "npz", "coco", "label-studio", "cvat")
"""The formats of `luss predict`, which `luss.export.predicted` writes."""


def load_format(name: str) -> "Format":
    """Imports a format; `name` is a key of `FORMATS`."""
    found: Format = importlib.import_module(f"{__name__}.{FORMATS[name][0]}").FORMAT
    return found
