"""How far the mIoU of finished runs would move with other validation images: percentiles of a bootstrap over the images.

    python benchmarks/bootstrap.py outputs/RUN ... --masks DATA/validation-segmentation [--split validation] [--draws 500]

Images are drawn with replacement; the matching stays that of the run. Prints a markdown table.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from luss.benchmark.folders import find_pairs
from luss.data.imagenet_s import IGNORE, read_mask
from luss.files import read_json

Numbers = NDArray[np.int64]


def counts_of(run: Path, split: str, masks: Path) -> Numbers:
    """(3, images, C + 1) pixels of each image and class: right, predicted, true."""
    metrics = read_json(run / "evaluate" / "metrics.json")["splits"][split]
    num_classes = len(metrics["ious"]) - 1
    category_of = np.zeros(IGNORE, np.int64)
    for cluster, category in metrics["matching"].items():
        category_of[int(cluster)] = category
    pairs, _ = find_pairs(run / "predict" / "masks" / split, masks)
    found = np.zeros((3, len(pairs), num_classes + 1), np.int64)
    for image, pair in enumerate(pairs):
        true = read_mask(pair.mask)
        kept = true != IGNORE
        true, predicted = true[kept], category_of[read_mask(pair.prediction)[kept]]
        for row, ids in enumerate((true[true == predicted], predicted, true)):
            found[row, image] = np.bincount(ids, minlength=num_classes + 1)
    return found


def miou(counts: Numbers) -> float:
    """Mean over the classes, background included, in percent."""
    right, predicted, true = counts.sum(axis=1)
    return float(100 * np.mean(right / np.maximum(predicted + true - right, 1)))


def main() -> None:
    """Prints a row a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--masks", type=Path, required=True)
    parser.add_argument("--split", default="validation")
    parser.add_argument("--draws", type=int, default=500)
    options = parser.parse_args()
    print("| run | mIoU | 95 % of the draws | standard deviation |\n|---|---|---|---|")
    for run in options.runs:
        counts = counts_of(run, options.split, options.masks)
        generator, num_images = np.random.default_rng(0), counts.shape[1]
        drawn = [miou(counts[:, generator.integers(0, num_images, num_images)]) for _ in range(options.draws)]
        low, high = np.percentile(drawn, [2.5, 97.5])
        print(f"| {run.name} | {miou(counts):.1f} | {low:.1f} to {high:.1f} | {np.std(drawn):.1f} |", flush=True)


if __name__ == "__main__":
    main()
