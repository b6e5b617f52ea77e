"""Speed and memory of the evaluator on synthetic maps of realistic size, on one and on several processes.

python benchmarks/evaluate.py                                     100 images, about 500 x 375, 50 categories
python benchmarks/evaluate.py --images 12419 --num-classes 919    a set of the size of ImageNet-S919's validation

At most 400 pairs are drawn; a larger set is hard links to them, so that it costs little disk. "CPU ms" is the processor time an
image of all processes together: on a machine that others use as well it says more than the clock.

Yardstick: the published evaluator takes 0.4 s an image of about 500 x 375 at one threshold, and 0.26 s for each
threshold of a curve.
"""

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from luss.benchmark.counts import Accumulator, Counts
from luss.benchmark.evaluator import evaluate_folders
from luss.benchmark.image import ImageCounter
from luss.benchmark.levels import DEFAULT_THRESHOLDS
from luss.benchmark.metrics import evaluate
from luss.data.imagenet_s import IGNORE, read_mask, write_mask

PUBLISHED_SECONDS = 0.4
PUBLISHED_CURVE_SECONDS = 0.26 * len(DEFAULT_THRESHOLDS)
MAX_DRAWN = 400
ASPECTS = ((4, 3), (4, 3), (3, 2), (1, 1), (3, 4))

Sample = tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.float32]]


def realistic_size(generator: np.random.Generator, width: int, height: int) -> tuple[int, int]:
    """(height, width) around the given mean area: ImageNet's usual aspects, and areas that spread by a third."""
    across, down = ASPECTS[generator.integers(len(ASPECTS))]
    area = width * height * np.exp(generator.normal(-0.05, 0.3))
    unit = np.sqrt(area / (across * down))
    return round(down * unit), round(across * unit)


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
    # Imported here: worker processes import this file, and would wait for SciPy.
    from scipy.ndimage import zoom

    values = generator.random(coarse)
    scale = (size[0] / coarse[0], size[1] / coarse[1])
    return zoom(values, scale, order=1, mode="nearest", grid_mode=True).astype(np.float32)


def write(folder: Path, samples: list[Sample], num_images: int) -> None:
    """Writes predictions, masks, attention and predictions cut at 0.4, as an inference run would leave them."""
    for index in range(num_images):
        name = f"n{index % 10:08d}/{index:06d}"
        first = f"n{index % len(samples) % 10:08d}/{index % len(samples):06d}"
        for kind, suffix in (("predictions", "png"), ("cut", "png"), ("masks", "png"), ("attention", "npy")):
            target, source = folder / kind / f"{name}.{suffix}", folder / kind / f"{first}.{suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            if index >= len(samples):
                os.link(source, target)
        if index < len(samples):
            prediction, mask, attention = samples[index]
            write_mask(folder / "predictions" / f"{name}.png", prediction)
            write_mask(folder / "cut" / f"{name}.png", np.where(attention < np.float32(0.4), 0, prediction))
            write_mask(folder / "masks" / f"{name}.png", mask)
            np.save(folder / "attention" / f"{name}.npy", attention)


def cpu_seconds() -> float:
    """Processor time of this process and of those it has waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def report(name: str, run: Callable[[], object], num_images: int, published: float, repeats: int = 3) -> float:
    """Measures a call (the best of several), prints its row and returns its processor time in seconds an image."""
    clock, processor = [], []
    for _ in range(repeats):
        start, used = time.perf_counter(), cpu_seconds()
        run()
        clock.append((time.perf_counter() - start) / num_images)
        processor.append((cpu_seconds() - used) / num_images)
    each = min(clock)
    figures = f"{1 / each:>10.1f}{1000 * each:>8.2f}{1000 * min(processor):>8.2f}{published / each:>12.0f} x"
    print(f"{name:<46}{figures}", flush=True)
    return min(processor)


def report_memory_parts(samples: list[Sample], num_classes: int) -> None:
    """The parts of an evaluation without files."""
    plain, curve = ImageCounter(num_classes), ImageCounter(num_classes, DEFAULT_THRESHOLDS)
    samples = samples[:100]
    num, single, many = len(samples), PUBLISHED_SECONDS, PUBLISHED_CURVE_SECONDS
    report("counting in memory", lambda: [plain.count(*sample[:2]) for sample in samples], num, single)
    report("counting in memory, 81 thresholds", lambda: [curve.count(*sample) for sample in samples], num, many)


def report_adding(num_images: int, num_classes: int) -> None:
    """Adding up counts whose ids all differ, which hard links do not show: tiny images, counted outside the clock."""
    generator = np.random.default_rng(1)
    counter = ImageCounter(num_classes, DEFAULT_THRESHOLDS)

    def tiny() -> Counts:
        ids = generator.integers(1, num_classes + 1, (2, 4))
        prediction, mask = (row[generator.integers(0, 4, (8, 8))] for row in ids)
        return counter.count(prediction, mask, generator.random((8, 8)))

    counts = [tiny() for _ in range(num_images)]
    total = Accumulator(Counts.empty(num_classes, counter.thresholds))
    start = time.process_time()
    for each in counts:
        total.add(each)
    added = time.process_time()
    summed = total.total()
    evaluate(summed)
    seconds = time.process_time() - added
    print(
        f"adding up {num_images} images of ids of their own: {added - start:.1f} s CPU ({len(summed.pixels)} keys); "
        f"matching and metrics at 81 thresholds: {seconds:.1f} s CPU"
    )


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--size", default="500x375", help="mean width x height")
    parser.add_argument("--num-classes", type=int, default=50)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="numbers of processes to measure")
    parser.add_argument("--folder", type=Path, help="where to write the files for the time of the measurement")
    return parser.parse_args()


def main() -> None:
    """Measures and prints the table."""
    arguments = parse()
    width, height = map(int, arguments.size.split("x"))
    num, classes = arguments.images, arguments.num_classes
    generator = np.random.default_rng(0)
    sizes = [realistic_size(generator, width, height) for _ in range(min(num, MAX_DRAWN))]
    samples = [synthesise(generator, *size, classes) for size in sizes]
    single, many = PUBLISHED_SECONDS, PUBLISHED_CURVE_SECONDS
    repeats = 3 if num <= 1000 else 1
    area = np.mean([size[0] * size[1] for size in sizes])
    print(f"{num} images of {area / 1e6:.3f} megapixels in the mean, {len(samples)} of them drawn, C = {classes}")
    print(f"{'':<46}{'images/s':>10}{'ms':>8}{'CPU ms':>8}{'vs published':>14}")
    report_memory_parts(samples, classes)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        folder = Path(temporary)
        write(folder, samples, num)

        def folders(predictions: str, thresholds: tuple[float, ...] | None, workers: int) -> None:
            evaluate_folders(
                folder / predictions,
                folder / "masks",
                num_classes=classes,
                attention=None if thresholds is None else folder / "attention",
                thresholds=thresholds,
                workers=workers,
            )

        paths = [path for kind in ("cut", "masks") for path in sorted(folder.glob(f"{kind}/*/*.png"))[:100]]
        report("decoding prediction and mask, no more", lambda: [read_mask(p) for p in paths], len(paths) // 2, single)
        del samples
        for workers in arguments.workers:
            print(f"folders, {workers} process(es)")
            one = report("  every metric", lambda: folders("cut", None, workers), num, single, repeats)  # noqa: B023
            report("  attention, one threshold", lambda: folders("predictions", (0.4,), workers), num, single, repeats)  # noqa: B023
            curve = report(
                "  attention, 81 thresholds",
                lambda: folders("predictions", DEFAULT_THRESHOLDS, workers),  # noqa: B023
                num,
                many,
                repeats,
            )
            print(f"  the curve costs {curve / one:.2f} times one evaluation (processor time)")
    report_adding(min(num, 12419), classes)
    # Not of the workers: Linux counts what their parent held when it started them.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of the first process {peak:.0f} MiB, synthetic images included")


if __name__ == "__main__":
    main()
