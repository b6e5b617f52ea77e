"""Label maps from logits in strips: the same as at full size, in bounded memory."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from luss.models import segmenter
from luss.models.build import build_backbone
from luss.models.segmenter import (
    SegmentationNetwork,
    compared_size,
    enlarged,
    label_map,
    label_map_with_confidence,
)


def random_logits(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def whole(logits: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]


@pytest.mark.parametrize("strip_elements", [1, 5 * 40 * 3, 8_000_000])
@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((5, 7, 9), (33, 40)),
        ((3, 4, 4), (4, 4)),
        ((4, 1, 1), (5, 6)),
        ((6, 9, 5), (3, 2)),
        ((2, 3, 8), (50, 1)),
        ((5, 2, 3), (40, 60)),
    ],
)
def test_label_maps_equal_the_argmax_of_resized_logits(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], size: tuple[int, int], strip_elements: int
) -> None:
    monkeypatch.setattr(segmenter, "_STRIP_ELEMENTS", strip_elements)
    logits = random_logits(*shape)
    result = label_map(logits, size)
    assert result.dtype == torch.int64
    assert torch.equal(result, whole(logits, size).argmax(dim=0))


class LargestTensor(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers the largest result of any operation, in numbers."""

    numel = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                self.numel = max(self.numel, tensor.numel())
        return result


def test_many_classes_on_a_large_image_never_hold_all_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmenter, "_STRIP_ELEMENTS", 400_000)
    with LargestTensor() as largest:  # type: ignore[no-untyped-call]
        result = label_map(random_logits(92, 10, 10), (600, 300))
    assert result.shape == (600, 300)
    # At once they would be 16.6 million.
    assert 0 < largest.numel <= 400_000


def test_a_strip_of_the_real_size_is_at_most_32_megabytes() -> None:
    with LargestTensor() as largest:  # type: ignore[no-untyped-call]
        label_map(random_logits(920, 8, 94), (20, 3000))
    assert largest.numel * 4 <= 32e6


@pytest.mark.parametrize("strip_elements", [1, 5 * 40 * 3, 8_000_000])
def test_confidence_is_the_softmax_probability_of_the_class_that_was_chosen(
    monkeypatch: pytest.MonkeyPatch, strip_elements: int
) -> None:
    monkeypatch.setattr(segmenter, "_STRIP_ELEMENTS", strip_elements)
    logits = 5 * random_logits(5, 7, 9)
    labels, confidence = label_map_with_confidence(logits, (33, 40))
    assert torch.equal(labels, label_map(logits, (33, 40)))
    assert confidence.dtype == torch.float32
    torch.testing.assert_close(confidence, whole(logits, (33, 40)).softmax(dim=0).amax(dim=0))
    assert float(confidence.max()) <= 1
    assert float(confidence.min()) >= 1 / 5


@pytest.mark.parametrize("classes", [30, 920])
def test_confidence_among_many_classes_falls_to_one_share_of_them(classes: int) -> None:
    logits = random_logits(classes, 4, 5)
    logits[:, 0] = 0.0  # says nothing
    _, confidence = label_map_with_confidence(logits, (4, 5))
    torch.testing.assert_close(confidence[0], torch.full((5,), 1 / classes))
    torch.testing.assert_close(confidence, logits.softmax(dim=0).amax(dim=0))


def test_confidence_leaves_the_logits_as_they_are() -> None:
    logits = random_logits(5, 4, 4)
    before = logits.clone()
    label_map_with_confidence(logits, (4, 4))
    assert torch.equal(logits, before)


def test_confidence_of_many_classes_on_a_large_image_never_holds_all_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmenter, "_STRIP_ELEMENTS", 400_000)
    with LargestTensor() as largest:  # type: ignore[no-untyped-call]
        label_map_with_confidence(random_logits(92, 10, 10), (600, 300))
    assert 0 < largest.numel <= 400_000


def test_a_photograph_20_000_pixels_wide_with_919_clusters_holds_at_most_one_row_of_logits() -> None:
    with LargestTensor() as largest:  # type: ignore[no-untyped-call]
        labels, _ = label_map_with_confidence(random_logits(920, 2, 94), (3, 20_000))
    assert labels.shape == (3, 20_000)
    # 74 MB, where all rows of such a photograph would take a terabyte.
    assert largest.numel <= 920 * 20_000


@pytest.mark.parametrize("max_pixels", [0, 30 * 40])
def test_small_images_are_compared_at_full_size(max_pixels: int) -> None:
    assert compared_size((30, 40), max_pixels) == (30, 40)


@pytest.mark.parametrize("size", [(60, 20), (20, 60), (200, 2), (41, 37)])
def test_large_images_are_compared_at_a_reduced_size(size: tuple[int, int]) -> None:
    height, width = compared_size(size, 300)
    assert height * width <= 300
    assert height * width > 0.75 * 300 or min(height, width) == 1
    assert 0.5 < (height / width) / (size[0] / size[1]) < 2


@pytest.mark.parametrize("dtype", [torch.int16, torch.int64, torch.float32])
@pytest.mark.parametrize(("before", "after"), [((3, 5), (7, 11)), ((1, 1), (4, 2)), ((4, 6), (4, 6)), ((9, 4), (3, 2))])
def test_maps_are_enlarged_by_nearest_neighbour(
    before: tuple[int, int], after: tuple[int, int], dtype: torch.dtype
) -> None:
    values = torch.arange(before[0] * before[1]).reshape(before)
    result = enlarged(values.to(dtype), after)
    assert result.dtype == dtype
    assert torch.equal(result.double(), F.interpolate(values[None, None].double(), size=after, mode="nearest")[0, 0])


def test_the_network_scores_background_and_every_cluster() -> None:
    network = SegmentationNetwork(build_backbone("test_resnet", output_stride=16), 7).eval()
    with torch.no_grad():
        images = torch.randn(2, 3, 64, 32)
        logits = network(images)
        assert logits.shape == (2, 8, 4, 2)
        features = network.backbone(images).last
        expected = torch.einsum("blhw,cl->bchw", features, network.head.weight[:, :, 0, 0])
    bias = network.head.bias
    assert bias is not None
    torch.testing.assert_close(logits, expected + bias.detach()[:, None, None], atol=1e-4, rtol=1e-4)
