"""Clusters from layout descriptors (configs/objects27_cpu.yaml): a run that is killed on that path ends with the bits of one that never stopped."""

import signal
from pathlib import Path

import pytest
from running import Fault, Launcher, copy_until, results
from tiny_run import write_tiny_config

from luss.config import load_config
from luss.settings.fields import changing_settings

# What objects27_cpu.yaml sets beside the sizes and lengths of the run, in small.
CHANGES = """
pixel_attention: {saliency: {weight: 4.0, centre: 0.6}}
extract_features: {layout_stages: [0, 4], layout_grid: 3, layout_mirror: true}
cluster: {layout_dim: 8, layout_weights: [2.0, 1.0]}
pseudo_labels: {image_weight: 1.0, saliency: 1.0}
predict: {total_foreground: true, image_weight: 1.0}
"""
# Shard 1 of the pooled vectors is on disk and that of the descriptors is not; then two of four shards of the reduced descriptors are.
KILLS = (
    Fault("os.rename", "extract_features/layout/shard-00001.npy"),
    Fault("os.rename", "cluster/layout/shard-00002.npy"),
)


@pytest.fixture(scope="module")
def layout_config(tmp_path_factory: pytest.TempPathFactory, shapes_folder: Path) -> Path:
    """The tiny configuration with clusters from descriptors."""
    return write_tiny_config(tmp_path_factory.mktemp("config") / "layout.yaml", shapes_folder, CHANGES)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, luss: Launcher, layout_config: Path, finished: Path) -> Path:
    """A run over the pretraining of the finished one that was never stopped."""
    run = copy_until(finished, tmp_path_factory.mktemp("whole"), "pixel_attention")
    outcome = luss("run", str(layout_config), f"output={run}")
    assert outcome.code == 0, outcome.output
    return run


def test_the_tiny_configuration_turns_on_what_the_shipped_one_does(layout_config: Path) -> None:
    shipped = load_config(Path(__file__).parents[2] / "configs" / "objects27_cpu.yaml")
    small = load_config(layout_config)
    for stage, keys in {
        "pixel_attention": ("saliency.weight", "saliency.centre"),
        "extract_features": ("layout_stages", "layout_mirror", "layout_grid"),
        "cluster": ("layout_dim", "layout_weights"),
        "pseudo_labels": ("image_weight", "saliency"),
        "predict": ("total_foreground", "image_weight"),
    }.items():
        own = changing_settings(getattr(small, stage))
        found = changing_settings(getattr(shipped, stage))
        assert set(keys) <= set(own)
        # Lists and switches as shipped; the numbers are smaller.
        assert {key: own[key] for key in keys if key not in ("layout_grid", "layout_dim")} == {
            key: found[key] for key in keys if key not in ("layout_grid", "layout_dim")
        }


def test_killed_among_layout_descriptors_a_run_ends_with_the_same_bits_as_one_that_was_never_stopped(
    luss: Launcher, layout_config: Path, whole: Path, finished: Path, tmp_path: Path
) -> None:
    run = copy_until(finished, tmp_path, "pixel_attention")
    for fault in KILLS:
        outcome = luss("run", str(layout_config), f"output={run}", fault=fault)
        assert outcome.code == -signal.SIGKILL, f"{fault} never came:\n{outcome.output}"
        assert not (run / fault.path).exists()
    # The reduced descriptors that were finished are not made again.
    kept = [run / "cluster" / "layout" / f"shard-0000{shard}.npy" for shard in (0, 1)]
    times = [path.stat().st_mtime_ns for path in kept]
    outcome = luss("run", str(layout_config), f"output={run}")
    assert outcome.code == 0, outcome.output
    found, expected = results(run), results(whole)
    assert sum("/layout/shard-" in name for name in expected) == 8
    assert found == expected
    assert [path.stat().st_mtime_ns for path in kept] == times
    # The descriptors decide: without them the clusters are others.
    assert found["cluster/assignments.npy"] != results(finished)["cluster/assignments.npy"]
