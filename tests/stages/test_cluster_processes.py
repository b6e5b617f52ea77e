"""The cluster stage under several processes, as torchrun starts them."""

import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from running import Fault, Launcher, losses

from luss.files import read_json

PRODUCTS = {"centroids.npy", "assignments.npy", "cluster.json"}


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A finished run whose clusters are gone."""
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    shutil.rmtree(folder / "cluster")
    return folder


def check_same_clusters(run: Path, finished: Path) -> None:
    assert set(read_json(run / "cluster" / "DONE.json")["products"]) == PRODUCTS
    for name in ("assignments", "centroids"):
        own, alone = (np.load(folder / "cluster" / f"{name}.npy", allow_pickle=False) for folder in (run, finished))
        assert own.dtype == alone.dtype
        np.testing.assert_allclose(own, alone, atol=1e-5)
    own, alone = (read_json(folder / "cluster" / "cluster.json") for folder in (run, finished))
    assert own["cluster_sizes"] == alone["cluster_sizes"]
    assert own["objectives"] == pytest.approx(alone["objectives"], rel=1e-6)
    assert {"nmi", "accuracy"} <= own.keys()


@pytest.mark.parametrize("number", [2, 3])
def test_several_processes_write_the_clusters_of_one(
    luss: Launcher, config: Path, finished: Path, run: Path, number: int
) -> None:
    for outcome in luss.together(number, "cluster", str(config), f"output={run}"):
        assert outcome.code == 0, outcome.output
    check_same_clusters(run, finished)
    # The same lines once, not once a process; the last objectives differ by rounding.
    assert len(losses(run / "cluster")) == len(losses(finished / "cluster"))
    assert not (run / "cluster" / "checkpoints").exists()


def test_asking_one_process_to_stop_stops_both_and_they_continue(
    luss: Launcher, config: Path, finished: Path, run: Path
) -> None:
    # The second process opens the last shard twice to check it, then to look at its rows for the first time.
    fault = Fault("open", "features/shard-00003.npy", 3, signal.SIGTERM)
    outcomes = luss.together(2, "cluster", str(config), f"output={run}", fault=fault)
    assert [outcome.code for outcome in outcomes] == [130, 130], outcomes
    assert (run / "cluster" / "STARTED.json").is_file()
    assert [each.code for each in luss.together(2, "cluster", str(config), f"output={run}")] == [0, 0]
    check_same_clusters(run, finished)


def test_descriptors_of_several_processes_give_the_clusters_of_one(
    luss: Launcher, config: Path, finished: Path, tmp_path: Path
) -> None:
    words = ["extract_features.layout_stages=[0,4]", "extract_features.layout_grid=2"]
    words += ["cluster.layout_dim=12", "cluster.layout_weights=[2.0,1.0]"]
    alone = Path(shutil.copytree(finished, tmp_path / "alone"))
    outcome = luss("run", str(config), *words, f"output={alone}", "--until", "cluster")
    assert outcome.code == 0, outcome.output
    together = Path(shutil.copytree(alone, tmp_path / "together"))
    shutil.rmtree(together / "cluster")
    for each in luss.together(2, "cluster", str(config), *words, f"output={together}"):
        assert each.code == 0, each.output
    for name in ("assignments", "centroids"):
        own, expected = (np.load(run / "cluster" / f"{name}.npy", allow_pickle=False) for run in (together, alone))
        np.testing.assert_allclose(own, expected, atol=1e-5)
