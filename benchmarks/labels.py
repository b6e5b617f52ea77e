"""Speed and size of the label-map store beside the published form, one RGB PNG an image.

    python benchmarks/labels.py [--maps 5000] [--clusters 919]

Maps are smooth and random, 32 x 42 positions upsampled four times from 8 x 11 as the pipeline makes them; the PNG is
the full-size mask of a 500 x 375 photograph (id = R + 256 G) that the published pipeline writes, read back as ids.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from memory import resident_mb
from PIL import Image
from torch.nn.functional import interpolate

from luss.labels.store import LabelStore
from luss.labels.writer import LabelRecord, LabelWriter

IMAGE_SIZE = (375, 500)
NUM_PNGS = 300


def make_maps(num: int, num_clusters: int, seed: int) -> Iterator[LabelRecord]:
    """Smooth random maps: a few clusters an image, attention from noise of the coarse grid."""
    generator = torch.Generator().manual_seed(seed)
    for index in range(num):
        fields = interpolate(torch.randn(1, 6, 8, 11, generator=generator), size=(32, 42), mode="bilinear")[0]
        ids = torch.randint(1, num_clusters + 1, (5,), generator=generator)
        labels = ids[fields[:5].argmax(dim=0)].numpy().astype(np.uint16)
        attention = (255 * torch.sigmoid(fields[5])).round().to(torch.uint8).numpy()
        yield LabelRecord(f"n{index % num_clusters:08d}/image_{index:07d}.JPEG", IMAGE_SIZE, labels, attention)


def timed(numbers: list[int], read: Callable[[int], object]) -> float:
    """Calls a second."""
    start = time.perf_counter()
    for number in numbers:
        read(number)
    return len(numbers) / (time.perf_counter() - start)


def size_text(size: float) -> str:
    """Bytes a map, and what that makes of ImageNet."""
    return f"{size:.0f} bytes a map ({1.2e6 * size / 1e9:.2f} GB for 1.2 million)"


def write_png(path: Path, ids: npt.NDArray[np.uint16]) -> None:
    """The published form of a pseudo label."""
    rgb = np.stack([ids % 256, ids // 256, np.zeros_like(ids)], axis=-1).astype(np.uint8)
    Image.fromarray(rgb).save(path)


def read_png(path: Path) -> npt.NDArray[np.int32]:
    """Ids of a PNG."""
    rgb = np.asarray(Image.open(path)).astype(np.int32)
    return rgb[..., 0] + 256 * rgb[..., 1]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, default=5000)
    parser.add_argument("--clusters", type=int, default=919)
    parser.add_argument("--shard", type=int, default=2048)
    arguments = parser.parse_args()
    num, shard = arguments.maps, arguments.shard
    ranges = [(first, min(first + shard, num)) for first in range(0, num, shard)]
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        writer = LabelWriter(folder, ranges, num_clusters=arguments.clusters, fingerprint="benchmark")
        seconds = 0.0
        for number, (first, stop) in enumerate(ranges):
            records = list(make_maps(stop - first, arguments.clusters, number))
            start = time.perf_counter()
            writer.write_shard(number, records)
            seconds += time.perf_counter() - start
        writer.finish(0.4, "given")
        size = sum(file.stat().st_size for file in folder.glob("*.h5")) / num
        store = LabelStore.open(folder)
        order = generator.permutation(num)[: min(num, 3000)].tolist()
        rectangle = (60.0, 40.0, 250.0, 250.0)
        print(f"{num} maps of 32 x 42, {arguments.clusters} clusters, images of {IMAGE_SIZE[1]} x {IMAGE_SIZE[0]}")
        print(
            f"store  write {num / seconds:12.0f} maps/s, {size_text(size)}; {resident_mb():.0f} MB resident with a shard's maps"
        )
        del records
        before = resident_mb()
        print(f"store  read raw  {timed(order, store.raw):8.0f} maps/s, random order")
        print(f"store  read full {timed(order[:NUM_PNGS], store.label_map):8.0f} maps/s at the image's size")
        crops = timed(order, lambda index: store.crop(index, rectangle, size=112))
        print(f"store  read crop {crops:8.0f} maps/s at 112 x 112")
        print(f"store  all reads took {resident_mb() - before:.0f} MB more")
        masks = [store.label_map(index) for index in range(min(num, NUM_PNGS))]
        paths = [folder / f"{index}.png" for index in range(len(masks))]
        write = timed(list(range(len(masks))), lambda index: write_png(paths[index], masks[index]))
        size = sum(path.stat().st_size for path in paths) / len(paths)
        read = timed(list(range(len(masks))), lambda index: read_png(paths[index]))
        print(
            f"PNG    write {write:8.0f} maps/s   {size:6.0f} bytes a map ({1.2e6 * size / 1e9:.2f} GB for 1.2 million)"
        )
        print(f"PNG    read full {read:8.0f} maps/s; the threshold is fixed and the attention lost")


if __name__ == "__main__":
    main()
