"""Speed and memory of the evaluator on synthetic maps of realistic size: images a second, one process unless asked.

python benchmarks/evaluate.py [--images 100] [--size 500x375] [--num-classes 50] [--workers 1]

Yardstick: the published evaluator takes 0.4 s an image of about 500 x 375 at one threshold, and 0.26 s for each
threshold of a curve.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import zoom

from luss.benchmark.evaluator import evaluate_folders
from luss.benchmark.image import ImageCounter
from luss.benchmark.levels import DEFAULT_THRESHOLDS
from luss.data.imagenet_s import IGNORE, read_mask, write_mask

PUBLISHED_SECONDS = 0.4
PUBLISHED_CURVE_SECONDS = 0.26 * len(DEFAULT_THRESHOLDS)

Sample = tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.float32]]


def synthesise(generator: np.random.Generator, height: int, width: int, num_classes: int) -> Sample:
    """An object with an ignored rim, a prediction in blocks with wrong clusters among them, smooth attention."""
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    centre = generator.uniform(0.35, 0.65, 2) * (height, width)
    radius = generator.uniform(0.15, 0.6) * min(height, width)
    bumps = smooth(generator, (6, 8), (height, width))
    distance = np.hypot(rows - centre[0], columns - centre[1]) / radius + 0.4 * bumps
    own, second = generator.integers(1, num_classes + 1, 2)
    mask = np.where(distance < 1, own, 0).astype(np.uint16)
    mask[(distance >= 1) & (distance < 1.03)] = IGNORE
    mask[: height // 8, : width // 4] = second
    others = generator.integers(1, num_classes + 1, 3)
    blocks = generator.integers(0, 8, (height // 8 + 1, width // 8 + 1))
    choice = blocks.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    prediction = np.where(choice < 5, own, others[np.maximum(choice - 5, 0)]).astype(np.uint16)
    attention = 0.9 - 0.5 * distance + 0.1 * smooth(generator, (24, 32), (height, width))
    return prediction, mask, np.clip(attention, 0, 1).astype(np.float32)


def smooth(generator: np.random.Generator, coarse: tuple[int, int], size: tuple[int, int]) -> NDArray[np.float32]:
    """Uniform noise of the coarse grid, enlarged linearly."""
    values = generator.random(coarse)
    scale = (size[0] / coarse[0], size[1] / coarse[1])
    return zoom(values, scale, order=1, mode="nearest", grid_mode=True).astype(np.float32)


def write(folder: Path, samples: list[Sample]) -> None:
    """Writes predictions, masks, attention and predictions cut at 0.4, as an inference run would leave them."""
    for index, (prediction, mask, attention) in enumerate(samples):
        name = f"n{index % 10:08d}/{index:06d}.png"
        write_mask(folder / "predictions" / name, prediction)
        write_mask(folder / "cut" / name, np.where(attention < np.float32(0.4), 0, prediction))
        write_mask(folder / "masks" / name, mask)
        target = (folder / "attention" / name).with_suffix(".npy")
        target.parent.mkdir(parents=True, exist_ok=True)
        np.save(target, attention)


def report(name: str, run: Callable[[], object], num_images: int, published: float) -> None:
    """Measures a call (the better of three) and prints its row."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    each = min(seconds) / num_images
    print(f"{name:<46}{1 / each:>10.1f}{1000 * each:>8.2f}{published / each:>14.0f} x", flush=True)


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--size", default="500x375", help="width x height")
    parser.add_argument("--num-classes", type=int, default=50)
    parser.add_argument("--workers", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Measures and prints the table."""
    arguments = parse()
    width, height = map(int, arguments.size.split("x"))
    num, classes = arguments.images, arguments.num_classes
    generator = np.random.default_rng(0)
    samples = [synthesise(generator, height, width, classes) for _ in range(num)]
    plain, curve = ImageCounter(classes), ImageCounter(classes, DEFAULT_THRESHOLDS)
    single, many = PUBLISHED_SECONDS, PUBLISHED_CURVE_SECONDS
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(folder, samples)

        def folders(predictions: str, thresholds: tuple[float, ...] | None) -> None:
            evaluate_folders(
                folder / predictions,
                folder / "masks",
                num_classes=classes,
                attention=None if thresholds is None else folder / "attention",
                thresholds=thresholds,
                workers=arguments.workers,
            )

        paths = [*folder.glob("cut/*/*.png"), *folder.glob("masks/*/*.png")]
        print(f"{num} images of {width} x {height}, C = {classes}, {arguments.workers} process(es) on folders")
        print(f"{'':<46}{'images/s':>10}{'ms':>8}{'vs published':>16}")
        report("decoding prediction and mask, no more", lambda: [read_mask(path) for path in paths], num, single)
        report("counting in memory", lambda: [plain.count(*sample[:2]) for sample in samples], num, single)
        report("counting in memory, 81 thresholds", lambda: [curve.count(*sample) for sample in samples], num, many)
        report("folders, every metric", lambda: folders("cut", None), num, single)
        report("folders with attention, one threshold", lambda: folders("predictions", (0.4,)), num, single)
        report("folders with attention, 81 thresholds", lambda: folders("predictions", DEFAULT_THRESHOLDS), num, many)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    held = sum(array.nbytes for sample in samples for array in sample) / 2**20
    print(f"peak memory {peak:.0f} MiB, of which {held:.0f} MiB are the synthetic images")


if __name__ == "__main__":
    main()
