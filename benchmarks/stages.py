"""Images a second and megabytes of every stage's inner loop, on embedded pictures.

    python benchmarks/stages.py [--images 512] [--size 96] [--backbone resnet18] [--threads 2]

Prints a markdown table (docs/performance.md keeps one). Peers run in the same process, one after the other: Pillow's own calls beside the
view pipeline, a bare timm training step beside the method's, faiss and scikit-learn beside the two k-means engines, one PNG a map beside the
label store.
"""

import argparse
import contextlib
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from memory import resident_mb
from PIL import Image
from sklearn.datasets import load_sample_images

from luss.data.images import read_image
from luss.data.manifest import Manifest, build_manifest
from luss.data.resized import cropped_batches
from luss.data.shapes import make_shapes
from luss.data.skipped import SkippedFiles
from luss.data.views import ViewDataset
from luss.methods.base import Given
from luss.methods.pass_s import PassS, PassSSettings
from luss.models.attended import AttendedBackbone
from luss.models.build import build_backbone
from luss.models.pixel_attention import PixelAttention
from luss.settings import ExtractFeaturesSettings, ViewSettings
from luss.training.precision import Precision
from luss.training.task import Progress

Row = tuple[str, float, float]


def timed(work: Callable[[], int], *, seconds: float = 3.0) -> float:
    """Units a second of a piece of work that says how many units it did; warmed up once."""
    work()
    start, units = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        units += work()
    return units / elapsed


def views(manifest: Manifest, dataset: ViewDataset, size: int) -> Iterator[Row]:
    """Decoding and cutting views, one thread, beside the same decode and one resize with plain Pillow."""
    count = [0]

    def cut() -> int:
        for _ in range(32):
            count[0] = (count[0] + 1) % len(dataset)
            dataset[0, count[0]]
        return 32

    def plain() -> int:
        for index in range(32):
            with Image.open(manifest.path(index)) as image:
                np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
        return 32

    yield "decode + two views, one thread", timed(cut), resident_mb()
    yield "peer: Pillow decode + one resize", timed(plain), resident_mb()


def photographs(folder: Path) -> Iterator[Row]:
    """Decoding alone, and with two views of 224 pixels, of photographs of ImageNet's usual size on one thread."""
    folder.mkdir()
    for index, photograph in enumerate(load_sample_images().images):
        Image.fromarray(photograph).resize((500, 375)).save(folder / f"{index}.jpg", quality=92)
    build_manifest(
        folder, folder / "list", "train", max_pixels=10**8, skipped=SkippedFiles(folder / "list" / "skipped.csv")
    )
    manifest = Manifest.open(folder / "list", "train")
    dataset = ViewDataset([manifest], [ViewSettings(2, 224, (0.14, 1.0))], seed=0, max_pixels=10**8)

    def decode() -> int:
        for index in range(len(manifest)):
            np.asarray(read_image(manifest.path(index)))
        return len(manifest)

    def cut() -> int:
        for index in range(len(dataset)):
            dataset[0, index]
        return len(dataset)

    yield "decode a 500 x 375 JPEG, one thread", timed(decode), resident_mb()
    yield "decode it + two views of 224 pixels, one thread", timed(cut), resident_mb()


def steps(dataset: ViewDataset, method: PassS, batch_size: int, precision: Precision) -> Iterator[Row]:
    """A training step of PASS_s from uint8 views on, beside forward and backward of the bare timm network on as many crops."""
    method.train()
    # nn.Module.to takes memory_format, but its type stub lacks it.
    method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch = dataset.collate([dataset[0, index] for index in range(batch_size)])
    optimizer = torch.optim.SGD(method.parameters(), lr=0.0)
    crops = method.prepare(batch, precision.device).groups[0].flat()

    def step() -> int:
        with precision.autocast():
            output = method(method.prepare(batch, precision.device), Progress(0, 1, log=False))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        return batch_size

    def bare() -> int:
        with precision.autocast():
            loss = method.backbone(crops).last.float().mean()
        optimizer.zero_grad()
        loss.backward()
        return batch_size

    yield f"PASS_s training step, batch {batch_size}, {precision.name}", timed(step), resident_mb()
    yield f"peer: bare timm forward + backward, {precision.name}", timed(bare), resident_mb()


def features(manifest: Manifest, network: AttendedBackbone, size: int, precision: Precision) -> Iterator[Row]:
    """Attention-pooled vectors, loading included; and label maps from centroids."""
    centroids = F.normalize(torch.randn(50, network.backbone.num_channels), dim=1)

    def extract(use: Callable[[torch.Tensor], object]) -> int:
        done = 0
        for batch in cropped_batches(
            manifest,
            range(len(manifest)),
            ExtractFeaturesSettings(resize=size + size // 8, crop=size, batch_size=64, workers=0),
            max_pixels=10**8,
        ):
            images = network.backbone.normalise(batch.images)
            with precision.autocast():
                use(images)
            done += len(batch.indices)
        return done

    yield f"feature extraction, {precision.name}", timed(lambda: extract(network.vectors)), resident_mb()
    yield (
        f"label maps, 50 clusters, {precision.name}",
        timed(lambda: extract(lambda x: network.label(x, centroids))),
        resident_mb(),
    )


def main() -> None:
    """Runs everything and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--size", type=int, default=96, help="side of the views, pixels")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"{options.threads} threads, torch {torch.__version__}, {options.images} images, views of {options.size} px\n"
    )
    print("| what | images/s | resident MB |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with contextlib.redirect_stdout(io.StringIO()):
            make_shapes(
                root / "shapes", num_train=options.images, num_validation=10, num_test=10, size=options.size * 2
            )
            build_manifest(
                root / "shapes" / "train", root, "train", max_pixels=10**8, skipped=SkippedFiles(root / "skipped.csv")
            )
        manifest = Manifest.open(root, "train")
        batch_size = min(options.batch_size, options.images)
        views_of_pass = PassSSettings(global_views=ViewSettings(2, options.size, (0.14, 1.0)))
        views_of_pass.local_views.count = 0
        dataset = ViewDataset([manifest], [views_of_pass.global_views], seed=0, max_pixels=10**8)
        rows = [*views(manifest, dataset, options.size), *photographs(root / "photographs")]
        for name in ("fp32", "bf16"):
            precision = Precision(name, torch.device("cpu"))
            if precision.name == name:
                method = PassS(views_of_pass, Given(lambda: build_backbone(options.backbone), batch_size))
                rows += steps(dataset, method, batch_size, precision)
                backbone = method.backbone
                network = AttendedBackbone(backbone, PixelAttention(backbone.num_channels), target_stride=8).eval()
                rows += features(manifest, network, options.size, precision)
        for what, rate, resident in rows:
            print(f"| {what} | {rate:.0f} | {resident:.0f} |")
    print(flush=True)
    for other in ("kmeans.py", "labels.py"):
        subprocess.run([sys.executable, str(Path(__file__).with_name(other))], check=True)


if __name__ == "__main__":
    main()
