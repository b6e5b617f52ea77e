"""Crops with their labels, the segmenter's loss, and views on the training device."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from views_of import views_of

from luss.labels.store import LabelStore
from luss.labels.writer import LabelRecord, LabelWriter
from luss.models.build import build_backbone
from luss.models.segmenter import SegmentationNetwork
from luss.settings import FinetuneSettings
from luss.tasks.segmentation import LabelledCrops, SegmentationTask
from luss.training.task import Progress

NUM_CLUSTERS = 4


@pytest.fixture
def crops(tmp_path: Path) -> LabelledCrops:
    """Images whose colour says their label: 4 x 4 blocks, red = 60 times the cluster id; the second file is broken."""
    records = []
    generator = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for index in range(3):
        labels = generator.integers(1, NUM_CLUSTERS + 1, (4, 4)).astype(np.uint16)
        pixels = np.zeros((64, 64, 3), np.uint8)
        pixels[..., 0] = 60 * labels.repeat(16, axis=0).repeat(16, axis=1)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{index}.png")
        records.append(LabelRecord(f"{index}.png", (64, 64), labels, np.full((4, 4), 255, np.uint8)))
    (tmp_path / "images" / "1.png").write_bytes(b"broken")
    writer = LabelWriter(tmp_path / "labels", [(0, 3)], num_clusters=NUM_CLUSTERS, fingerprint="f")
    writer.write_shard(0, records)
    writer.finish(0.5, "given")
    settings = FinetuneSettings(size=32, scale=(0.2, 1.0), label_stride=2)
    return LabelledCrops(tmp_path / "images", LabelStore.open(tmp_path / "labels"), settings, seed=1, max_pixels=10_000)


def test_image_and_label_show_the_same_crop_with_the_same_flip(crops: LabelledCrops) -> None:
    agreeing = total = 0
    for epoch in range(12):
        sample = crops[epoch, 0]
        assert sample["image"].shape == (3, 32, 32)
        assert sample["label"].shape == (16, 16)
        colours = sample["image"][0].reshape(16, 2, 16, 2).mean(axis=(1, 3)) / 60
        agreeing += int((np.abs(colours - sample["label"]) < 0.3).sum())
        total += 256
    # Blocks' borders are blended in the image.
    assert agreeing / total > 0.8


def test_crops_depend_on_the_epoch_and_on_nothing_else(crops: LabelledCrops) -> None:
    one, again, other = crops[0, 2], crops[0, 2], crops[1, 2]
    assert np.array_equal(one["image"], again["image"])
    assert np.array_equal(one["label"], again["label"])
    assert not np.array_equal(one["image"], other["image"])


def test_an_image_that_cannot_be_read_is_replaced_with_its_label_and_reported(crops: LabelledCrops) -> None:
    batch = crops.collate([crops[0, 1], crops[0, 2]])
    assert batch.images.dtype == torch.uint8
    assert batch.labels.dtype == torch.int64
    assert [Path(path).name for path, _ in batch.unreadable] == ["1.png"]
    colours = batch.images[0, 0].float().reshape(16, 2, 16, 2).mean(dim=(1, 3)) / 60
    assert float((colours - batch.labels[0]).abs().lt(0.3).float().mean()) > 0.8


def network() -> SegmentationNetwork:
    torch.manual_seed(0)
    return SegmentationNetwork(build_backbone("test_resnet", output_stride=16), NUM_CLUSTERS)


def test_the_loss_is_the_mean_cross_entropy_over_all_positions_background_included(crops: LabelledCrops) -> None:
    task = SegmentationTask(network()).eval()
    batch = crops.collate([crops[0, 0], crops[0, 2]])
    images, labels = task.prepare(batch, torch.device("cpu"))
    labels[0, :8] = 0
    with torch.no_grad():
        output = task((images, labels), Progress(0, 1))
        logits = F.interpolate(task.network(images), size=(16, 16), mode="bilinear", align_corners=False).double()
    expected, correct = 0.0, 0
    for image in range(2):
        for row in range(16):
            for column in range(16):
                scores, label = logits[image, :, row, column], int(labels[image, row, column])
                expected -= float(scores[label] - torch.logsumexp(scores, dim=0)) / 512
                correct += int(scores.argmax()) == label
    assert float(output.loss) == pytest.approx(expected, rel=1e-4)
    assert float(output.scalars["pixel_accuracy"]) == pytest.approx(correct / 512)


def test_images_are_normalised_as_the_backbone_expects(crops: LabelledCrops) -> None:
    task = SegmentationTask(network())
    batch = crops.collate([crops[0, 0]])
    images, _ = task.prepare(batch, torch.device("cpu"))
    torch.testing.assert_close(images, (batch.images.float() / 255 - 0.5) / 0.5)


def test_ignored_positions_count_neither_in_the_loss_nor_in_the_accuracy(crops: LabelledCrops) -> None:
    task = SegmentationTask(network(), ignored_id=1000).eval()
    images, labels = task.prepare(crops.collate([crops[0, 0], crops[0, 2]]), torch.device("cpu"))
    holes = labels.clone()
    holes[0, :5], holes[1, :, 3:] = 1000, 1000
    output = task((images, holes), Progress(0, 1))
    logits = F.interpolate(task.network(images), size=(16, 16), mode="bilinear", align_corners=False)
    counted = holes != 1000
    kept = logits.permute(0, 2, 3, 1)[counted]
    torch.testing.assert_close(output.loss, F.cross_entropy(kept, labels[counted]))
    accuracy = (kept.argmax(dim=1) == labels[counted]).float().mean()
    torch.testing.assert_close(output.scalars["pixel_accuracy"], accuracy)


def test_a_batch_that_counts_nowhere_has_a_loss_of_zero_and_leaves_finite_gradients(crops: LabelledCrops) -> None:
    task = SegmentationTask(network(), ignored_id=1000).train()
    images, labels = task.prepare(crops.collate([crops[0, 0], crops[0, 2]]), torch.device("cpu"))
    loss = task((images, torch.full_like(labels, 1000)), Progress(0, 1)).loss
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(torch.isfinite(p.grad).all() for p in task.parameters() if p.grad is not None)


def test_training_a_few_steps_lowers_the_loss(crops: LabelledCrops) -> None:
    task = SegmentationTask(network()).train()
    inputs = task.prepare(crops.collate([crops[0, 0], crops[0, 2]]), torch.device("cpu"))
    optimizer = torch.optim.Adam(task.parameters(), lr=0.01)
    losses = []
    for step in range(5):
        optimizer.zero_grad()
        loss = task(inputs, Progress(step, 5)).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_views_reach_the_network_normalised_with_their_geometry() -> None:
    count, batch = 2, 3
    images = torch.randint(0, 256, (count, batch, 3, 16, 16), dtype=torch.uint8)
    rectangles = torch.arange(count * batch * 4).reshape(count, batch, 4).float()
    flips = torch.tensor([[True, False, True], [False, False, True]])
    backbone = build_backbone("test_resnet")
    backbone.set_normalisation((0.4, 0.5, 0.6), (0.1, 0.2, 0.3))
    raw = dataclasses.replace(views_of(images, rectangles=[rectangles], flips=[flips]), indices=torch.tensor([4, 7, 9]))
    views = raw.prepared(torch.device("cpu"), backbone.normalise)
    group = views.groups[0]
    expected = images.float() / 255
    for channel, (mean, std) in enumerate(((0.4, 0.1), (0.5, 0.2), (0.6, 0.3))):
        torch.testing.assert_close(group.images[:, :, channel], (expected[:, :, channel] - mean) / std)
    assert torch.equal(group.rectangles, rectangles)
    assert torch.equal(group.flips, flips)
    assert views.indices.tolist() == [4, 7, 9]
