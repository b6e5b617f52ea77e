"""`luss export`: a run's model, masks or pseudo labels in the formats of other programs."""

import argparse
import importlib
from pathlib import Path

from rich.console import Console

from luss.errors import LussError
from stages.commands.base import run_argument

HELP = "write a run's model, masks or pseudo labels for other programs"

# Format -> its module in stages/exports, and what it is. Imported only when asked for: some need extra packages.
FORMATS: dict[str, tuple[str, str]] = {
    "model": ("model", "the segmenter as one folder that can be copied anywhere: weights and config.json"),
    "timm": ("timm_backbone", "the pretrained and the fine-tuned backbone as weights for timm"),
    "onnx": ("onnx", "the segmenter with its decisions, for onnxruntime"),
    "torch-export": ("torch_export", "the same as a .pt2 file for torch.export.load"),
    "png": ("png", "label maps, id = R + 256 G as in ImageNet-S"),
    "palette": ("palette", "label maps in colour, for at most 255 clusters"),
    "coco": ("coco", "COCO json with run-length masks"),
    "yolo": ("yolo", "polygons and data.yaml for YOLO's segmentation"),
    "torch": ("torch", "the stored labels with a torch Dataset in one file, for use without luss"),
    "imagenet-s-zip": ("imagenet_s_zip", "a submission to ImageNet-S: predicted masks, method.txt, match.json"),
    "webdataset": ("webdataset", "tar shards of images, masks and json"),
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "formats:\n" + "\n".join(f"  {name:<16}{text}" for name, (_, text) in FORMATS.items())
    run_argument(parser)
    parser.add_argument("--format", required=True, choices=list(FORMATS), metavar="FORMAT", help="one of those below")
    parser.add_argument("--out", required=True, type=Path, help="file or folder to write")
    parser.add_argument("--split", default="", help="train, validation, ...; each format has its usual one")


def main(options: argparse.Namespace) -> None:
    """Writes one format."""
    from stages.exports.base import ExportRequest
    from stages.running.results import settings_of_run

    console = Console()
    module = importlib.import_module(f"stages.exports.{FORMATS[options.format][0]}")
    run = settings_of_run(options.run)
    if not options.run.is_dir():
        raise LussError(f"{options.run} is not the folder of a run")
    request = ExportRequest(run, options.run, options.out, options.split, console)
    console.print(module.export(request), highlight=False, markup=False, soft_wrap=True)
