"""A real SLURM: `make test-slurm` starts one on this machine; without one these tests are skipped."""

import shutil
import subprocess
from pathlib import Path

import pytest
from slurm_cluster import Cluster
from tiny_run import write_tiny_config

CHANGES = """
peer_timeout_min: 2
pretrain: {epochs: 5}
pixel_attention: {epochs: 1}
cluster: {num_restarts: 1}
pseudo_labels: {shard_size: 32}
finetune: {epochs: 1}
predict: {shard_size: 10}
resources:
  default: {nodes: 2, gpus_per_node: 0, tasks_per_node: 1, cpus_per_task: 1, mem_gb: 1, timeout_min: 30, signal_delay_s: 60}
  cluster: {cpus_per_task: 1, mem_gb: 1}
  evaluate: {cpus_per_task: 1, mem_gb: 1}
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
    return Cluster(folder, write_tiny_config(folder / "tiny.yaml", folder / "shapes", CHANGES))
