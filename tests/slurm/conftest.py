"""A real SLURM: `make test-slurm` starts one on this machine; without one these tests are skipped."""

import shutil
import subprocess
from pathlib import Path

import pytest
from slurm_cluster import Cluster

SETTINGS = """
name: tiny
device: cpu
peer_timeout_min: 2
data:
  root: shapes
  workers: 0
  shapes: {{folder: {folder}/shapes, num_train: 60, num_validation: 20, size: 64}}
pretrain:
  epochs: 5
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
  {{epochs: 1, batch_size: 20, lr_batch_size: 20, workers: 0, views: {{count: 2, size: 32, scale: [0.3, 1.0]}}, queue_length: 40}}
extract_features: {{resize: 36, crop: 32, shard_size: 16, workers: 0}}
cluster: {{num_clusters: 10, num_restarts: 1}}
pseudo_labels: {{short_side: 32, shard_size: 32, workers: 0}}
finetune: {{epochs: 1, batch_size: 20, size: 32, label_stride: 1, workers: 0, log_every: 1}}
predict: {{short_side: 32, shard_size: 10, workers: 0}}
evaluate: {{workers: 1}}
resources:
  default: {{nodes: 2, gpus_per_node: 0, tasks_per_node: 1, cpus_per_task: 1, mem_gb: 1, timeout_min: 30, signal_delay_s: 60}}
  cluster: {{cpus_per_task: 1, mem_gb: 1}}
  evaluate: {{cpus_per_task: 1, mem_gb: 1}}
"""


def _no_slurm() -> str:
    """Why there is none; empty where one answers."""
    if shutil.which("sinfo") is None:
        return "SLURM is not installed: make test-slurm"
    found = subprocess.run(["sinfo", "-h", "-o", "%P"], capture_output=True, text=True, check=False, timeout=30)
    if found.returncode:
        return f"SLURM does not answer: {found.stderr.strip()}"
    return "" if "low" in found.stdout else "this is not the SLURM of make test-slurm"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips the tests of this folder where they cannot run."""
    own = [item for item in items if Path(__file__).parent in item.path.parents]
    reason = _no_slurm() if own else ""
    for item in own:
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """A configuration that two simulated machines work through in a minute."""
    folder = tmp_path_factory.mktemp("slurm")
    config = folder / "tiny.yaml"
    config.write_text(SETTINGS.format(folder=folder))
    return Cluster(folder, config)
