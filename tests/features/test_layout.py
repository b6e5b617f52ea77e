"""Layout descriptors: cells of maps and gradients, standardised, reduced by a whitened PCA."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from luss.errors import LussError
from luss.features.layout import descriptor_widths, layout_descriptor, oriented_gradients, reduce_descriptors
from luss.features.store import FeatureStore, FeatureWriter
from luss.progress import Interrupted

CHANNELS, GRID = (9, 4), 2


def stored(rows: NDArray[np.float32], folder: Path) -> FeatureStore:
    writer = FeatureWriter(folder, len(rows), rows.shape[1], "float32", 50, "made")
    for shard in writer.missing_shards():
        part = writer.rows_of(shard)
        writer.write_shard(shard, rows[part.start : part.stop])
    return writer.finish()


@pytest.fixture
def rows() -> NDArray[np.float32]:
    generator = np.random.default_rng(0)
    return (generator.random((140, sum(CHANNELS) * GRID**2)) * generator.random(sum(CHANNELS) * GRID**2)).astype(
        np.float32
    )


def naive(rows: NDArray[np.float32], weights: tuple[float, float]) -> NDArray[np.float64]:
    """Standardised and scaled rows, one value at a time."""
    cells = rows.reshape(len(rows), sum(CHANNELS), GRID * GRID).astype(np.float64)
    result = np.zeros_like(cells)
    for channel in range(sum(CHANNELS)):
        values = cells[:, channel]
        result[:, channel] = values if channel < 9 else (values - values.mean()) / values.std()
    for image in result:
        for cell in range(GRID * GRID):
            image[:9, cell] *= weights[0] / GRID / np.linalg.norm(image[:9, cell])
            image[9:, cell] *= weights[1] / GRID / np.linalg.norm(image[9:, cell])
    return np.concatenate([result[:, :9].reshape(len(rows), -1), result[:, 9:].reshape(len(rows), -1)], axis=1)


def test_gradients_fall_into_the_bin_of_their_direction() -> None:
    images = torch.zeros(2, 3, 16, 16)
    images[0, :, :, 8:] = 1  # changes from left to right
    images[1, :, 8:, :] = 1  # changes from top to bottom
    sums = oriented_gradients(images).sum(dim=(2, 3))
    assert sums[0].argmax() == 0
    assert sums[1].argmax() == 4
    assert sums[0].count_nonzero() == sums[1].count_nonzero() == 1


def test_gradients_do_not_see_which_side_is_brighter() -> None:
    images = torch.rand(1, 3, 12, 12)
    assert torch.allclose(oriented_gradients(images), oriented_gradients(1 - images), atol=1e-5)


def test_a_descriptor_holds_each_stage_cell_by_cell() -> None:
    maps = [torch.rand(2, 9, 8, 8), torch.rand(2, 4, 4, 4)]
    descriptor = layout_descriptor(maps, [0, 1], 2)
    assert descriptor.shape == (2, sum(CHANNELS) * 4)
    assert torch.allclose(descriptor[1, :4], maps[0][1, 0].reshape(2, 4, 2, 4).mean(dim=(1, 3)).flatten())
    assert torch.allclose(layout_descriptor(maps, [1], 2), descriptor[:, 36:])


def test_reduced_rows_span_what_a_plain_pca_of_naively_standardised_rows_spans(
    rows: NDArray[np.float32], tmp_path: Path
) -> None:
    weights = (4.0, 1.0)
    store = reduce_descriptors(
        stored(rows, tmp_path / "raw"),
        tmp_path / "reduced",
        channels=CHANNELS,
        weights=weights,
        grid=GRID,
        dim=5,
        whitening=0.0,
    )
    expected = PCA(5).fit_transform(naive(rows, weights))
    found = store.read(0, len(rows))
    # Signs of components are arbitrary.
    assert np.allclose(np.abs(found), np.abs(expected), atol=2e-3)


def test_whitening_divides_by_that_power_of_the_deviation(rows: NDArray[np.float32], tmp_path: Path) -> None:
    raw = stored(rows, tmp_path / "raw")
    found = {
        power: reduce_descriptors(
            raw, tmp_path / str(power), channels=CHANNELS, weights=(1.0, 1.0), grid=GRID, dim=4, whitening=power
        ).read(0, len(rows))
        for power in (0.0, 0.5, 1.0)
    }
    deviation = found[0.0].std(axis=0, ddof=1)
    assert np.allclose(found[1.0].std(axis=0, ddof=1), 1, atol=1e-3)
    assert np.allclose(found[0.5], found[0.0] / deviation**0.5, rtol=1e-3, atol=1e-4)


def test_a_stop_leaves_nothing_that_counts_and_the_next_run_finishes(rows: NDArray[np.float32], tmp_path: Path) -> None:
    raw = stored(rows, tmp_path / "raw")

    def stop() -> None:
        raise Interrupted("asked")

    arguments = {"channels": CHANNELS, "weights": (1.0, 1.0), "grid": GRID, "dim": 4, "whitening": 0.5}
    with pytest.raises(Interrupted):
        reduce_descriptors(raw, tmp_path / "reduced", check=stop, **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "reduced" / "store.json").exists()
    assert len(reduce_descriptors(raw, tmp_path / "reduced", **arguments)) == len(rows)  # type: ignore[arg-type]


def test_more_components_than_images_are_refused_by_name(rows: NDArray[np.float32], tmp_path: Path) -> None:
    with pytest.raises(LussError, match="layout_dim is 20 for 10 descriptors"):
        reduce_descriptors(
            stored(rows[:10], tmp_path / "raw"),
            tmp_path / "r",
            channels=CHANNELS,
            weights=(1, 1),
            grid=GRID,
            dim=20,
            whitening=0.5,
        )


def test_a_stage_that_the_backbone_lacks_is_named() -> None:
    assert descriptor_widths([0, 3], (8, 16, 32)) == [9, 32]
    with pytest.raises(LussError, match=r"layout_stages names stage 4, but the backbone has the stages 1 to 3"):
        descriptor_widths([4], (8, 16, 32))
