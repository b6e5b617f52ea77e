"""Running a backbone over a batch of views."""

import torch
from torch import Tensor

from luss.methods.base import Views
from luss.models.backbone import Backbone


def backbone_views(backbone: Backbone, views: Views) -> list[list[Tensor]]:
    """Feature maps of every view group; views of one size share one forward pass.

    Returns:
        One list a group: its stage maps, shallow to deep, each (count * B, L_s, H_s, W_s), views one after another.
    """
    return [list(backbone(torch.cat(group)).maps) for group in views.groups]


def pool(features: Tensor) -> Tensor:
    """Global average pooling: (B, L, H, W) -> (B, L)."""
    return features.mean(dim=(2, 3))
