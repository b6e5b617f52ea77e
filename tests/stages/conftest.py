"""One tiny run of the whole pipeline, shared by the tests of a session."""

from pathlib import Path

import pytest
from running import Launcher
from tiny_run import write_tiny_config

from luss.data.shapes import make_shapes


@pytest.fixture(scope="session")
def luss(tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    """Runs the command `luss` in a process of its own."""
    return Launcher(tmp_path_factory.mktemp("output"))


@pytest.fixture(scope="session")
def shapes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded data set: 60 training and 20 validation pictures of 10 categories; tests must not change it."""
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(folder, num_train=60, num_validation=20, num_test=20, size=64)
    return folder


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory, shapes_folder: Path) -> Path:
    """A configuration whose whole pipeline takes a few seconds."""
    return write_tiny_config(tmp_path_factory.mktemp("config") / "tiny.yaml", shapes_folder)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, luss: Launcher, config: Path) -> Path:
    """The folder of a finished run that was never stopped; tests must not change it."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    outcome = luss("run", str(config), f"output={folder}")
    assert outcome.code == 0, outcome.output
    return folder
