"""Batch norm over the batches of all processes, on CPU too.

torch's SyncBatchNorm needs CUDA. This one uses differentiable all-reduces, so that a run on two CPU processes gives the numbers of a run
on one; on CUDA torch's own is used.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luss.processes import sum_, world_size


class CpuSyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Drop-in for a batch norm layer whose statistics are those of the global batch. Processes must hold equal shares."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, ...) -> the same shape, normalised by the statistics of all processes in training mode."""
        if not self.training or world_size() == 1:
            state = (self.running_mean, self.running_var, self.weight, self.bias)
            return F.batch_norm(input, *state, self.training, self.momentum or 0.0, self.eps)
        axes = [0, *range(2, input.dim())]
        shape = [1, -1] + [1] * (input.dim() - 2)
        values = input.float()
        mean = sum_(values.mean(dim=axes)) / world_size()
        # A second pass about the global mean: one pass over squares would cancel in float32.
        variance = sum_(((values - mean.view(shape)) ** 2).mean(dim=axes)) / world_size()
        self._update_statistics(mean.detach(), variance.detach(), values.numel() // values.shape[1] * world_size())
        result = (values - mean.view(shape)) * torch.rsqrt(variance + self.eps).view(shape)
        if self.weight is not None and self.bias is not None:
            result = result * self.weight.view(shape) + self.bias.view(shape)
        output: Tensor = result.to(input.dtype)
        return output

    def _update_statistics(self, mean: Tensor, variance: Tensor, count: int) -> None:
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        momentum = self.momentum if self.momentum is not None else 0.1
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * count / max(count - 1, 1), momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


def synchronise_batch_norm(module: nn.Module, device: torch.device) -> nn.Module:
    """Replaces every batch norm of a module by one over all processes; parameters and statistics are kept.

    timm's fused norm-and-activation layers are converted by timm on CUDA; on CPU they keep the statistics of their own process.
    """
    if device.type == "cuda":
        from timm.layers.norm_act import convert_sync_batchnorm

        converted: nn.Module = convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        return converted
    for name, child in module.named_children():
        plain = type(child).forward is nn.modules.batchnorm._BatchNorm.forward
        if plain and isinstance(child, (nn.BatchNorm1d, nn.BatchNorm2d)):
            settings = (child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats)
            norm = CpuSyncBatchNorm(*settings)
            norm.load_state_dict(child.state_dict())
            norm.train(child.training)
            for parameter, own in zip(child.parameters(), norm.parameters(), strict=True):
                own.requires_grad_(parameter.requires_grad)
            setattr(module, name, norm)
        else:
            synchronise_batch_norm(child, device)
    return module
