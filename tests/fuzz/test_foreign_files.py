"""Files of strangers, valid ones with some bytes or values changed: they are read, or refused in words; never anything else, never much memory."""

import contextlib
import copy
import json
import math
import signal
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from luss.config import load_stored_config
from luss.data.images import read_image, read_size
from luss.data.manifest import Manifest, build_manifest
from luss.data.skipped import SkippedFiles
from luss.errors import LussError
from luss.export.job import ExportFolder
from luss.features.store import FeatureStore, FeatureWriter
from luss.labels.layers import Edits, read_edits
from luss.labels.store import LabelStore
from luss.labels.writer import LabelRecord, LabelWriter
from luss.methods.saved import load_heads
from luss.models.build import build_backbone
from luss.models.io import backbone_channels, load_backbone, load_tensors, save_backbone, save_segmenter, save_tensors
from luss.models.segmenter import SegmentationNetwork
from luss.segmenter import Segmenter
from luss.settings import PredictSettings
from stages.running.folder import DONE, done_record

MEMORY, SECONDS = 64 << 20, 10
# The same examples each time: what the suite says does not depend on luck.
quickly = settings(
    max_examples=20,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

Mutation = Callable[[bytes], bytes]


def at(share: float, content: bytes) -> int:
    return min(int(share * len(content)), len(content))


def overwritten(share: float, value: bytes) -> Mutation:
    return lambda content: (content[: (i := at(share, content))] + value + content[i + len(value) :])[: len(content)]


def inserted(share: float, value: bytes) -> Mutation:
    return lambda content: content[: (i := at(share, content))] + value + content[i:]


def removed(share: float, value: bytes) -> Mutation:
    return lambda content: content[: (i := at(share, content))] + content[i + len(value) :]


def cut(share: float, value: bytes) -> Mutation:
    return lambda content: content[: at(share, content)]


# Numbers that headers are not made for, and text that closes or opens something.
VALUES = st.one_of(
    st.binary(min_size=1, max_size=4),
    st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1, 2**40]).map(
        lambda n: n.to_bytes(8, "little")
    ),
    st.sampled_from([2**16 - 1, 2**31 - 1, 2**32 - 1]).map(lambda n: n.to_bytes(4, "big")),
    st.sampled_from(
        [
            b"\0" * 64,
            b"[" * 64,
            b"{",
            b"}",
            b'"',
            b"\n",
            b"\t",
            b"../../",
            b"-",
            b"9" * 30,
            b"\xff\xfe",
            b"&a [*a]",
            b"'",
        ]
    ),
)
# Headers lie at the beginning; the rest of a file is reached too.
PLACES = st.one_of(st.floats(0, 0.1), st.floats(0, 1))
MUTATIONS = st.lists(
    st.builds(
        lambda kind, share, value: kind(share, value),
        st.sampled_from([overwritten, overwritten, inserted, removed, cut]),
        PLACES,
        VALUES,
    ),
    min_size=1,
    max_size=4,
)
ODD = st.one_of(
    st.sampled_from(
        [
            None,
            True,
            [],
            {},
            [[]],
            "",
            "x",
            "../../x",
            "/etc/passwd",
            "\ud800",
            "\0",
            {"a": {}},
            -1,
            0,
            0.5,
            2**31,
            2**63,
            10**400,
        ]
    ),
    st.sampled_from([math.nan, math.inf, -1e308, [1, 2, 3], ["a"], {"1": "a"}, [None] * 3, "9" * 5000]),
)


def mutated(content: bytes, mutations: list[Mutation]) -> bytes:
    for mutation in mutations:
        content = mutation(content)
    return content


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value in a tree, the root's own first."""
    yield above
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in inner:
        yield from places(below, (*above, key))


def with_odd(tree: Any, share: float, odd: Any) -> Any:
    """A copy of a tree of JSON in which one value is another."""
    tree, ways = copy.deepcopy(tree), list(places(tree))
    *way, last = ways[int(share * (len(ways) - 1))] or (None,)
    if last is None:
        return odd
    inner = tree
    for key in way:
        inner = inner[key]
    inner[last] = odd
    return tree


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Fails a test whose body runs for long, or takes much memory; passes over what is refused in words."""

    def too_long(*_: Any) -> None:
        raise AssertionError(f"took more than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    tracemalloc.start(1)
    try:
        with contextlib.suppress(LussError):
            yield
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One valid file of each kind."""
    folder = tmp_path_factory.mktemp("made")
    pixels = np.random.default_rng(0).integers(0, 256, (18, 24, 3)).astype(np.uint8)
    photos = folder / "photos"
    photos.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    for suffix in ("jpg", "png", "gif", "tif", "webp", "bmp"):
        options = {"exif": exif} if suffix in ("jpg", "png", "webp") else {}
        picture = Image.fromarray(pixels)
        (picture.quantize(16) if suffix == "png" else picture).save(photos / f"a.{suffix}", **options)
    build_manifest(photos, folder / "manifest", "train", skipped=SkippedFiles(folder / "skipped.csv"))
    labels = LabelWriter(folder / "labels", [(0, 2), (2, 3)], num_clusters=4, fingerprint="f")
    grid = np.arange(1, 5).reshape(2, 2)
    for shard, names in enumerate((("a.png", "b.png"), ("c.png",))):
        labels.write_shard(shard, [LabelRecord(name, (20, 30), grid, grid.astype(np.uint8)) for name in names])
    labels.finish(0.4, "auto")
    LabelStore.open(folder / "labels").layers.add(Edits(threshold=0.3, merge=((1, 2),), drop=(4,), names={1: "dog"}))
    features = FeatureWriter(folder / "features", 5, 3, "float32", 3, "f")
    for shard in range(2):
        features.write_shard(shard, np.ones((len(features.rows_of(shard)), 3)))
    features.finish()
    backbone = build_backbone("test_resnet")
    save_backbone(folder / "backbone", backbone, backbone.export())
    network = SegmentationNetwork(backbone, 4)
    save_segmenter(folder / "model", network, num_clusters=4, names={2: "cat"}, decoding=PredictSettings())
    save_tensors(
        folder / "heads" / "method.safetensors", {"clustering.prototypes": torch.ones(4, 3), "x": torch.ones(2)}
    )
    description = {"clustering": {"prefix": "clustering.", "settings": {"num_prototypes": 4}}}
    (folder / "heads" / "method.json").write_text(json.dumps(description))
    (folder / "names.json").write_text(
        json.dumps({"names": {"3": "dog"}, "merge": [[1, 2]], "drop": [4], "threshold": 0.5})
    )
    export = ExportFolder(folder / "export", {"format": "png"}, 4)
    export.save(1, {"files": True})
    record = {
        "stage": "cluster",
        "version": 1,
        "fingerprint": "f",
        "settings": {},
        "extra": "",
        "inputs": {},
        "id": "x",
    }
    record |= {
        "products": {"centroids.npy": 10},
        "figures": {},
        "seconds": 1.5,
        "peak_memory_mb": 2,
        "finished": "2026",
        "libraries": {},
    }
    (folder / "run" / "cluster").mkdir(parents=True)
    (folder / "run" / "cluster" / DONE).write_text(json.dumps(record))
    (folder / "run.yaml").write_text(
        "name: a\ndata: {root: photos, extra: [b]}\npretrain:\n  method: {name: swav}\n  epochs: 3\n"
    )
    return folder


def read_labels(folder: Path) -> None:
    store = LabelStore.open(folder)
    for index in range(min(len(store), 5)):
        store.label_map(index)
        store.name(index)
    list(store.image_names())
    list(store.attention_blocks())


def read_manifest(folder: Path) -> None:
    manifest = Manifest.open(folder, "train")
    list(manifest.names())
    for index in range(min(len(manifest), 8)):
        manifest.name(index)
        manifest.size(index)
    manifest.digest(len(manifest))


def read_features(folder: Path) -> None:
    store = FeatureStore.open(folder)
    assert store.read(0, min(len(store), 5)).nbytes < MEMORY


def read_model(folder: Path) -> None:
    names = Segmenter.load(folder, device="cpu").names
    assert all(isinstance(name, str) for name in names.values())


# File -> what reads it. `{}` is a copy of the folder that the file lies in.
READERS: dict[str, Callable[[Path], Any]] = {
    **{
        f"photos/a.{suffix}": lambda path: (read_size(path, 10**6), read_image(path, max_pixels=10**6))
        for suffix in ("jpg", "png", "gif", "tif", "webp", "bmp")
    },
    **{f"manifest/train.{end}": lambda path: read_manifest(path.parent) for end in ("tsv", "offsets.npy", "json")},
    **{f"labels/{name}": lambda path: read_labels(path.parent) for name in ("labels.h5", "shard-00000.h5")},
    "labels/layers/001.json": lambda path: read_labels(path.parents[1]),
    "labels/layers/current": lambda path: read_labels(path.parents[1]),
    "features/store.json": lambda path: read_features(path.parent),
    "features/shard-00000.npy": lambda path: read_features(path.parent),
    "heads/method.safetensors": load_tensors,
    "heads/method.json": lambda path: load_heads(path.parent),
    "model/config.json": lambda path: read_model(path.parent),
    "backbone/backbone.json": lambda path: (backbone_channels(path.parent), load_backbone(path.parent)),
    "names.json": read_edits,
    "export/export.json": lambda path: ExportFolder(path.parent, {"format": "png"}, 4),
    "run/cluster/DONE.json": lambda path: done_record(path.parents[1], "cluster"),
    "run.yaml": load_stored_config,
}


@contextlib.contextmanager
def changed(path: Path, content: bytes) -> Iterator[None]:
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize("name", READERS)
@quickly
@given(mutations=MUTATIONS)
def test_a_file_with_changed_bytes_is_read_or_refused_in_words(
    made: Path, name: str, mutations: list[Mutation]
) -> None:
    path = made / name
    with changed(path, mutated(path.read_bytes(), mutations)), bounded():
        READERS[name](path)


@pytest.mark.parametrize("name", [name for name in READERS if name.endswith(".json")])
@quickly
@given(share=st.floats(0, 1), odd=ODD)
def test_json_with_an_odd_value_is_read_or_refused_in_words(made: Path, name: str, share: float, odd: Any) -> None:
    path = made / name
    with changed(path, json.dumps(with_odd(json.loads(path.read_bytes()), share, odd)).encode()), bounded():
        READERS[name](path)


@pytest.mark.parametrize("name", [name for name in READERS if name.endswith((".json", ".yaml"))])
def test_nesting_without_end_is_refused_in_words(made: Path, name: str) -> None:
    path = made / name
    for content in (b"[" * 100_000, b'{"a":' * 100_000):
        with changed(path, content), pytest.raises(LussError):
            READERS[name](path)


def test_yaml_that_unfolds_to_more_than_memory_holds_is_refused_in_words(made: Path) -> None:
    lines = [
        f"a{place}: &a{place} [{', '.join([f'*a{place - 1}'] * 9)}]" if place else "a0: &a0 [x]" for place in range(12)
    ]
    for content in ("\n".join(lines), "a: &a [*a]", "a: &a {b: *a}"):
        with changed(made / "run.yaml", content.encode()), bounded(), pytest.raises(LussError):
            READERS["run.yaml"](made / "run.yaml")
