"""One tiny run of the whole pipeline, shared by the tests of a session."""

from pathlib import Path

import pytest
from running import Launcher

from luss.data.shapes import make_shapes

TINY = """
name: tiny
device: cpu
data:
  root: shapes
  workers: 0
  shapes: {{folder: {shapes}, num_train: 60, num_validation: 20, size: 64}}
pretrain:
  epochs: 2
  backbone: {{name: test_resnet}}
  batch_size: 20
  lr: 0.001
  final_lr: 0.00001
  lr_batch_size: 20
  optimizer: adamw
  workers: 0
  log_every: 1
  global_views: {{count: 2, size: 32, scale: [0.3, 1.0]}}
  local_views: {{count: 0}}
  clustering:
    {{num_prototypes: 16, embedding_dim: 32, hidden_dim: 64, queue_length: 40, queue_start_epoch: 1, freeze_prototypes_steps: 2}}
  pass_s: {{grid_size: 2}}
pixel_attention:
  epochs: 2
  batch_size: 20
  lr_batch_size: 20
  workers: 0
  log_every: 1
  views: {{count: 2, size: 32, scale: [0.3, 1.0]}}
  queue_length: 40
extract_features: {{resize: 36, crop: 32, shard_size: 16, workers: 0}}
cluster: {{num_clusters: 10, num_restarts: 2}}
pseudo_labels: {{short_side: 32, shard_size: 16, workers: 0}}
finetune: {{epochs: 2, batch_size: 20, size: 32, label_stride: 1, workers: 0, log_every: 1}}
predict: {{short_side: 32, shard_size: 8, workers: 0}}
evaluate: {{workers: 1}}
"""


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
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(TINY.format(shapes=shapes_folder), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, luss: Launcher, config: Path) -> Path:
    """The folder of a finished run that was never stopped; tests must not change it."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    outcome = luss("run", str(config), f"output={folder}")
    assert outcome.code == 0, outcome.output
    return folder
