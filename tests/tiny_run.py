"""A configuration whose whole pipeline takes a few seconds."""

from pathlib import Path

from omegaconf import OmegaConf

TINY = """
name: tiny
device: cpu
data:
  root: shapes
  workers: 0
  shapes: {num_train: 60, num_validation: 20, size: 64}
pretrain:
  epochs: 2
  # With residual branches that start at 1 rounding errors grow a hundredfold a step: several processes could not be compared with one.
  backbone: {name: test_resnet, zero_init_residual: true}
  batch_size: 20
  lr: 0.001
  final_lr: 0.00001
  lr_batch_size: 20
  optimizer: adamw
  workers: 0
  log_every: 1
  method:
    name: pass_s
    global_views: {count: 2, size: 32, scale: [0.3, 1.0]}
    local_views: {count: 0}
    clustering:
      {num_prototypes: 16, embedding_dim: 32, hidden_dim: 64, queue_length: 40, queue_start_epoch: 1, freeze_prototypes_steps: 2}
    grid_size: 2
pixel_attention:
  epochs: 2
  batch_size: 20
  lr_batch_size: 20
  workers: 0
  log_every: 1
  views: {count: 2, size: 32, scale: [0.3, 1.0]}
  queue_length: 40
  head: {num_prototypes: 16, embedding_dim: 32, hidden_dim: 64}
extract_features: {resize: 36, crop: 32, shard_size: 16, workers: 0}
cluster: {num_clusters: 10, num_restarts: 2}
pseudo_labels: {short_side: 32, shard_size: 16, workers: 0}
finetune: {epochs: 2, batch_size: 20, size: 32, label_stride: 1, workers: 0, log_every: 1}
predict: {short_side: 32, shard_size: 8, workers: 0}
evaluate: {workers: 1}
"""


def write_tiny_config(path: Path, shapes: Path, changes: str = "") -> Path:
    """Writes the configuration to `path`, with `changes` (YAML) laid over it; the embedded data are, or will be, in `shapes`."""
    folder = {"data": {"shapes": {"folder": str(shapes)}}}
    OmegaConf.save(OmegaConf.merge(OmegaConf.create(TINY), folder, OmegaConf.create(changes)), path)
    return path
