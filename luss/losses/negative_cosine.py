"""Negative cosine similarity: predict the embedding of another view (BYOL, SimSiam)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def negative_cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean over the rows of -cos(prediction, target) (SimSiam, equation 1).

    BYOL's squared distance of unit vectors (equation 2) is 2 + 2 times this.

    Args:
        prediction: (N, D), not normalised.
        target: (N, D), not normalised; no gradient passes through it.

    Returns:
        Scalar in [-1, 1].
    """
    with torch.autocast(prediction.device.type, enabled=False):
        return -F.cosine_similarity(prediction.float(), target.detach().float(), dim=1).mean()
