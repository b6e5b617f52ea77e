"""`luss.Segmenter`: a model folder or a run, images of any kind in, label maps and confidence out."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from luss.config import load_config, to_yaml
from luss.data.images import UnreadableImage
from luss.data.manifest import Manifest, build_manifest
from luss.data.skipped import SkippedFiles
from luss.errors import LussError
from luss.labels.layers import Edits, read_edits
from luss.labels.store import LabelStore
from luss.labels.writer import LabelRecord, LabelWriter
from luss.models.build import build_backbone
from luss.models.io import save_segmenter
from luss.models.segmenter import SegmentationNetwork
from luss.predict import predict_images
from luss.segmenter import Segmenter, check_names
from luss.settings import PredictSettings

pytestmark = pytest.mark.slow

SETTINGS = PredictSettings(short_side=32, total_foreground=True, image_weight=0.5, workers=0)

LEAST = 0.9


def sharpen(network: SegmentationNetwork) -> None:
    """An untrained network says nearly the same everywhere: makes its head listen to what differs."""
    with torch.no_grad():
        blobs = torch.nn.functional.interpolate(torch.randn(8, 3, 5, 5), size=64, mode="bilinear")
        features = network.backbone(blobs).last
        weight = (
            0.3
            * torch.randn(network.head.weight.shape)
            / features.std(dim=(0, 2, 3))[None, :, None, None].clamp(min=1e-6)
        )
        network.head.weight.copy_(weight)
        network.head.bias = torch.nn.Parameter(-torch.einsum("clhw,l->c", weight, features.mean(dim=(0, 2, 3))))


def save_model(
    folder: Path, *, num_clusters: int = 5, decoding: PredictSettings | None = SETTINGS, **extra: Any
) -> Path:
    torch.manual_seed(0)
    network = SegmentationNetwork(build_backbone("test_resnet", output_stride=8), num_clusters).eval()
    sharpen(network)
    save_segmenter(folder, network, num_clusters=num_clusters, decoding=decoding, **extra)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    paths = []
    for name, (height, width) in {"a.png": (40, 60), "b.png": (50, 35), "c.png": (40, 60), "d.jpg": (300, 500)}.items():
        small = generator.integers(0, 256, (5, 5, 3), np.uint8)
        Image.fromarray(small).resize((width, height)).save(folder / name)
        paths.append(folder / name)
    return paths


def test_label_maps_and_confidence_have_the_sizes_and_the_order_of_the_images(model: Path, photos: list[Path]) -> None:
    result = Segmenter.load(model)(photos, batch_size=2)
    assert len(result) == 4
    assert [m.shape for m in result.label_maps] == [(40, 60), (50, 35), (40, 60), (300, 500)]
    assert [c.shape for c in result.confidence] == [m.shape for m in result.label_maps]
    assert {m.dtype for m in result.label_maps} == {np.dtype(np.uint16)}
    assert {c.dtype for c in result.confidence} == {np.dtype(np.float32)}
    assert all(c.min() >= 0 and c.max() <= 1 for c in result.confidence)
    assert len({int(i) for m in result.label_maps for i in np.unique(m)}) > 1
    assert not np.array_equal(result.label_maps[0], result.label_maps[2])


def test_a_path_a_picture_and_an_array_give_the_same(model: Path, photos: list[Path]) -> None:
    segmenter = Segmenter.load(model)
    with Image.open(photos[0]) as picture:
        picture.load()
    array = np.asarray(picture)
    wanted = segmenter([photos[0]])
    for same in (photos[0], str(photos[0]), picture, array, [array], array[None], picture.convert("RGBA")):
        found = segmenter(same)
        assert np.array_equal(found.label_maps[0], wanted.label_maps[0])
        assert np.array_equal(found.confidence[0], wanted.confidence[0])


def test_grey_arrays_are_pictures_too(model: Path) -> None:
    grey = np.linspace(0, 255, 40 * 60, dtype=np.uint8).reshape(40, 60)
    segmenter = Segmenter.load(model)
    assert np.array_equal(segmenter(grey).label_maps[0], segmenter(np.stack([grey] * 3, axis=2)).label_maps[0])


def test_it_says_what_a_pass_over_a_folder_says(model: Path, photos: list[Path], tmp_path: Path) -> None:
    segmenter = Segmenter.load(model)
    build_manifest(photos[0].parent, tmp_path, "all", skipped=SkippedFiles(tmp_path / "skipped.csv"))
    manifest = Manifest.open(tmp_path, "all")
    result = segmenter(photos)
    passed = predict_images(
        segmenter.network,
        manifest,
        range(4),
        SETTINGS,
        device=torch.device("cpu"),
        max_image_pixels=10**8,
        with_confidence=True,
    )
    for prediction in passed:
        assert prediction.confidence is not None
        assert np.array_equal(prediction.labels, result.label_maps[prediction.index])
        assert np.array_equal(prediction.confidence, result.confidence[prediction.index])


def test_pixels_below_the_least_confidence_become_background(model: Path, photos: list[Path]) -> None:
    segmenter = Segmenter.load(model)
    free, strict = segmenter(photos[0]), segmenter(photos[0], min_confidence=LEAST)
    low = free.confidence[0] < LEAST
    assert low.any()
    assert not low.all()
    assert np.array_equal(strict.label_maps[0], np.where(low, 0, free.label_maps[0]))
    assert np.array_equal(strict.confidence[0], free.confidence[0])


def test_a_very_wide_photograph_with_919_clusters_takes_bounded_memory(tmp_path: Path) -> None:
    segmenter = Segmenter.load(
        save_model(tmp_path, num_clusters=919, decoding=PredictSettings(short_side=32, max_pixels=20_000))
    )
    image = np.zeros((300, 20_000, 3), np.uint8)
    with LargestTensor() as largest:  # type: ignore[no-untyped-call]
        result = segmenter(image)
    assert result.label_maps[0].shape == result.confidence[0].shape == (300, 20_000)
    # All its logits would be 5.5 thousand million numbers; the largest tensor is the confidence, one number a pixel.
    assert largest.numel <= 300 * 20_000 + 8_000_000


class LargestTensor(TorchDispatchMode):  # type: ignore[no-untyped-call]
    numel = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


def run_folder(folder: Path, model: Path, **predict: Any) -> Path:
    """As a run leaves it: a model of its finetune stage, without settings of predictions, and the run's configuration."""
    folder.mkdir()
    shutil.copytree(model, folder / "finetune")
    config = folder / "finetune" / "config.json"
    content = json.loads(config.read_text())
    del content["decoding"]
    config.write_text(json.dumps(content))
    (folder / "plain.yaml").write_text("name: x\ndata: {root: shapes}\n")
    run = load_config(folder / "plain.yaml", [f"predict.{key}={value}" for key, value in predict.items()])
    (folder / "finetune" / "config.yaml").write_text(to_yaml(run))
    return folder


def test_a_run_decides_by_its_own_settings(model: Path, photos: list[Path], tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", model, short_side=32, total_foreground=True, image_weight=0.5, workers=0)
    wanted = Segmenter.load(model)(photos).label_maps
    for path in (run, run / "finetune"):
        segmenter = Segmenter.load(path)
        assert segmenter.settings == SETTINGS
        assert all(np.array_equal(one, other) for one, other in zip(segmenter(photos).label_maps, wanted, strict=True))


def test_a_copied_stage_folder_decides_by_its_own_settings_whatever_lies_beside_it(model: Path, tmp_path: Path) -> None:
    for place, (name, weight) in enumerate([("a", 0.25), ("b", 0.75)]):
        run = run_folder(tmp_path / f"run-{name}", model, image_weight=weight)
        shutil.copytree(run / "finetune", tmp_path / "models" / name)
        os.utime(tmp_path / "models" / name / "config.yaml", (place, place))
    found = [Segmenter.load(tmp_path / "models" / name).settings.image_weight for name in ("a", "b")]
    assert found == [0.25, 0.75]


def test_inside_a_run_the_settings_of_the_last_stage_count_whatever_the_times_of_a_copy_say(
    model: Path, tmp_path: Path
) -> None:
    run = run_folder(tmp_path / "run", model, image_weight=0.25)
    (run / "predict").mkdir()
    newer = load_config(run / "finetune" / "config.yaml", ["predict.image_weight=0.75"])
    (run / "predict" / "config.yaml").write_text(to_yaml(newer))
    os.utime(run / "predict" / "config.yaml", (0, 0))
    assert Segmenter.load(run).settings.image_weight == 0.75
    last = load_config(run / "finetune" / "config.yaml", ["predict.image_weight=0.5"])
    (run / "run.yaml").write_text(to_yaml(last))
    assert Segmenter.load(run).settings.image_weight == 0.5


def test_clusters_have_the_names_that_were_given(model: Path, tmp_path: Path) -> None:
    assert Segmenter.load(model).names == {0: "background", **{i: f"cluster {i}" for i in range(1, 6)}}
    assert Segmenter.load(model, names={3: "dog"}).names[3] == "dog"
    named = save_model(tmp_path / "named", names={2: "cat", 3: "fish"})
    names = Segmenter.load(named, names={3: "dog"}).names
    assert [names[i] for i in range(4)] == ["background", "cluster 1", "cat", "dog"]


def test_a_run_brings_the_names_that_were_given_to_its_labels(model: Path, tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", model)
    labels = run / "pseudo_labels" / "labels"
    writer = LabelWriter(labels, [(0, 1)], num_clusters=5, fingerprint="f")
    writer.write_shard(0, [LabelRecord("a.jpg", (4, 4), np.ones((2, 2), np.uint16), np.ones((2, 2), np.uint8))])
    writer.finish(0.5, "given")
    LabelStore.open(labels).layers.add(Edits(names={4: "bird"}))
    assert Segmenter.load(run).names[4] == "bird"


@pytest.mark.parametrize("content", ['{"3": "dog"}', '{"names": {"3": "dog"}, "merge": [[1, 2]], "drop": [4]}'])
def test_names_are_read_alone_or_as_the_report_writes_them(tmp_path: Path, content: str) -> None:
    (tmp_path / "names.json").write_text(content)
    assert check_names(read_edits(tmp_path / "names.json").names, 5, source="names.json") == {3: "dog"}


def test_names_of_unknown_clusters_are_listed_with_the_valid_range(tmp_path: Path, model: Path) -> None:
    (tmp_path / "names.json").write_text('{"3": "dog", "9": "cat", "0": "sky", "77": "fish"}')
    with pytest.raises(
        LussError, match=r"names\.json names 9, 0, 77, but the clusters of this model have the ids 1 to 5"
    ):
        check_names(read_edits(tmp_path / "names.json").names, 5, source="names.json")
    with pytest.raises(LussError, match="names 6, but"):
        Segmenter.load(model, names={6: "cow"})


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_model_folder_without_one_of_its_files_is_an_error(model: Path, tmp_path: Path, missing: str) -> None:
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model" / missing).unlink()
    with pytest.raises(LussError, match=rf"{missing} does not exist: a model is the folder of both"):
        Segmenter.load(tmp_path / "model")


def test_a_folder_without_a_model_is_told_from_a_run_that_is_not_finished(tmp_path: Path) -> None:
    with pytest.raises(LussError, match="is not a folder"):
        Segmenter.load(tmp_path / "nowhere")
    with pytest.raises(LussError, match="holds no model"):
        Segmenter.load(tmp_path)
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain" / "config.yaml").write_text("name: x\n")
    with pytest.raises(LussError, match="has no model yet: run its finetune stage"):
        Segmenter.load(tmp_path)


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), 7, torch.zeros(3, 4, 4)],
)
def test_what_is_no_image_is_refused(model: Path, image: Any) -> None:
    with pytest.raises(LussError, match="an image is a file, a PIL image or an array"):
        Segmenter.load(model)([image])


def test_an_unreadable_file_is_named(model: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"no picture")
    with pytest.raises(UnreadableImage, match=r"x\.jpg"):
        Segmenter.load(model)(tmp_path / "x.jpg")


def test_a_device_that_is_not_there_is_refused(model: Path) -> None:
    with pytest.raises(LussError, match="device is 'cuda:77'"):
        Segmenter.load(model, device="cuda:77")


def test_a_confidence_out_of_range_is_refused(model: Path, photos: list[Path]) -> None:
    with pytest.raises(LussError, match=r"min_confidence is 1\.5"):
        Segmenter.load(model)(photos, min_confidence=1.5)
