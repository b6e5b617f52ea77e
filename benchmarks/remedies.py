"""What each departure from PASS's recipe does at a small budget: one change at a time, around a base configuration.

    python -m benchmarks.remedies configs/objects27_cpu.yaml data.root=/path/to/objects27 [--out outputs/remedies] [--only NAME ...]

Representation rows train a short pretraining at 64 pixels and cluster what it learned (the last feature map on a grid, gradients left out), so
that the rows differ by the representation alone. Segmentation rows share the base's pretraining and change a later stage. Prints a markdown
table; finished rows are not run again. The agreement of clusters with categories uses the folder names: this chooses nothing by itself, but
whoever picks a row by it has used labels.
"""

import argparse
import json
import shutil
from pathlib import Path

from rich.console import Console

from luss.config import load_config
from luss.files import read_json
from stages.running.runner import run_stages, select

# Short, small and without hand-made gradients.
BASE = [
    "pretrain.epochs=5", "pretrain.method.global_views.size=64", "pretrain.method.clustering.draw_prototypes_steps=150",
    "extract_features.layout_stages=[4]", "cluster.layout_weights=[1.0]", "cluster.num_restarts=10", "pixel_attention.epochs=0",
]  # fmt: skip

REPRESENTATION: dict[str, list[str]] = {
    "base: batch 128, K = 128, lr 0.0015, 2 views of 64, train-extra, drawn prototypes": [],
    "batch 64": ["pretrain.batch_size=64"],
    "K = 512": ["pretrain.method.clustering.num_prototypes=512"],
    "lr 0.0005": ["pretrain.lr=0.0005"],
    "lr 0.004": ["pretrain.lr=0.004"],
    "train alone, as many steps": ["data.extra=[]", "pretrain.epochs=14"],
    "two more views of 40": [
        "pretrain.method.local_views.count=2",
        "pretrain.method.local_views.size=40",
        "pretrain.method.local_views.scale=[0.1,0.4]",
    ],
    "random prototypes": ["pretrain.method.clustering.draw_prototypes_steps=0"],
    "untrained": ["pretrain.epochs=0"],
    "K = 32": ["pretrain.method.clustering.num_prototypes=32"],
    "LARS, lr 0.6": ["pretrain.optimizer=lars", "pretrain.lr=0.6", "pretrain.lr_batch_size=256"],
    "recipe's crops and colours": [
        "pretrain.method.global_views.scale=[0.14,1.0]", "pretrain.method.global_views.colours.brightness=0.8",
        "pretrain.method.global_views.colours.contrast=0.8", "pretrain.method.global_views.colours.saturation=0.8",
        "pretrain.method.global_views.colours.hue=0.2",
    ],
    "without P2P and D2S": [
        "pretrain.method.pixel_alignment_weight=0", "pretrain.method.shallow_stages=[]", "pretrain.method.shallow_weights=[]",
    ],
}  # fmt: skip

SEGMENTATION: dict[str, list[str]] = {
    "base": [],
    "learned attention without the saliency teacher": ["pixel_attention.saliency.weight=0", "pseudo_labels.saliency=0"],
    "learned attention with the teacher": ["pseudo_labels.saliency=0"],
    "threshold 0.25": ["pseudo_labels.threshold=0.25"],
    "threshold 0.5": ["pseudo_labels.threshold=0.5"],
    "threshold found with masks": ["pseudo_labels.threshold=validation"],
    "stride 32": ["finetune.output_stride=32"],
    "stride 16": ["finetune.output_stride=16"],
    "crops of 60 % of the image and more": ["finetune.scale=[0.6,1.0]"],
}


def run(config: Path, words: list[str], folder: Path, *, until: str) -> None:
    """One row, continued or left alone when it is done."""
    settings = load_config(config, [*words, f"name={folder.name}", f"output={folder}"])
    run_stages(settings, select(settings, until=until), console=Console(quiet=True))


def last_loss(folder: Path) -> str:
    """SwAV's part of the loss at the end of pretraining."""
    path = folder / "pretrain" / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    values = [line["swav"] for line in map(json.loads, lines) if "swav" in line]
    return f"{values[-1]:.2f}" if values else ""


def representation(config: Path, words: list[str], out: Path, only: list[str]) -> None:
    """Prints the first table."""
    print("| representation | SwAV loss | NMI | accuracy of the clusters |\n|---|---|---|---|", flush=True)
    for place, (name, changes) in enumerate(REPRESENTATION.items()):
        if only and not any(word in name for word in only):
            continue
        folder = out / f"representation-{place:02d}"
        run(config, [*words, *BASE, *changes], folder, until="cluster")
        figures = read_json(folder / "cluster" / "DONE.json")["figures"]
        print(
            f"| {name} | {last_loss(folder)} | {100 * figures['nmi']:.1f} | {100 * figures['accuracy']:.1f} |",
            flush=True,
        )


def segmentation(config: Path, words: list[str], out: Path, only: list[str], pretrained: Path) -> None:
    """Prints the second table; the rows start from the finished stages of `pretrained`."""
    print("| labels and segmenter | mIoU | image accuracy | F-measure |\n|---|---|---|---|", flush=True)
    for place, (name, changes) in enumerate(SEGMENTATION.items()):
        if only and not any(word in name for word in only):
            continue
        folder = out / f"segmentation-{place:02d}"
        if not folder.exists():
            shutil.copytree(pretrained, folder, ignore=shutil.ignore_patterns("superseded", "report"))
        run(config, [*words, *changes], folder, until="evaluate")
        found = read_json(folder / "evaluate" / "metrics.json")["splits"]["validation"]
        print(
            f"| {name} | {found['miou']:.1f} | {found['image_accuracy']:.1f} | {found['f_measure']:.1f} |", flush=True
        )


def main() -> None:
    """Parses the command line and prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--out", type=Path, default=Path("outputs/remedies"))
    parser.add_argument("--only", nargs="*", default=[], help="rows whose name contains one of these")
    parser.add_argument(
        "--pretrained", type=Path, help="a finished run of the configuration: also measures the later stages"
    )
    options = parser.parse_args()
    representation(options.config, options.words, options.out, options.only)
    if options.pretrained:
        segmentation(options.config, options.words, options.out, options.only, options.pretrained)


if __name__ == "__main__":
    main()
